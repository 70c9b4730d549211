"""A tuned plan that is read from its file, for pipelines that are not of this package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

import pure
from pure.configs import build, load_config, resolve
from pure.configs.layer import SECOND
from pure.configs.tuned import TunedFor
from pure.engine.checkpoint import look
from pure.engine.plans import plans_of
from pure.engine.tuned import differs
from pure.notes import Note

__all__ = ["LoadedPlan", "load_plan"]


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
        file: as `puredit tune` and `TunedPlan.save` write it, or any file with a cache; or the name of one of the
            packaged checkpoint's plans, such as "fast".

    Raises:
        ConfigError: there is no such file, it is wrong, or sets what cannot be done here; lists all of it.

    >>> load_plan("fast").made_for.computed
    11
    """
    layer = load_config(file, named=plans_of(look(None).found))
    effective = resolve(file=layer)
    second = any(path.startswith(SECOND) for path in layer.settings)
    first = build(effective)
    transform = {"transformer": first, "transformer_2": build(effective, "secondary")} if second else first
    return LoadedPlan(transform=transform, made_for=effective.tuned)
