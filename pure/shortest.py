r"""The best steps to compute, as a shortest path.

A path goes from one computed step to the next; what it costs to skip those between depends on the last K
computed steps only. The cost of a gap is how far the skipped steps push the latents off together:

$$c = \Big\lVert \sum_t \Delta\sigma_t\, (r_t - \hat r_t) \Big\rVert^2$$

Shapes: T steps, K steps of a history.
"""

import functools
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from pure.gram import error_vector, fitted_weights

__all__ = ["BestMask", "best_masks", "gap_cost"]

History = tuple[int, ...]
Frontier = dict[History, tuple[float, History | None]]


@attrs.frozen
class BestMask:
    """The mask with the least cost among those of one number of computed steps.

    Attributes:
        entries: T entries, 1 computes and 0 skips; the first is 1.
        cost: the sum of the costs of its gaps.
    """

    entries: tuple[int, ...]
    cost: float


def gap_cost(gram: np.ndarray, moves: Sequence[float]) -> Callable[[History, int], float]:
    r"""Return the cost of skipping all steps between a history's newest step and the next computed one.

    Args:
        gram: (T, T) inner products of residuals; see `pure.gram`.
        moves: how far each of the T steps moves the latents, $\Delta\sigma_t$.
    """
    count = len(gram)

    @functools.cache
    def off(history: History, target: int) -> np.ndarray:
        return moves[target] * error_vector(count, history, target, fitted_weights(gram, history, target))

    @functools.cache
    def cost(history: History, following: int) -> float:
        if following == history[0] + 1:
            return 0.0
        together = sum(off(history, target) for target in range(history[0] + 1, following))
        return max(float(together @ gram @ together), 0.0)

    return cost


def best_masks(
    count: int, depth: int, cost: Callable[[History, int], float], longest: int | None = None
) -> dict[int, BestMask]:
    """Return the best mask of every number of computed steps that there is one of.

    Args:
        count: T.
        depth: K, how many computed steps a prediction looks back to.
        cost: of skipping all steps between a history's newest one and the next computed one; T ends the run.
        longest: most steps skipped in a row; None: no limit.

    >>> found = best_masks(5, 1, lambda history, following: (following - history[0] - 1) ** 2)
    >>> found[3].cost, found[1].entries
    (2.0, (1, 0, 0, 0, 0))
    """
    reach = count if longest is None else longest + 1
    layers: list[Frontier] = [{(0,): (0.0, None)}]
    found: dict[int, BestMask] = {}
    for computed in range(1, count + 1):
        ends = {
            history: price + cost(history, count)
            for history, (price, _) in layers[-1].items()
            if count - history[0] <= reach
        }
        if ends:
            last = min(ends, key=ends.__getitem__)
            found[computed] = BestMask(_trace(layers, last, count), ends[last])
        layers.append(_next(layers[-1], count, depth, cost, reach))
    return found


def _next(layer: Frontier, count: int, depth: int, cost: Callable[[History, int], float], reach: int) -> Frontier:
    """Return the cheapest ways to compute one step more."""
    found: Frontier = {}
    for history, (price, _) in layer.items():
        for following in range(history[0] + 1, min(count, history[0] + reach + 1)):
            total, longer = price + cost(history, following), (following, *history)[:depth]
            if longer not in found or total < found[longer][0]:
                found[longer] = total, history
    return found


def _trace(layers: list[Frontier], last: History, count: int) -> tuple[int, ...]:
    """Return the mask of the path that ends with a history."""
    entries, history = [0] * count, last
    for layer in reversed(layers):
        entries[history[0]] = 1
        before = layer[history][1]
        if before is None:
            break
        history = before
    return tuple(entries)
