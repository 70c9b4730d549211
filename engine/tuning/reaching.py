"""From a budget to a plan: the masks that fit it, refined on real runs and checked on prompts nothing was fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch

from pure.engine.errors import Misuse
from pure.engine.tuned import made_for
from pure.engine.tuning.bench import Bench
from pure.engine.tuning.budget import Budget
from pure.engine.tuning.plan import TunedPlan, plan_of
from pure.engine.tuning.recording import Observe
from pure.engine.tuning.refining import Trial, improve, quality, swaps
from pure.engine.tuning.rerun import MaskEntries, StepWeights, end
from pure.engine.tuning.searching import KINDS, start_weights

__all__ = ["Found", "begun", "checked", "curve", "psnr", "reached"]

FEW, MANY = 1, 5
"""Rounds of better weights: of each mask that is tried, and of the one that is kept."""

CLOSEST = 120.0
"""PSNR of equal pictures, in dB: what fp32 could tell apart."""


@attrs.frozen(kw_only=True, eq=False)
class Found:
    """A mask with weights.

    Attributes:
        bench: where it was found.
        entries: T entries of the mask.
        weights: of the skipped steps.
        kind: of the weights it began with.
        quality: dB of the latents of the prompts it was fitted to.
    """

    bench: Bench
    entries: MaskEntries
    weights: StepWeights
    kind: str
    quality: float

    @property
    def computed(self) -> int:
        """The number of computed steps."""
        return sum(self.entries)


def begun(bench: Bench, computed: int) -> Found | None:
    """Return the best mask of so many computed steps with the best weights to begin with; None: there is none."""
    mask = bench.masks.get(computed)
    if mask is None:
        return None
    tried = [(kind, start_weights(bench.errors, mask.entries, bench.span.depth, kind)) for kind in KINDS]
    made = [
        Found(bench=bench, entries=mask.entries, weights=weights, kind=kind,
              quality=quality(bench.fit, mask.entries, weights))
        for kind, weights in tried
    ]  # fmt: skip
    return max(made, key=lambda one: one.quality)


def refined(found: Found, refine: str, observe: Observe | None) -> Found:
    """Return the mask and weights refined: not, by swaps, or with weights through the whole run, too.

    The best mask for the weights of the recording need not be that for the best weights: with these, the mask of
    the search and the swapped one are both tried.
    """
    if refine == "none":
        return found
    bench = found.bench
    entries, weights = swaps(bench.fit, bench.errors, found.entries, found.kind, observe)
    swapped = attrs.evolve(found, entries=entries, weights=weights, quality=quality(bench.fit, entries, weights))
    candidates = [found] if entries == found.entries else [found, swapped]
    if refine == "gradient":
        candidates = [_improved(one, FEW, observe) for one in candidates]
    best = max(candidates, key=lambda one: one.quality)
    return _improved(best, MANY, observe) if refine == "gradient" else best


def _improved(found: Found, rounds: int, observe: Observe | None) -> Found:
    weights = improve(found.bench.fit, found.entries, found.weights, rounds, observe)
    return attrs.evolve(found, weights=weights, quality=quality(found.bench.fit, found.entries, weights))


def reached(benches: Sequence[Bench], budget: Budget, refine: str, observe: Observe | None = None) -> Found:
    """Return the best plan within a budget, of all spans.

    Raises:
        Misuse: no plan is fast enough, or none comes near enough.
    """
    if budget.kind == "quality":
        return _near_enough(benches, budget, refine, observe)
    starts = [begun(bench, count) for bench in benches if (count := _affordable(benches[0], bench, budget))]
    made = [one for one in starts if one is not None]
    if not made:
        least = max(bench.ratio(min(bench.masks)) for bench in benches)
        raise Misuse(f"no plan keeps to {budget}; the fastest one is {least:.2f}x with {min(benches[0].masks)} steps")
    return refined(max(made, key=lambda one: one.quality), refine, observe)


def _affordable(first: Bench, bench: Bench, budget: Budget) -> int | None:
    """Return the most computed steps within a budget; None: there are none.

    A number of computed steps is that of the first span, by the time that they take.
    """
    ratio = budget.value if budget.kind == "ratio" else first.ratio(int(budget.value))
    if budget.kind == "steps" and bench is first:
        return int(budget.value) if int(budget.value) in bench.masks else None
    counts = [count for count in bench.masks if count < bench.steps and bench.ratio(count) >= ratio * (1 - 1e-9)]
    return max(counts, default=None)


def _near_enough(benches: Sequence[Bench], budget: Budget, refine: str, observe: Observe | None) -> Found:
    """Return the fastest plan whose pictures of the prompts it was fitted to come near enough."""
    kept, nearest, counts = None, 0.0, [count for count in benches[0].masks if count < benches[0].steps]
    for count in sorted(counts, reverse=True):
        found = begun(benches[0], count)
        assert found is not None
        near, finished = _near(found), False
        if near < budget.value:
            found, finished = refined(found, refine, observe), True
            near = _near(found)
        nearest = max(nearest, near)
        if near < budget.value:
            break
        kept = found, finished
    if kept is None:
        raise Misuse(f"no plan comes as near as {budget}; the nearest one has {nearest:.1f} dB")
    found, finished = kept
    return found if finished else refined(found, refine, observe)


def _near(found: Found) -> float:
    return float(psnr(found.bench.fit, found.entries, found.weights).mean())


@torch.no_grad()
def psnr(trial: Trial, entries: MaskEntries, weights: StepWeights) -> torch.Tensor:
    """Return of every sample (B,) the PSNR of its pixels against those of the run without a cache, in dB."""
    found = []
    for case, star in zip(trial.cases, trial.references, strict=True):
        latents = end(case, trial.bound, entries, weights, trial.span)
        both = [
            case.pipeline.decoded(case.pipeline.finished(one.to(latents), case.request), case.request)
            for one in (latents, star)
        ]
        off = (both[0].to(torch.float64) - both[1].to(torch.float64)).flatten(1).square().mean(1)
        found.append((-10 * off.clamp_min(10 ** (-CLOSEST / 10)).log10()).cpu())
    return torch.cat(found)


def checked(found: Found, observe: Observe | None = None) -> TunedPlan:
    """Return the plan, with how near it comes on prompts that nothing was fitted to."""
    bench, case = found.bench, found.bench.check.cases[0]
    near = psnr(bench.check, found.entries, found.weights)
    if observe is not None:
        observe("check", found.computed, bench.steps)
    worst = near.sort().values[: max(1, math.ceil(len(near) / 10))]
    made = attrs.evolve(
        made_for(case.pipeline, case.plain, case.request),
        computed=found.computed,
        psnr=round(float(near.mean()), 2),
        worst_psnr=round(float(worst.mean()), 2),
        prompts=len(near),
    )
    plan = plan_of(bench.errors.steps, found.entries, found.weights, bench.span, made)
    return attrs.evolve(plan, ratio=bench.ratio(found.computed))


def curve(bench: Bench, points: int, leave: Sequence[int], observe: Observe | None = None) -> tuple[TunedPlan, ...]:
    """Return at most so many plans of other numbers of computed steps than some, not refined."""
    if points < 1:
        return ()
    counts = sorted(count for count in bench.masks if 1 < count < bench.steps)
    every = max(1, math.ceil(len(counts) / points))
    chosen = [count for count in counts[::every] if count not in leave]
    return tuple(checked(one, observe) for count in chosen if (one := begun(bench, count)) is not None)
