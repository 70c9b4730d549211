"""What a run computed and skipped, counted from the `Info` of its steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from pure.info import Decision, Info

__all__ = ["Tally", "quantiles", "tally"]


@attrs.frozen(kw_only=True)
class Tally:
    """What one guidance branch did; step numbers count from 0 over the whole run.

    Attributes:
        computed: the computed steps.
        skipped: the skipped steps.
        computed_because: how often each rule decided to compute.
        skipped_because: how often each rule decided to skip.
        changes: the measured changes.
        blocks_run: blocks run.
        blocks: blocks that a run without a cache runs.
    """

    computed: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    computed_because: Counter[str] = attrs.field(factory=Counter)
    skipped_because: Counter[str] = attrs.field(factory=Counter)
    changes: tuple[float, ...] = ()
    blocks_run: int = 0
    blocks: int = 0

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.computed) + len(self.skipped)

    @property
    def limit(self) -> float:
        """The speed-up that the plan allows: all blocks / blocks run."""
        return self.blocks / self.blocks_run if self.blocks_run else 1.0

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both runs together."""
        fields = {name: getattr(self, name) + getattr(other, name) for name in attrs.fields_dict(Tally)}
        return Tally(**fields)


def tally(infos: Sequence[Info]) -> dict[str, Tally]:
    """Count by guidance branch, the conditional one first."""
    branches: dict[str, list[tuple[int, Decision]]] = {}
    for position, info in enumerate(infos):
        for decision in info.decisions:
            branches.setdefault(decision.branch, []).append((position, decision))
    return {name: _count(rows) for name, rows in branches.items()}


def _count(rows: list[tuple[int, Decision]]) -> Tally:
    every = max(decision.blocks for _, decision in rows)  # the first step of a run is always computed
    return Tally(
        computed=tuple(position for position, decision in rows if decision.computed),
        skipped=tuple(position for position, decision in rows if not decision.computed),
        computed_because=Counter(decision.reason for _, decision in rows if decision.computed),
        skipped_because=Counter(decision.reason for _, decision in rows if not decision.computed),
        changes=tuple(decision.change for _, decision in rows if decision.change is not None),
        blocks_run=sum(decision.blocks for _, decision in rows),
        blocks=every * len(rows),
    )


def quantiles(values: Iterable[float]) -> tuple[float, float, float, float, float] | None:
    """Return minimum, quartiles and maximum, None of nothing.

    >>> quantiles([4, 1, 2, 3, 5])
    (1, 2.0, 3.0, 4.0, 5)
    """
    ordered = sorted(values)
    if not ordered:
        return None

    def at(fraction: float) -> float:
        place = fraction * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))

    return ordered[0], at(0.25), at(0.5), at(0.75), ordered[-1]
