"""Where checkpoints are: a local folder, the Hugging Face hub, or this package."""

import os
import re
from importlib import resources
from pathlib import Path

from pure.models.errors import CheckpointError

DESCRIPTION = ("model_index.json", "*/*.json")
# Pickles and the single-file checkpoints beside model_index.json stay where they are.
EVERYTHING = (*DESCRIPTION, "*/*.safetensors", "*/*.txt", "*/*.model", "*/*.jinja")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(
            f"{folder} is a file; pass the folder that holds model_index.json "
            "(single-file checkpoints: load them with diffusers' from_single_file and save_pretrained a folder)"
        )
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
