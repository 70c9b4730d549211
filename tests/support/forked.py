"""Commands of puredit in processes of their own that import nothing: forks of this one, which has imported all.

process = forked.start(["generate", "--prompt", "a"], tmp_path)
assert process.wait() == 0, process.err
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from pure.cli.main import main
from pure.distributed.launch import _import_what_ranks_need

LIMIT = 120.0  # seconds
UNWRITTEN = 120  # the exit code of a Python that cannot write what it holds back at its end


@attrs.frozen(eq=False)
class Command:
    """A command that was started.

    Attributes:
        process: what began as a fork, the first of a group of its own.
        out, err: the files of what it prints.
    """

    process: Any
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        """Return the exit code; None if there is none after `LIMIT` seconds."""
        self.process.join(LIMIT)
        return self.process.exitcode


@contextlib.contextmanager
def command(words: Sequence[str], folder: Path, out: Path | None = None) -> Iterator[Command]:
    """Start `puredit WORDS` in a folder; what it prints goes to files there, or to `out`. Kill it at the end."""
    started = start(words, folder, out)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.join()


def start(
    words: Sequence[str], folder: Path, out: Path | None = None, environ: Mapping[str, str] | None = None
) -> Command:
    """Start a command, in another environment if one is given; who calls this ends it."""
    _import_what_ranks_need()
    out, err = out or folder / "said", folder / "complained"
    for path in (out, err):
        path.touch()
    return Command(begin(_be, list(words), folder, out, err, environ), out, err)


def begin(function: Callable[..., None], *args: Any) -> Any:
    """Call a function in a fork of this process; return that process."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    with warnings.catch_warnings():
        # Newer Pythons warn of a fork beside threads; the child uses none of its parent's.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def _be(words: list[str], folder: Path, out: Path, err: Path, environ: Mapping[str, str] | None) -> None:
    """Run in the child: be as a Python that was started for `python -m pure.cli.main WORDS`."""
    os.setsid()
    os.chdir(folder)
    if environ is not None:
        os.environ.clear()
        os.environ.update(environ)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in its background ignore it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = ["puredit", *words]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError:
        code = UNWRITTEN
    os._exit(code)
