"""A batch that goes on: samples join it between steps and leave it when they are done, each at a step of its own.

The one way samples are run: `Pipeline.generate`, the command line and the server take their steps here. Every
function returns a new batch; the old one still works. Which step a sample is at, its solver's memory and its
cache go with the sample, so that it gets the picture it gets alone.

Shapes: B samples; states under guidance have two rows for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import attrs
import torch

import pure
from pure import Denoiser, Experts, Frame, Info, Solver, State, States, Step, Weights
from pure.models.guidance import guidance_of

__all__ = ["Batch", "Member", "advance", "begin", "faults", "join", "keep", "latents", "not_finite_from"]

HIGH_SCALE = 30.0
"""Guidance above it is a likely cause of numbers that overflow."""

K = TypeVar("K")


@attrs.frozen(kw_only=True, eq=False)
class Member(Generic[K]):
    """One sample of a batch.

    Attributes:
        key: that the caller identifies it by.
        prompt: what it shows.
        seed: of its starting noise; None where the whole batch was drawn from one.
        place: the index in the schedule of its next step.
        infos: of the steps it took.
    """

    key: K
    prompt: str
    seed: int | None = None
    place: int = 0
    infos: tuple[Info, ...] = ()


@attrs.frozen(kw_only=True, eq=False)
class Batch(Generic[K]):
    """Samples of one denoiser and one schedule under way.

    Attributes:
        denoiser: of all samples.
        bound: its parameters, grouped.
        solver: of all samples.
        steps: the schedule of every sample.
        members: the samples, in the order of the rows.
        state: the denoiser's.
        carry: the solver's.
        finite: (B,) int64 on the device: after how many steps the latents of each were finite.
    """

    denoiser: Denoiser | Experts
    bound: Weights
    solver: Solver[Any]
    steps: tuple[Step, ...]
    members: tuple[Member[K], ...]
    state: States
    carry: Any
    finite: torch.Tensor

    @property
    def done(self) -> tuple[int, ...]:
        """Rows of the samples that took their last step."""
        return tuple(row for row, member in enumerate(self.members) if member.place == len(self.steps))


def begin(
    denoiser: Denoiser | Experts,
    params: Weights,
    solver: Solver[Any],
    conditioning: object,
    noise: torch.Tensor,
    steps: tuple[Step, ...],
    members: Sequence[Member[K]],
) -> Batch[K]:
    """Return the batch before its first step; `conditioning` and `noise` (B, ...) are of `members`, in their order.

    Raises:
        ValueError: the cache does not fit the run, or there are no steps.
    """
    bound = denoiser.bind(params)
    state = denoiser.init(bound, conditioning, noise, steps)
    return Batch(
        denoiser=denoiser,
        bound=bound,
        solver=solver,
        steps=steps,
        members=tuple(members),
        state=state,
        carry=solver.init(noise),
        finite=torch.zeros(len(members), dtype=torch.int64, device=noise.device),
    )


def advance(batch: Batch[K], checkpoint: bool = False) -> tuple[Batch[K], Frame]:
    """Take one step with every sample, each at its own place; return also what the step was and did.

    Args:
        batch: some sample of which has a step to take.
        checkpoint: see `pure.sample`.
    """
    step = pure.merge_steps([batch.steps[member.place] for member in batch.members])
    one = pure.unroll(batch.denoiser, batch.bound, batch.state, batch.carry, (step,), batch.solver, checkpoint)
    frame = next(one)
    rows = len(frame.info.decisions) // len(batch.members)  # two where this step is guided
    members = tuple(
        attrs.evolve(
            member,
            place=member.place + 1,
            infos=(*member.infos, Info(frame.info.decisions[row * rows : (row + 1) * rows])),
        )
        for row, member in enumerate(batch.members)
    )
    # Counted on the device and read once a sample, at its end: no step waits for it.
    finite = batch.finite + frame.latents.detach().isfinite().flatten(1).all(dim=1)
    return attrs.evolve(batch, members=members, state=frame.state, carry=frame.carry, finite=finite), frame


def latents(batch: Batch[K], row: int) -> torch.Tensor:
    """Return the latents (1, ...) of one sample."""
    return batch.solver.latents(batch.carry)[row : row + 1]


def not_finite_from(batch: Batch[K], row: int) -> int | None:
    """Return the index of the step that left infinities or NaN in the latents of a sample; None: all are finite."""
    finite = int(batch.finite[row])
    return finite if finite < batch.members[row].place else None


def faults(
    batch: Batch[K], pixels: torch.Tensor, dtype: torch.dtype, option: str, rows: Sequence[int] | None = None
) -> dict[int, str]:
    """Return for samples whose latents or pixels are not finite where that began, and the likely cause.

    Args:
        batch: after the last step of these samples.
        pixels: of each of them, (R, ...).
        dtype: of the parameters.
        option: that scales guidance.
        rows: of the batch, R; None: all.

    Returns:
        What is wrong, by row; nothing of samples that are finite.
    """
    found = {}
    for row, decoded in zip(range(len(batch.members)) if rows is None else rows, pixels, strict=True):
        member, step = batch.members[row], not_finite_from(batch, row)
        if step is None and bool(decoded.isfinite().all()):
            continue
        where = "in the decoder" if step is None else f"from step {step + 1} of {len(batch.steps)} on"
        seed = "" if member.seed is None else f" with seed {member.seed}"
        cause = _cause(batch.denoiser, dtype, option)
        found[row] = f"{member.prompt!r}{seed} is not finite {where} (infinite or NaN), so there is no picture; {cause}"
    return found


def _cause(denoiser: Denoiser | Experts, dtype: torch.dtype, option: str) -> str:
    guided = guidance_of(denoiser)
    if dtype == torch.float16:
        return "float16 overflows beyond 65504: load the checkpoint in bf16 or fp32"
    if guided is not None and abs(guided.scale) > HIGH_SCALE:
        return f"guidance by {guided.scale:g} is far too high: lower {option or 'the scale'}"
    return "some weights are damaged, or a transform divides by zero"


def join(batch: Batch[K], other: Batch[K]) -> Batch[K]:
    """Put the samples of another batch of the same denoiser and schedule behind those of this one.

    Raises:
        ValueError: no batch can hold both, because their prompts have other lengths, for instance.
    """
    return attrs.evolve(
        batch,
        members=(*batch.members, *other.members),
        state=pure.join(batch.state, other.state),
        carry=pure.join(batch.carry, other.carry),
        finite=torch.cat([batch.finite, other.finite]),
    )


def keep(batch: Batch[K], rows: Sequence[int]) -> Batch[K]:
    """Return the batch with the samples at these rows only."""
    index = torch.tensor(rows, device=batch.finite.device)
    return attrs.evolve(
        batch,
        members=tuple(batch.members[row] for row in rows),
        state=_kept(batch.state, rows),
        carry=pure.take(batch.carry, torch.tensor(rows)),
        finite=batch.finite[index],
    )


def _kept(state: States, rows: Sequence[int]) -> States:
    if isinstance(state, State):
        return _kept_rows(state, rows)
    return {name: _kept_rows(one, rows) for name, one in state.items()}


def _kept_rows(state: State, rows: Sequence[int]) -> State:
    return pure.take(state, torch.tensor([row * state.branches + b for row in rows for b in range(state.branches)]))
