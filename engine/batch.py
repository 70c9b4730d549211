"""A batch that goes on: samples join it between steps and leave it when they are done, each at a step of its own.

Every function returns a new batch; the old one still works. Which step a sample is at, its solver's
memory and its cache go with the sample, so that it gets the picture it gets alone.

Shapes: B samples; states under guidance have two rows for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

import pure
from pure import Experts, Info, Step
from pure.guidance import Guidance
from pure.models.pipeline import Model, Pipeline
from pure.models.request import Request
from pure.serving.jobs import Sample

__all__ = ["Batch", "Member", "begin", "joined", "mixes", "stay", "taken"]


@attrs.frozen(kw_only=True, eq=False)
class Member:
    """One sample of a batch.

    Attributes:
        sample: what it is.
        place: the index in the schedule of its next step.
        infos: of the steps it took.
    """

    sample: Sample
    place: int = 0
    infos: tuple[Info, ...] = ()


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """Samples of one recipe under way.

    Attributes:
        request: of the recipe.
        denoiser: of the recipe.
        bound: its parameters, grouped.
        steps: the schedule of every sample.
        members: the samples, in the order of the rows.
        state: the denoiser's.
        carry: the solver's.
    """

    request: Request
    denoiser: Model
    bound: Any
    steps: tuple[Step, ...]
    members: tuple[Member, ...]
    state: Any
    carry: Any


def begin(pipeline: Pipeline, request: Request, denoiser: Model, samples: Sequence[Sample]) -> Batch:
    """Return the batch before its first step.

    Raises:
        ValueError: a prompt cannot be read, prompts cannot be in one batch, or the cache does not fit the run.
    """
    negative = request.negative_prompts
    several = attrs.evolve(
        request,
        prompts=tuple(sample.job.prompt for sample in samples),
        negative_prompts=None if negative is None else negative[:1] * len(samples),
    )
    with torch.no_grad():
        latents = pipeline.noise(several, [sample.seed for sample in samples])
        conditioning = pipeline.conditioning(several)
        steps, bound = pipeline.schedule(request), denoiser.bind(pipeline.params)
        state = denoiser.init(bound, conditioning, latents, steps)
    return Batch(
        request=request,
        denoiser=denoiser,
        bound=bound,
        steps=steps,
        members=tuple(Member(sample=sample) for sample in samples),
        state=state,
        carry=pipeline.solver.init(latents),
    )


def mixes(denoiser: Model) -> bool:
    """Whether samples of this denoiser can stand at different steps: one expert, and guidance all the way or none."""
    if isinstance(denoiser, Experts):
        return False
    return denoiser.guidance is None or _everywhere(denoiser.guidance)


def _everywhere(guidance: Guidance) -> bool:
    return guidance.start <= 0 and guidance.stop >= 1 and guidance.lowest_sigma <= 0


def taken(pipeline: Pipeline, batch: Batch) -> Batch:
    """Take one step with every sample, each at its own place."""
    step = _step(batch.steps, [member.place for member in batch.members])
    frame = next(pure.unroll(batch.denoiser, batch.bound, batch.state, batch.carry, (step,), pipeline.solver))
    rows = len(frame.info.decisions) // len(batch.members)  # two where this step is guided
    members = tuple(
        Member(
            sample=member.sample,
            place=member.place + 1,
            infos=(*member.infos, Info(frame.info.decisions[slot * rows : (slot + 1) * rows])),
        )
        for slot, member in enumerate(batch.members)
    )
    return attrs.evolve(batch, members=members, state=frame.state, carry=frame.carry)


def _step(steps: tuple[Step, ...], places: Sequence[int]) -> Step:
    """Return one step for samples at different places; the schedule's own where they are not."""
    if len(set(places)) == 1:
        return steps[places[0]]
    chosen = [steps[place] for place in places]

    def stacked(name: str) -> torch.Tensor | None:
        found = [getattr(step, name) for step in chosen]
        return None if found[0] is None else torch.stack(found)

    return Step(
        index=tuple(step.rows(1)[0].index for step in chosen),
        count=tuple(step.rows(1)[0].count for step in chosen),
        timestep=torch.stack([step.timestep for step in chosen]),
        sigma=stacked("sigma"),
        sigma_next=stacked("sigma_next"),
    )


def joined(batch: Batch, other: Batch) -> Batch:
    """Put the samples of another batch of the same recipe behind those of this one.

    Raises:
        ValueError: no batch can hold both, because their prompts have other lengths, for instance.
    """
    return attrs.evolve(
        batch,
        members=(*batch.members, *other.members),
        state=pure.join(batch.state, other.state),
        carry=pure.join(batch.carry, other.carry),
    )


def stay(batch: Batch, slots: Sequence[int]) -> Batch:
    """Return the batch with the samples at these rows only."""
    return attrs.evolve(
        batch,
        members=tuple(batch.members[slot] for slot in slots),
        state=_rows(batch.state, slots),
        carry=pure.take(batch.carry, torch.tensor(slots)),
    )


def _rows(state: Any, slots: Sequence[int]) -> Any:
    if isinstance(state, dict):  # of experts
        return {name: _rows(one, slots) for name, one in state.items()}
    rows = [slot * state.branches + branch for slot in slots for branch in range(state.branches)]
    return pure.take(state, torch.tensor(rows))
