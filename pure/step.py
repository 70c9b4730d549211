"""Where a call stands in its trajectory: `Step`, `Where`, and the inputs of a step."""

from __future__ import annotations

from typing import Any

import attrs
import torch


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """Identity of one call: where in which trajectory every sample stands.

    Attributes:
        index: step index within the expert's own schedule, from 0; one for all samples or
            one per sample.
        count: number of steps of that schedule, likewise.
        timestep: what the model sees; shape () or (B,).
        sigma: noise level before the step; shape () or (B,).
        sigma_next: noise level after it.
        expert: name of the expert; empty where there is one only.
        branch: name of the guidance branch.
    """

    index: int | tuple[int, ...]
    count: int | tuple[int, ...]
    timestep: torch.Tensor
    sigma: torch.Tensor | None = None
    sigma_next: torch.Tensor | None = None
    expert: str | tuple[str, ...] = ""
    branch: str | tuple[str, ...] = "conditional"
    # Made once, with the schedule: in a step of one sample it would be one operation of ten.
    _times: torch.Tensor = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: _at_least_1d(self.timestep), takes_self=True)
    )

    def rows(self, batch: int) -> tuple[Where, ...]:
        """Say for each of `batch` samples where it stands.

        Raises:
            ValueError: a per-sample field has another length than the batch.
        """
        index, count, expert, branch = self.index, self.count, self.expert, self.branch
        if not (
            isinstance(index, tuple)
            or isinstance(count, tuple)
            or isinstance(expert, tuple)
            or isinstance(branch, tuple)
        ):
            return (Where(index, count, expert, branch),) * batch
        columns = [_spread(name, getattr(self, name), batch) for name in ("index", "count", "expert", "branch")]
        return tuple(Where(*values) for values in zip(*columns, strict=True))

    def times(self, batch: int) -> torch.Tensor:
        """Return the timestep of every sample, shape (B,)."""
        return self._times.expand(batch) if self.timestep.ndim == 0 and batch != 1 else self._times


def _at_least_1d(timestep: torch.Tensor) -> torch.Tensor:
    return timestep.reshape(1) if timestep.ndim == 0 else timestep


def _spread(name: str, value: Any, batch: int) -> tuple:
    if not isinstance(value, tuple):
        return (value,) * batch
    if len(value) != batch:
        raise ValueError(f"Step.{name} has {len(value)} entries for a batch of {batch} samples; give one per sample")
    return value


@attrs.frozen
class Where:
    """Where one sample stands: the Python side of a `Step`, all that rules may read."""

    index: int
    count: int
    expert: str = ""
    branch: str = "conditional"


@attrs.frozen(eq=False)
class Inputs:
    """What changes from step to step: `latents` (B, ...) and the `Step`."""

    latents: torch.Tensor
    step: Step
