r"""Refinement on real runs: swaps of computed and skipped steps, and weights by Gauss-Newton through the whole run.

Both compare the last latents with those of the recorded run, and start anew only where a run begins to differ: every
state is kept, and kept states share what did not change.

The weights minimise $\sum_b \log \lVert x_b - x_b^* \rVert^2$ over the samples $b$: every step solves the normal
equations of the residuals, each divided by its norm, damped as Levenberg and Marquardt do.

Shapes: B samples, K steps of a history, P numbers that are improved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from pure.engine.tuning.recording import Observe
from pure.engine.tuning.rerun import (
    Case,
    MaskEntries,
    Place,
    StepWeights,
    TunedSpan,
    begin,
    bound_of,
    end,
    histories,
    run,
)
from pure.engine.tuning.searching import Errors, changed

__all__ = ["Trial", "decibels", "improve", "swaps"]

NUDGE = 1e-2
"""How far a weight is moved to see what becomes of the latents."""

FIRST_DAMPING, DAMPINGS = 1e-2, 6
ENOUGH = 0.02
"""Refinement ends with a round that brings fewer dB."""


@attrs.frozen(kw_only=True, eq=False)
class Trial:
    """What plans are tried on.

    Attributes:
        cases: some prompts each.
        references: for every case the last latents (B, ...) of the run without a cache.
        span: of the plans.
        bound: the parameters.
    """

    cases: tuple[Case, ...]
    references: tuple[torch.Tensor, ...]
    span: TunedSpan
    bound: Any

    @classmethod
    def of(cls, cases: Sequence[Case], references: Sequence[torch.Tensor], span: TunedSpan) -> Trial:
        """Return a trial of cases of one pipeline."""
        return cls(cases=tuple(cases), references=tuple(references), span=span, bound=bound_of(cases[0]))


def decibels(latents: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return of every sample (B,) the power of the reference over that of the difference, in dB."""
    power = reference.to(torch.float64).flatten(1).square().sum(1)
    off = (latents.to(torch.float64) - reference.to(torch.float64)).flatten(1).square().sum(1)
    return 10 * (power / off.clamp_min(1e-30 * power.clamp_min(1e-30))).log10()


@torch.no_grad()
def quality(
    trial: Trial, entries: MaskEntries, weights: StepWeights, places: Sequence[Place | None] | None = None
) -> float:
    """Return the mean over all samples of `decibels`; every case goes on from its place, or begins."""
    found = [
        decibels(end(case, trial.bound, entries, weights, trial.span, place), star)
        for case, place, star in zip(trial.cases, places or [None] * len(trial.cases), _on(trial), strict=True)
    ]
    return float(torch.cat(found).mean())


def _on(trial: Trial) -> list[torch.Tensor]:
    return [star.to(case.noise.device) for case, star in zip(trial.cases, trial.references, strict=True)]


def _places(trial: Trial, case: Case, entries: MaskEntries, weights: StepWeights) -> list[Place]:
    """Return the places before every step, and the one after the last."""
    first = begin(case, trial.bound, entries, trial.span)
    return [first, *(after for _, after in run(case, trial.bound, first, entries, weights, trial.span))]


# ------------------------------------------------------------------------------ swaps


@torch.no_grad()
def swaps(
    trial: Trial, errors: Errors, entries: MaskEntries, kind: str, observe: Observe | None = None, rounds: int = 2
) -> tuple[MaskEntries, StepWeights]:
    """Move computed steps to neighbouring ones while that makes the real run better.

    Args:
        trial: the runs.
        errors: where the weights of a mask come from.
        entries: the mask to begin with.
        kind: of the weights.
        observe: called after every try with "swaps", the tries of this round and how many it has.
        rounds: at most.
    """
    depth = trial.span.depth
    weights = changed({}, errors, entries, depth, kind, 0)
    for _ in range(rounds):
        before = quality(trial, entries, weights)
        kept = [_places(trial, case, entries, weights) for case in trial.cases]
        best, moves = before, _moves(errors, entries)
        for tried, (old, new) in enumerate(moves):
            if observe is not None:
                observe("swaps", tried, len(moves))
            if not entries[old] or entries[new]:
                continue  # an earlier swap of this round took it
            other = tuple(int(at == new or (entry and at != old)) for at, entry in enumerate(entries))
            if not _begins(errors, other):
                continue
            since = min(old, new)
            theirs = changed(weights, errors, other, depth, kind, since)
            found = quality(trial, other, theirs, [places[since] for places in kept])
            if found > best:
                best, entries, weights = found, other, theirs
                kept = [_places(trial, case, entries, weights) for case in trial.cases]
        if best - before < ENOUGH:
            break
    return entries, weights


