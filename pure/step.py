"""Where a call stands in its trajectory: `Step`, `Where`, and the inputs of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from pure.checks import shown

MOST_STEPS = 10_000
"""Most steps of a schedule: bounds what is allocated per step."""


def check_count(count: object) -> None:
    """Refuse a number of steps that no schedule can have.

    Raises:
        ValueError: it is not a whole number of 1 to `MOST_STEPS`.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_STEPS:
        raise ValueError(f"a run takes 1 to {MOST_STEPS} steps, got {shown(count)}")


def check_steps(steps: object) -> None:
    """Refuse what are no steps.

    Raises:
        ValueError: there are none.
        TypeError: something among them is no step, or this is no sequence.
    """
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        check_count(steps)
    if not steps:
        raise ValueError("there are no steps to take; get some from solver.schedule(count, tokens)")
    for wrong in (step for step in steps if not isinstance(step, Step)):  # type: ignore
        raise TypeError(f"steps are those of solver.schedule(count, tokens), or their number; got {shown(wrong)}")


def check_latents(latents: object, what: str = "latents are") -> None:
    """Refuse what are no latents.

    Raises:
        TypeError: it is no tensor of real numbers (B, ...).
    """
    if not isinstance(latents, torch.Tensor) or not latents.is_floating_point() or latents.ndim == 0:
        got = f"{latents.dtype} of shape {tuple(latents.shape)}" if isinstance(latents, torch.Tensor) else None
        raise TypeError(f"{what} a tensor (B, ...) of floating-point numbers, got {got or type(latents).__name__}")


