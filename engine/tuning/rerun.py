r"""Runs with weights that are tensors, from any step on: what search, refinement and the check of a plan are made of.

The core takes the weights of a predictor as numbers. Here a skipped step is given a history whose newest residual is
the weighted sum already, and gets its true history back afterwards: the state is a value like any other.

Shapes: B samples, K steps of a history, T steps of the schedule.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

import pure
from pure import Cache, Denoiser, Experts, Inputs, State, States, Step
from pure.transforms import dbcache, scm

if TYPE_CHECKING:
    from pure.models import Pipeline, Request
    from pure.models.pipeline import AnyDenoiser

__all__ = ["Case", "Place", "StepWeights", "TunedSpan", "begin", "bound_of", "end", "histories", "run"]

MaskEntries = tuple[int, ...]
Residuals = tuple[tuple[torch.Tensor, ...], ...]
StepWeights = Mapping[int, torch.Tensor]
"""Of every skipped step, by its place in the schedule, the weights (K,) of the last computed ones."""


@attrs.frozen
class TunedSpan:
    """Which blocks always run, and how many residuals are remembered."""

    front: int = 0
    back: int = 0
    depth: int = 3


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """Some prompts of one request, ready to be run again and again.

    Attributes:
        pipeline: what was loaded.
        request: of B samples, with the negative prompts that its guidance reads.
        plain: the pipeline's denoiser, guided as the request says.
        conditioning: of the B samples.
        noise: (B, ...) before the first step.
        steps: T steps.
    """

    pipeline: Pipeline
    request: Request
    plain: AnyDenoiser
    conditioning: Any
    noise: torch.Tensor
    steps: tuple[Step, ...]


@attrs.frozen(kw_only=True, eq=False)
class Place:
    """Where a run stands: before step `at`."""

    at: int
    state: States
    carry: Any


@attrs.frozen
class _remembering(pure.Transform):
    """Remember K residuals, and repeat the newest; the transform is the predictor, too."""

    history: int
    on: str = "residual"
    streams: None = None

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return 1, 0, 0, ..."""
        return (1.0,) + (0.0,) * (self.history - 1)

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the predictor."""
        return attrs.evolve(denoiser, plan=denoiser.plan.set(predictor=self))


def experts_of(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return which expert each step belongs to; empty names where there are none."""
    return tuple(step.rows(1)[0].expert for step in steps)


def masked(plain: AnyDenoiser, steps: Sequence[Step], entries: MaskEntries, span: TunedSpan) -> AnyDenoiser:
    """Return the denoiser that follows a mask over the whole schedule, every expert its part of it."""

    def transform(own: MaskEntries) -> pure.Transform:
        always = dbcache(front=span.front, back=span.back, threshold=1.0, warmup=0, max_continuous=None)
        return pure.compose(always, scm(mask=own, policy="static"), _remembering(span.depth))

    if isinstance(plain, Denoiser):
        return transform(entries)(plain)
    names = experts_of(steps)
    own = {name: tuple(e for e, of in zip(entries, names, strict=True) if of == name) for name in plain.denoisers}
    return Experts({name: transform(own[name])(one) if own[name] else one for name, one in plain.denoisers.items()})


def histories(steps: Sequence[Step], entries: MaskEntries, depth: int) -> dict[int, tuple[int, ...]]:
    """Return of every skipped step the last computed ones of its expert, newest first; places in the schedule."""
    past: dict[str, tuple[int, ...]] = {}
    found = {}
    for at, (expert, entry) in enumerate(zip(experts_of(steps), entries, strict=True)):
        if entry:
            past[expert] = (at, *past.get(expert, ()))[:depth]
        else:
            found[at] = past[expert]
    return found


def bound_of(case: Case) -> Any:
    """Return the parameters, grouped by block."""
    return case.plain.bind(case.pipeline.params)


def begin(case: Case, bound: Any, entries: MaskEntries, span: TunedSpan) -> Place:
    """Return the place before the first step."""
    denoiser = masked(case.plain, case.steps, entries, span)
    state = denoiser.init(bound, case.conditioning, case.noise, case.steps)
    return Place(at=0, state=state, carry=case.pipeline.solver.init(case.noise))


def run(
    case: Case, bound: Any, place: Place, entries: MaskEntries, weights: StepWeights, span: TunedSpan
) -> Iterator[tuple[Place, Place]]:
    """Yield the places before and after every step from a place on."""
    denoiser, solver = masked(case.plain, case.steps, entries, span), case.pipeline.solver
    for at in range(place.at, len(case.steps)):
        step, state = case.steps[at], place.state
        expert = experts_of((step,))[0]
        inputs = Inputs(solver.latents(place.carry), step)
        if not entries[at]:
            summed = [_summed(past, weights[at], span.depth) for past in cache_of(state, expert).history]
            state = _with_history(state, expert, tuple(summed))
        prediction, new, _ = denoiser.apply(bound, state, inputs)
        if not entries[at]:
            new = _with_history(new, expert, cache_of(place.state, expert).history)
        after = Place(at=at + 1, state=new, carry=solver.step(place.carry, prediction, step))
        yield place, after
        place = after


def _summed(past: tuple[torch.Tensor, ...], weights: torch.Tensor, depth: int) -> tuple[torch.Tensor, ...]:
    """Return the history of a stream with the weighted sum in front; of a held stream as it is."""
    if len(past) != depth or depth == 1:
        return past
    used = weights.to(past[0].device)
    wide = torch.promote_types(past[0].dtype, torch.float32)
    total = sum((w.to(wide) * residual.to(wide) for w, residual in zip(used, past, strict=True)), start=0.0)
    assert isinstance(total, torch.Tensor)
    return (total.to(past[0].dtype), *past[1:])


def cache_of(state: States, expert: str) -> Cache:
    """Return the cache of an expert, or of the one denoiser."""
    one = state if isinstance(state, State) else state[expert]
    return one.cache


def _with_history(state: States, expert: str, history: Residuals) -> States:
    """Return the state with another history."""
    one = state if isinstance(state, State) else state[expert]
    other = attrs.evolve(one, cache=attrs.evolve(one.cache, history=history))
    return other if isinstance(state, State) else {**state, expert: other}


def end(
    case: Case, bound: Any, entries: MaskEntries, weights: StepWeights, span: TunedSpan, place: Place | None = None
) -> torch.Tensor:
    """Return the latents (B, ...) after the last step, from a place on or from the start."""
    place = begin(case, bound, entries, span) if place is None else place
    last = functools.reduce(lambda _, pair: pair[1], run(case, bound, place, entries, weights, span), place)
    return case.pipeline.solver.latents(last.carry)