def _moves(errors: Errors, entries: MaskEntries) -> list[tuple[int, int]]:
    """Return which computed steps may go where: one or two steps away, the nearest first."""
    count = len(entries)
    return [
        (at, at + by) for by in (1, -1, 2, -2) for at in range(count) if entries[at] and 0 <= at + by < count
        and not entries[at + by]
    ]  # fmt: skip


def _begins(errors: Errors, entries: MaskEntries) -> bool:
    """Whether the first step of every expert is computed."""
    return all(entries[errors.own(expert)[0]] for expert in errors.grams)


# ------------------------------------------------------------------------------ weights


@torch.no_grad()
def improve(
    trial: Trial, entries: MaskEntries, weights: StepWeights, rounds: int = 6, observe: Observe | None = None
) -> StepWeights:
    """Return weights with which the last latents come nearer to those of the run without a cache.

    Args:
        trial: the runs.
        entries: the mask.
        weights: to begin with.
        rounds: at most, each of P + 1 runs that begin where a weight is used.
        observe: called after every run with "weights", the runs of this round and how many it has.
    """
    names = _names(trial, entries, weights)
    if not names:
        return weights
    damping, best = FIRST_DAMPING, quality(trial, entries, weights)
    for _ in range(rounds):
        normal, slope = _equations(trial, entries, weights, names, observe)
        before = best
        for _ in range(DAMPINGS):
            step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal().clamp_min(1e-30)), -slope)
            tried = _moved(weights, names, step)
            found = quality(trial, entries, tried)
            if math.isfinite(found) and found > best:
                weights, best, damping = tried, found, damping / 5
                break
            damping *= 5
        if best - before < ENOUGH:
            break
    return weights


def _names(trial: Trial, entries: MaskEntries, weights: StepWeights) -> list[tuple[int, int]]:
    """Return the numbers that are improved: of every skipped step the weights behind the newest one's."""
    past = histories(trial.cases[0].steps, entries, trial.span.depth)
    return [(at, j) for at in sorted(weights) for j in range(1, len(past[at]))]


def _moved(weights: StepWeights, names: Sequence[tuple[int, int]], step: torch.Tensor) -> StepWeights:
    """Return weights moved by a step (P,); the newest one's makes up for the others."""
    found = {at: row.clone() for at, row in weights.items()}
    for (at, j), by in zip(names, step, strict=True):
        found[at][j] += by
        found[at][0] -= by
    return found


def _equations(
    trial: Trial, entries: MaskEntries, weights: StepWeights, names: Sequence[tuple[int, int]], observe: Observe | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrix (P, P) and the right side (P,) of the normal equations."""
    size = len(names)
    normal, slope = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    done = 0
    for case, star in zip(trial.cases, _on(trial), strict=True):
        places = _places(trial, case, entries, weights)
        last = case.pipeline.solver.latents(places[-1].carry)
        off = (last - star).flatten(1).to(torch.float64)
        columns = []
        for number, (at, _) in enumerate(names):
            nudge = torch.zeros(size, dtype=torch.float64)
            nudge[number] = NUDGE
            other = end(case, trial.bound, entries, _moved(weights, names, nudge), trial.span, places[at])
            columns.append((other - last).flatten(1).to(torch.float64) / NUDGE)
            done += 1
            if observe is not None:
                observe("weights", done, size * len(trial.cases))
        jacobian = torch.stack(columns, dim=-1)  # (B, N, P)
        inverse = 1 / off.square().sum(1).clamp_min(1e-30)
        normal += torch.einsum("bnp,bnq,b->pq", jacobian, jacobian, inverse).cpu()
        slope += torch.einsum("bnp,bn,b->p", jacobian, off, inverse).cpu()
    return normal, slope
