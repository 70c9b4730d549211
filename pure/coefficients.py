"""What predictors and solvers do, as numbers: tables of weights, and a matrix for every step.

Shapes: S steps, K remembered steps, R tensors of a solver's carry.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree

from pure.pieces import Kept
from pure.solver import Solver
from pure.step import Step

TABLE = 2_000_000
"""Most numbers of a table of weights: one for every history that a step can have."""


def table(stream: Kept, known: Sequence[bool] | None, count: int, target: int) -> torch.Tensor | None:
    """Return the weights of a stream at one step: (1, K) of the only history it has, or a row of each it may have.

    Args:
        stream: that is kept.
        known: which steps are computed, where that is known beforehand.
        count: number of steps S.
        target: index of the step.

    Raises:
        ValueError: there are too many histories, or the predictor gives wrong weights.
    """
    if stream.held:
        return None
    depth = stream.predictor.history
    if known is not None:
        times = [index for index in range(target - 1, -1, -1) if known[index]][:depth]
        return torch.tensor([_weights(stream, (*times, *(-1,) * (depth - len(times))), target)])
    size = (count + 1) ** depth
    if size * depth > TABLE:
        raise ValueError(
            f"{stream.predictor} looks back to {depth} steps: in {count} steps there are {size:,} histories, too many "
            "for a table; lower the order, or use a static mask"
        )
    rows = {
        place(times, count): _weights(stream, times, target)
        for length in range(1, depth + 1)
        for computed in itertools.combinations(range(target - 1, -1, -1), length)
        if length == depth or computed[-1] == 0  # the first step is computed: a short history ends there
        for times in [(*computed, *(-1,) * (depth - length))]
    }
    nothing = [0.0] * depth
    return torch.tensor([rows.get(row, nothing) for row in range(size)])


def _weights(stream: Kept, times: tuple[int, ...], target: int) -> list[float]:
    return [float(each) for each in stream.weights(times, target, 0)] if times[0] >= 0 else [0.0] * len(times)


def place(times: Sequence[Any], count: int) -> Any:
    """Return the row of a history, of numbers or of tensors."""
    row: Any = 0
    for time in times:
        row = row * (count + 1) + time + 1
    return row


Shares = tuple[float, ...]


def coefficients(solver: Solver[Any], steps: Sequence[Step]) -> tuple[list[torch.Tensor], Shares, Shares]:
    """Return what a solver does as numbers: of every step (R, R + 1), of the start R, of reading the latents R.

    A solver adds up latents and predictions with weights that depend on the schedule only; what they are is
    found by giving it unit vectors.

    Raises:
        ValueError: its carry is no tree of tensors shaped like the latents, and of numbers of the schedule.
    """
    probe = torch.ones(1, 97, dtype=torch.float64)
    leaves, spec = pytree.tree_flatten(solver.init(probe))
    like = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.shape == probe.shape]
    if not like:
        raise ValueError(f"{solver} keeps nothing shaped like the latents, so it cannot be written as numbers")
    size = len(like) + 1
    unit = torch.eye(size, dtype=torch.float64).unsqueeze(1)  # R + 1 of (1, R + 1)
    start = tuple(float(leaves[place][0, 0]) for place in like)
    others = list(leaves)

    def carry() -> Any:
        found = list(others)
        for row, place in enumerate(like):
            found[place] = unit[row]
        return pytree.tree_unflatten(found, spec)

    read, matrices = tuple(solver.latents(carry())[0, : size - 1].tolist()), []
    for step in steps:
        others = pytree.tree_leaves(solver.step(carry(), unit[-1], step))
        matrices.append(torch.stack([others[place][0] for place in like]).float())
    return matrices, start, read
