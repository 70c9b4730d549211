"""Tuned plans by name: a checkpoint may have some beside its weights, in a folder `plans`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pure.engine.errors import Misuse

if TYPE_CHECKING:
    from pure.models.family import Description

__all__ = ["find_plan"]

FOLDER = "plans"


def find_plan(plan: str, found: Description) -> Path:
    """Return the file of a plan: a path, or the name of one of the checkpoint's own.

    Raises:
        Misuse: there is neither such a file nor such a plan.
    """
    path = Path(plan)
    if path.is_file():
        return path
    own = sorted(file.stem for file in (found.folder / FOLDER).glob("*.yaml"))
    if plan in own:
        return found.folder / FOLDER / f"{plan}.yaml"
    there = f"plans of this checkpoint: {', '.join(own)}" if own else "this checkpoint comes without plans"
    raise Misuse(f"--plan {plan}: there is no such file; {there}; puredit tune makes one")
