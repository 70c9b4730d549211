"""Reading JSON, and naming many things in few words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pure.models.errors import CheckpointError

__all__ = ["SHOWN", "read_json", "shortened"]

SHOWN = 4
"""Names that an error lists of many."""


def read_json(file: Path) -> dict[str, Any]:
    """Return the contents of a JSON file that holds an object.

    Raises:
        CheckpointError: there is no such file, or it is something else.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; a checkpoint is a folder as diffusers' save_pretrained writes it")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}; download it again") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} should hold an object and holds a {type(found).__name__}")
    return found


def shortened(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are.

    >>> shortened(["a", "b"]), shortened([str(i) for i in range(9)])
    ('a, b', '0, 1, 2, 3 and 5 more')
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
