"""Tuned plans by name: a checkpoint may have some beside its weights, in a folder `plans`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pure.engine.errors import Misuse

if TYPE_CHECKING:
    from pure.models.family import Description

__all__ = ["find_plan", "plans_of"]

FOLDER = "plans"


def plans_of(found: Description) -> dict[str, Path]:
    """Return the files of a checkpoint's own plans by name, in the order of the names."""
    return {file.stem: file for file in sorted((found.folder / FOLDER).glob("*.yaml"))}


def find_plan(plan: str, found: Description) -> Path:
    """Return the file of a plan: a path, or the name of one of the checkpoint's own.

    Raises:
        Misuse: there is neither such a file nor such a plan.
    """
    path = Path(plan)
    if path.is_file():
        return path
    own = plans_of(found)
    if plan in own:
        return own[plan]
    there = f"plans of this checkpoint: {', '.join(own)}" if own else "this checkpoint comes without plans"
    raise Misuse(f"--plan {plan}: there is no such file; {there}; puredit tune makes one")
