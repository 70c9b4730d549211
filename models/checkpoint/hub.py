"""Where checkpoints are: a local folder, the Hugging Face hub, or this package."""

import os
import re
from importlib import resources
from pathlib import Path

from pure.models.checkpoint.reading import shortened
from pure.models.errors import CheckpointError

__all__ = ["DESCRIPTION", "EVERYTHING", "embedded", "locate"]

INDEX = "model_index.json"
DESCRIPTION = (INDEX, "*/*.json")  # what `describe` reads
# Pickles and the single-file checkpoints beside model_index.json stay where they are.
EVERYTHING = (*DESCRIPTION, "*/*.safetensors", "*/*.txt", "*/*.model", "*/*.jinja")
CACHED = "models--"  # how folders begin in the cache of the hub
SINGLE = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
WHOLE = f"a checkpoint is a folder as diffusers' save_pretrained writes it: {INDEX} beside a folder for each component"
LONGEST = 255  # bytes of one name in a path: what file systems take
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def embedded() -> Path:
    """Return the folder of the checkpoint that comes with the package: 64 x 64 pixel emoji.

    Raises:
        CheckpointError: the package was installed without it, or is not in a folder of its own.

    >>> embedded().name
    'emoji'
    """
    folder = resources.files("pure.models") / "emoji"
    if not isinstance(folder, Path) or not folder.is_dir():
        raise CheckpointError(f"the embedded checkpoint is not at {folder}; install puredit unpacked, from its wheel")
    return folder


def locate(source: str | os.PathLike[str], patterns: tuple[str, ...] = EVERYTHING) -> Path:
    """Return a local folder for a folder or a hub id, downloading files that match `patterns`.

    Raises:
        CheckpointError: there is no such folder, or the hub does not give it.
    """
    try:
        folder = Path(source).expanduser()
    except RuntimeError:  # ~name of a user that is not known
        folder = Path(source)
    if (
        "\0" in str(source)
        or len(os.fsencode(folder)) > 4000
        or any(len(os.fsencode(part)) > LONGEST for part in folder.parts)
    ):
        raise CheckpointError(f"{str(source)[:40]!r}... is no path; pass a folder that exists, or a hub id owner/name")
    if folder.is_dir():
        return _pipeline_folder(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; {_of_file(folder)}")
    if _is_path(source):
        raise CheckpointError(f"there is no folder {str(source)!r}; pass a folder that exists, or a hub id owner/name")
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"there is no folder {str(source)!r}, and a hub id has the form owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"there is no folder {str(source)!r}, and the Hugging Face hub does not give it ({reason}); "
            "pass a local folder, or download it where there is a connection"
        ) from error


def _pipeline_folder(folder: Path) -> Path:
    """Return the folder that holds `model_index.json`: this one, or the snapshot of a cache of the hub.

    Raises:
        CheckpointError: it does not; with the folder that does, if one is near.
    """
    if (folder / INDEX).is_file():
        return folder
    if folder.name == "snapshots" and folder.parent.name.startswith(CACHED):
        folder = folder.parent
    if folder.name.startswith(CACHED) and (folder / "snapshots").is_dir():
        return _snapshot(folder)
    raise CheckpointError(f"{folder / INDEX} is missing; {_of_folder(folder)}")


def _snapshot(cache: Path) -> Path:
    """Return the snapshot that the main branch names, or the only one."""
    snapshots = sorted(path for path in (cache / "snapshots").iterdir() if path.is_dir())
    main = cache / "refs" / "main"
    if main.is_file():
        named = cache / "snapshots" / main.read_text(encoding="utf-8").strip()
        if named not in snapshots:
            raise CheckpointError(f"{main} names {named}, which is not there; download the checkpoint again")
        return named
    if len(snapshots) != 1:
        names = shortened([str(path) for path in snapshots]) or "nothing"
        raise CheckpointError(f"{cache} has no refs/main and {len(snapshots)} snapshots ({names}); pass one of them")
    return snapshots[0]


def _of_folder(folder: Path) -> str:
    """Return what a folder without `model_index.json` is, and which folder to pass."""
    for above in list(folder.absolute().parents)[:2]:
        if (above / INDEX).is_file():
            return f"it is a part of the checkpoint {above}; pass that folder"
    below = sorted({*folder.glob(f"*/{INDEX}"), *folder.glob(f"*/*/{INDEX}")})
    below = [file.parent for file in below] + sorted(folder.glob(f"{CACHED}*"))
    if below:
        return f"pass a folder in it: {shortened([str(path) for path in below])}"
    if singles := sorted(path.name for path in folder.glob("*") if path.suffix in SINGLE):
        parts = "the weights of one component" if (folder / "config.json").is_file() else "a single-file checkpoint"
        return f"it holds {shortened(singles)}, {parts}; {WHOLE}"
    return WHOLE


def _of_file(file: Path) -> str:
    """Return what a file is, and which folder to pass."""
    for above in list(file.absolute().parents)[:2]:
        if (above / INDEX).is_file():
            return f"pass the folder of its checkpoint, {above}"
    if file.suffix == ".gguf":
        return f"its weights are quantised (GGUF), which is not read; {WHOLE}"
    if file.suffix in SINGLE:
        return f"single-file checkpoints are not read: load it with diffusers' from_single_file; {WHOLE}"
    return f"pass the folder that holds {INDEX}; {WHOLE}"


def _is_path(source: str | os.PathLike[str]) -> bool:
    """Whether a source can only be meant as a path, so that it is never looked up at the hub.

    >>> [_is_path(source) for source in ("./flux", "../flux", "~/flux", "/flux", "flux/", "owner/flux")]
    [True, True, True, True, True, False]
    """
    text = os.fspath(source)
    return not isinstance(source, str) or text.startswith((".", "~", os.sep)) or text.endswith((os.sep, "/"))
