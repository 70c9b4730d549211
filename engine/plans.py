"""Tuned plans by name: a checkpoint may have some beside its weights, in a folder `plans`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import pure
from pure.configs import build, load_config, resolve
from pure.configs.layer import SECOND
from pure.configs.tuned import TunedFor
from pure.engine.errors import Misuse
from pure.engine.tuned import differs
from pure.notes import Note

if TYPE_CHECKING:
    from pure.models.family import Description

__all__ = ["LoadedPlan", "find_plan", "load_plan"]

FOLDER = "plans"


@attrs.frozen(kw_only=True)
class LoadedPlan:
    """A tuned plan that was read from its file.

    Attributes:
        transform: of the denoiser, or one for each component where the file has a second expert.
        made_for: what it fits, and how near it came; None where the file does not say it.
    """

    transform: pure.Transform | Mapping[str, pure.Transform]
    made_for: TunedFor | None

    def differs(self, **known: Any) -> tuple[Note, ...]:
        """Say in what a run differs from what it was made for; what is not known of the run is not compared."""
        return () if self.made_for is None else differs(self.made_for, known)


def load_plan(file: str | Path) -> LoadedPlan:
    """Read the file of a tuned plan, for `pure.accelerate(pipe, pure.load_plan("plan.yaml"))`.

    Args:
        file: as `puredit tune` and `TunedPlan.save` write it, or any file with a cache.

    Raises:
        ConfigError: there is no such file, it is wrong, or sets what cannot be done here; lists all of it.

    >>> load_plan("cache.yaml").made_for is None
    True
    """
    layer = load_config(file)
    effective = resolve(file=layer)
    second = any(path.startswith(SECOND) for path in layer.settings)
    first = build(effective)
    transform = {"transformer": first, "transformer_2": build(effective, "secondary")} if second else first
    return LoadedPlan(transform=transform, made_for=effective.tuned)


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
