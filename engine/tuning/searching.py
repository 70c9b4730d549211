r"""Search: from recorded Gram matrices the best mask of every number of computed steps, and weights to begin with.

Shapes: T steps of the schedule, K steps of a history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch

from pure import Step
from pure.engine.tuning.recording import Recorded
from pure.engine.tuning.rerun import MaskEntries, StepWeights, experts_of, histories
from pure.gram import fitted_weights
from pure.shortest import BestMask, best_masks, gap_cost
from pure.solver import levels_of
from pure.transforms import taylorseer

__all__ = ["KINDS", "Errors", "errors_of", "masks", "start_weights"]

KINDS = ("fitted", "taylor-1", "taylor-2")
"""Weights to begin with: of least squares on the recorded runs, or TaylorSeer's."""

SHORT = 32
LONGEST_GAP = 10
"""Most steps skipped in a row where a schedule is longer than `SHORT`: without it a search takes minutes."""


@attrs.frozen(kw_only=True, eq=False)
class Errors:
    """What recorded runs say of predictions.

    Attributes:
        steps: T steps.
        grams: by expert, (T', T') of its own steps, the mean of all prompts.
        moves: (T,) how far each step moves the latents.
    """

    steps: tuple[Step, ...]
    grams: Mapping[str, np.ndarray]
    moves: np.ndarray

    def own(self, expert: str) -> list[int]:
        """Return the places of an expert's steps in the schedule."""
        return [at for at, name in enumerate(experts_of(self.steps)) if name == expert]


def errors_of(recorded: Sequence[Recorded], steps: tuple[Step, ...]) -> Errors:
    """Return the mean of what was recorded of some prompts."""
    grams = {name: np.mean([one.grams[name] for one in recorded], axis=0) for name in recorded[0].grams}
    moves = np.array([float(after) - float(now) for now, after in map(levels_of, steps)])
    return Errors(steps=steps, grams=grams, moves=moves)


def masks(errors: Errors, depth: int) -> dict[int, BestMask]:
    """Return the best mask over the whole schedule of every number of computed steps; experts share it out."""
    count, found = len(errors.steps), {0: BestMask((0,) * len(errors.steps), 0.0)}
    for expert, gram in errors.grams.items():
        own = errors.own(expert)
        cost = gap_cost(gram, errors.moves[own].tolist())
        best = best_masks(len(own), depth, cost, None if len(own) <= SHORT else LONGEST_GAP)
        joint: dict[int, BestMask] = {}
        for before, rest in found.items():
            for computed, mask in best.items():
                total = rest.cost + mask.cost
                if before + computed not in joint or total < joint[before + computed].cost:
                    joint[before + computed] = BestMask(_laid(rest.entries, own, mask.entries, count), total)
        found = joint
    return found


def _laid(entries: MaskEntries, places: Sequence[int], own: MaskEntries, count: int) -> MaskEntries:
    laid = dict(zip(places, own, strict=True))
    return tuple(laid.get(at, entries[at]) for at in range(count))


def start_weights(errors: Errors, entries: MaskEntries, depth: int, kind: str) -> dict[int, torch.Tensor]:
    """Return weights (K,) of every skipped step.

    Args:
        errors: of recorded runs.
        entries: the mask, T.
        depth: K.
        kind: of `KINDS`.
    """
    found = {}
    names = experts_of(errors.steps)
    for at, history in histories(errors.steps, entries, depth).items():
        own = {place: index for index, place in enumerate(errors.own(names[at]))}
        times, target = tuple(own[place] for place in history), own[at]
        if kind == "fitted":
            weights = tuple(fitted_weights(errors.grams[names[at]], times, target))
        else:
            seer = taylorseer(order=min(int(kind[-1]), depth - 1))
            newest = (*times, *[-1] * seer.history)[: seer.history]
            weights = seer.weights(newest, target, 0)
        found[at] = torch.tensor((*weights, *[0.0] * depth)[:depth], dtype=torch.float64)
    return found


def changed(
    weights: StepWeights, errors: Errors, entries: MaskEntries, depth: int, kind: str, since: int
) -> StepWeights:
    """Return weights for a mask that differs from another at a step and after it only."""
    new = start_weights(errors, entries, depth, kind)
    return {at: weights[at] if at < since and at in weights else w for at, w in new.items()}