def count_of(steps: Sequence[Step] | int) -> int:
    """Return the length of the schedule that steps are from; they need not be all of it.

    Raises:
        ValueError: there are none, or they are from schedules of different lengths, or their number is none.
        TypeError: something among them is no step.
    """
    if isinstance(steps, int):
        return steps
    check_steps(steps)
    counts = {step.count for step in steps}
    if len(counts) != 1 or isinstance(count := counts.pop(), tuple):
        raise ValueError(
            f"sample takes steps of one schedule, got steps of schedules of {[step.count for step in steps]} steps; "
            "take samples at different places of their schedules through unroll or apply"
        )
    return count


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """Where every sample of a call stands in its schedule.

    Attributes:
        index: step index within the expert's own schedule, from 0; one for all samples or
            one per sample.
        count: number of steps of that schedule, likewise.
        timestep: what the model sees; shape () or (B,), or (B, ...) for a model that takes one per token.
        sigma: noise level before the step; shape () or (B,).
        sigma_next: noise level after it.
        expert: name of the expert; empty where there is one only.
        branch: name of the guidance branch.

    Raises:
        ValueError: an index is not in 0 to count - 1, or a noise level has another shape than () or (B,).
        TypeError: an index or a count is not a whole number, or a level is no tensor.
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

    def __attrs_post_init__(self) -> None:
        if type(self.index) is int and type(self.count) is int:
            if not 0 <= self.index < self.count:
                raise ValueError(_misplaced(self.index, self.count))
        else:
            _check_places(self.index, self.count)
        for name in ("timestep", "sigma", "sigma_next"):
            level = getattr(self, name)
            if level is None:
                continue
            if not isinstance(level, torch.Tensor):
                raise TypeError(f"Step.{name} is {level!r}; give a tensor of shape () or (B,)")
            if level.ndim > 1 and name != "timestep":
                raise ValueError(f"Step.{name} has shape {tuple(level.shape)}; give a tensor of shape () or (B,)")

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
            if _one(self.sigma) and _one(self.timestep):
                return (Where(index, count, expert, branch, step=self),) * batch
            return tuple(Where(index, count, expert, branch, step=self, row=row) for row in range(batch))
        columns = [_spread(name, getattr(self, name), batch) for name in ("index", "count", "expert", "branch")]
        return tuple(
            Where(index=index, count=count, expert=expert, branch=branch, step=self, row=row)
            for row, (index, count, expert, branch) in enumerate(zip(*columns, strict=True))
        )

    def times(self, batch: int) -> torch.Tensor:
        """Return the timestep of every sample, shape (B,).

        Raises:
            ValueError: there are timesteps for another number of samples.
        """
        if self.timestep.ndim == 0:
            return self._times.expand(batch) if batch != 1 else self._times
        if self.timestep.shape[0] != batch:
            _spread("timestep", tuple(self.timestep), batch)
        return self._times


def _at_least_1d(timestep: torch.Tensor) -> torch.Tensor:
    if not isinstance(timestep, torch.Tensor):
        raise TypeError(f"Step.timestep is {timestep!r}; give a tensor of shape () or (B,)")
    return timestep.reshape(1) if timestep.ndim == 0 else timestep


def _misplaced(index: object, count: object) -> str:
    return f"Step(index={index}, count={count}): an index is in 0 to count - 1"


def _check_places(indices: object, counts: object) -> None:
    """Check places of which some are given per sample."""
    for name, value in (("index", indices), ("count", counts)):
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, bool) or not isinstance(entry, int):
                raise TypeError(f"Step.{name} is {value!r}; give a whole number, or a tuple of one per sample")
    lengths = {len(value) for value in (indices, counts) if isinstance(value, tuple)}
    if len(lengths) > 1:
        raise ValueError(f"Step(index={indices}, count={counts}): give both for the same number of samples")
    batch = max(lengths, default=1)
    for index, count in zip(_spread("index", indices, batch), _spread("count", counts, batch), strict=True):
        if not 0 <= index < count:
            raise ValueError(_misplaced(indices, counts))


def _spread(name: str, value: Any, batch: int) -> tuple:
    if not isinstance(value, tuple):
        return (value,) * batch
    if len(value) != batch:
        raise ValueError(f"Step.{name} has {len(value)} entries for a batch of {batch} samples; give one per sample")
    return value


def merge_steps(steps: Sequence[Step]) -> Step:
    """Return one step for a batch whose samples stand at different places of their schedules.

    Args:
        steps: of each sample, in the order of the batch; each of one sample.

    Returns:
        A step with one index, timestep and noise level per sample; the step itself where all have the same.

    Raises:
        ValueError: there are none, they are of several samples, or of different experts or branches; or some
            have noise levels and others have none.
        TypeError: something among them is no step.

    >>> one = Step(index=0, count=4, timestep=torch.tensor(1.0))
    >>> two = Step(index=3, count=4, timestep=torch.tensor(0.25))
    >>> merge_steps([one, two]).index, merge_steps([one, two]).timestep.tolist()
    ((0, 3), [1.0, 0.25])
    """
    if not steps or not all(isinstance(step, Step) for step in steps):
        raise (TypeError if steps else ValueError)(f"merge_steps takes the step of every sample, got {steps!r:.80}")
    first = steps[0]
    if all(step is first for step in steps):
        return first
    if any(not isinstance(step.index, int) or not isinstance(step.count, int) for step in steps):
        raise ValueError("merge_steps takes steps of one sample each; one of these is of several")
    for name in ("expert", "branch"):
        if len(found := {getattr(step, name) for step in steps}) > 1:
            raise ValueError(f"a batch takes steps of one {name}, got {sorted(map(str, found))}; take them one by one")

    def stacked(name: str) -> torch.Tensor | None:
        levels = [getattr(step, name) for step in steps]
        if len({level is None for level in levels}) > 1:
            raise ValueError(f"some of these steps have a {name} and others have none")
        return None if levels[0] is None else torch.stack(levels)

    return Step(
        index=tuple(int(step.index) for step in steps),  # type: ignore[arg-type]
        count=tuple(int(step.count) for step in steps),  # type: ignore[arg-type]
        timestep=torch.stack([step.timestep for step in steps]),
        sigma=stacked("sigma"),
        sigma_next=stacked("sigma_next"),
        expert=first.expert,
        branch=first.branch,
    )


@attrs.frozen
class Where:
    """Where one sample stands: the Python side of a `Step`, all that rules may read.

    Attributes:
        index: of the step, from 0.
        count: number of steps of the run.
        expert: name of the expert; empty where there is one only.
        branch: name of the guidance branch.
        step: of the batch, with the levels of all samples; None where it is not known.
        row: of the sample in it.
    """

    index: int
    count: int
    expert: str = ""
    branch: str = "conditional"
    step: Step | None = attrs.field(default=None, eq=False, repr=False)
    row: int = attrs.field(default=0, eq=False, repr=False)

    @property
    def fraction(self) -> float:
        """How much of the run is over, 0 to below 1."""
        return self.index / self.count

    @property
    def sigma(self) -> float:
        """Noise level before the step, 1 to above 0; NaN where it is not known."""
        return self._level(None if self.step is None else self.step.sigma)

    @property
    def timestep(self) -> float:
        """What the model sees as time, the first token's if each has its own; NaN where it is not known.

        On a GPU reading it waits for the device; `sigma` does not.
        """
        return self._level(None if self.step is None else self.step.timestep)

    def _level(self, level: torch.Tensor | None) -> float:
        if level is None:
            return math.nan
        return float((level if _one(level) else level[self.row]).flatten()[0])


def _one(level: torch.Tensor | None) -> bool:
    return level is None or level.ndim == 0


@attrs.frozen(eq=False)
class Inputs:
    """What changes from step to step: `latents` (B, ...) and the `Step`.

    Raises:
        TypeError: one of the two is of another kind.
    """

    latents: torch.Tensor
    step: Step

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.latents, torch.Tensor) or not isinstance(self.step, Step):
            got = f"{type(self.latents).__name__}, {type(self.step).__name__}"
            raise TypeError(f"Inputs takes latents, a tensor (B, ...), and a Step; got {got}")
