"""The memory between steps: the ledger, the cache and the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch

from pure.block import Tree
from pure.info import Decision
from pure.tree import state, static


@attrs.frozen(slots=True)
class Memory:
    """What the rules and predictors remember of one row, as Python numbers.

    Attributes:
        skipped: steps skipped so far.
        streak: steps skipped since the last computed one.
        computed: steps computed so far.
        first: index of the first computed step, -1 before it.
        accumulated: sum of the changes accepted since the last computed step.
        size: what a change is relative to, -1 while it is not known: the sum of the absolute front residual at the
            last computed step; of a probe with `gain`, how much of a change makes the prediction change by all of it;
            of one that verifies, the relative error of the last skipped step.
        times: indices of the last K computed steps, newest first, -1 where there is none yet.
    """

    skipped: int
    streak: int
    computed: int
    first: int
    accumulated: float
    times: tuple[int, ...]
    size: float = -1.0

    def after(self, decision: Decision, size: float = -1.0) -> Memory:
        """Return the memory once this step's decision is carried out, whose measurement found `size`."""
        if decision.computed:
            first = self.first if self.computed else decision.index
            times = (decision.index, *self.times[:-1]) if self.times else ()
            return Memory(self.skipped, 0, self.computed + 1, first, 0.0, times)
        accumulated = self.accumulated + (decision.change or 0.0)
        return Memory(self.skipped + 1, self.streak + 1, self.computed, self.first, accumulated, self.times, size)


def write(memories: Sequence[Memory]) -> torch.Tensor:
    """Return the ledger of a batch: (B, 6 + K) float64 on the CPU, one `Memory` per row.

    One tensor, because it is read and written every step and every tensor made costs
    microseconds; float64, because it holds counts and a sum of changes side by side.
    """
    rows = [(m.skipped, m.streak, m.computed, m.first, m.accumulated, m.size, *m.times) for m in memories]
    return torch.from_numpy(np.array(rows, dtype=np.float64))  # half the time of torch.tensor


def read(ledger: torch.Tensor) -> list[Memory]:
    """Return the rows of a ledger."""
    return [
        Memory(int(s), int(k), int(c), int(f), accumulated, tuple(map(int, times)), size)
        for s, k, c, f, accumulated, size, *times in ledger.tolist()
    ]


@state
class Cache:
    """What a denoiser remembers between steps; same tree, shapes and strides from `init` on.

    The ledger lives on the CPU, whatever the device of the model, so that rules never wait
    for it. A plan that cannot skip keeps no probe and no history.
    """

    ledger: torch.Tensor  # (B, 6 + K) float64, see `write`
    probe: torch.Tensor | None  # (B, N, D) front residual at the last computed step; None if nothing measures it
    history: tuple[tuple[torch.Tensor, ...], ...]  # per kept stream: what the last computed steps left, newest first
    answer: tuple[torch.Tensor, ...] = ()  # of a probe with `gain`: latents and prediction of the last
    # computed step; of one that verifies: what the back blocks added at the last K computed steps, newest first
    parts: tuple[Cache, ...] = ()  # of the middle blocks one by one, where they are skipped so
    plan: str = static(default="")  # what is kept of which blocks; a state of another plan is refused by it


@state
class State:
    """The only memory between steps.

    Attributes:
        prepared: constant for the request.
        cache: what steps change.
        branches: rows per sample, 2 under guidance.
    """

    prepared: Tree
    cache: Cache
    branches: int = static(default=1)


States = State | Mapping[str, State]
"""What a denoiser remembers; of several experts a state of each, by name."""
