"""Writing files whole or not at all."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pure.checks import cut
from pure.engine.errors import Failure, Misuse

__all__ = ["check_file", "check_files", "check_folder", "write_whole"]

CURES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.EEXIST: "there is a file of that name; choose another folder",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EISDIR: "there is a folder of that name; choose another file name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "choose a folder that can be made",
}


def explain(action: str, path: Path, error: OSError) -> Failure:
    """Return the error that says what could not be written, why, and what to do."""
    cure = CURES.get(error.errno or 0)
    reason = error.strerror or error
    return Failure(f"cannot {action} {cut(str(path))}: {reason}" + (f"; {cure}" if cure else ""), code="storage_failed")


def check_folder(folder: Path, flag: str) -> None:
    """Check that a file can be written into the folder, which is made by the first file where it is not there.

    Raises:
        Failure: it cannot; the message names the flag and the reason.
    """
    made: list[Path] = []
    try:
        for each in reversed([folder, *folder.parents]):
            if not each.is_dir():
                each.mkdir()
                made.append(each)
        with tempfile.TemporaryFile(dir=folder, prefix=".puredit-"):
            pass
    except OSError as error:
        raise explain(f"write into {flag}", folder, error) from error
    finally:  # what is refused later leaves no empty folder behind
        for each in reversed(made):
            with contextlib.suppress(OSError):  # another process writes into it already
                each.rmdir()


def check_file(path: Path, flag: str) -> None:
    """Check that a file can be written here: see `check_folder`; what is there already must be an ordinary file."""
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, or a folder that is a file
        raise explain(f"write {flag}", path, error) from error
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file"
        raise Failure(f"cannot write {flag} {path}: it is {kind}; choose another name")
    check_folder(path.parent, f"the folder of {flag}")


def check_files(files: Mapping[str, Path | None], read: Mapping[str, Path | None] = {}) -> None:
    """Check files by what names them: see `check_file`; and that none would replace another, or one that is read.

    Args:
        files: that are written.
        read: that are only read.

    Raises:
        Misuse: two are one file.
        Failure: one cannot be written.
    """
    taken = {os.path.realpath(path): flag for flag, path in read.items() if path is not None}
    for flag, path in files.items():
        if path is None:
            continue
        if (other := taken.setdefault(os.path.realpath(path), flag)) != flag:
            raise Misuse(f"{flag} and {other} are one file, {path}; give another name")
        check_file(path, flag)


def write_whole(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path` and move it there once it is complete on the disk.

    Whatever goes wrong, an interruption included, `path` is what it was before and no
    temporary file stays.

    Raises:
        Failure: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        raise Failure(f"cannot write {path}: it is no ordinary file and would be replaced; choose another name")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise explain("write", path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
