r"""TaylorSeer: extrapolate the middle residual from its history instead of repeating it.

Derivatives are one-sided differences, taken at every computed step $t_0$ from those at
the computed step before, $t_1$:

$$d_0 = r(t_0), \qquad d_{i+1}(t_0) = \frac{d_i(t_0) - d_i(t_1)}{t_0 - t_1},
\qquad \hat r(t_0 + k) = \sum_i d_i\, \frac{k^i}{i!}$$

Every $d_i$ is linear in the remembered residuals, so the prediction is one weighted sum.
"""

import functools
from collections.abc import Sequence
from math import factorial

import attrs

from pure.transforms.extrapolation import Extrapolation

__all__ = ["taylorseer"]

# Before this many steps have passed since the first computed one, a difference is not yet
# taken: part of the published recursion, kept so that the numbers agree.
COLD_START = 3


def differences(times: Sequence[int], first: int, order: int) -> list[list[float]]:
    """Return the differences at the newest of `times`, those that exist, each as weights of the residuals there."""
    size = len(times)
    ladder: list[list[float]] = []  # derivatives at the newest step so far, each as weights over `times`
    for place in range(size - 1, -1, -1):  # oldest to newest
        if times[place] < 0:
            continue
        unit = [0.0] * size
        unit[place] = 1.0
        climbing = [unit]
        if ladder and times[place] - first >= COLD_START:
            gap = times[place] - times[place + 1]
            for old in ladder[:order]:
                climbing.append([(a - b) / gap for a, b in zip(climbing[-1], old, strict=True)])
        ladder = climbing
    return ladder


@functools.lru_cache(maxsize=4096)
def _weights(times: tuple[int, ...], target: int, first: int, order: int) -> tuple[float, ...]:
    ladder = differences(times, first, order)
    distance = target - times[0]
    powers = [distance**i / factorial(i) for i in range(len(ladder))]
    return tuple(sum(power * rung[k] for power, rung in zip(powers, ladder, strict=True)) for k in range(len(times)))


@attrs.frozen(kw_only=True)
class taylorseer(Extrapolation):
    """Extrapolate skipped middles by TaylorSeer's recursion; the transform is the predictor, too.

    Args:
        order: highest derivative, 0 to 3; 0 repeats the last residual.
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output,
            which ignores what the front blocks computed at the skipped step.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads
            (the image stream of FLUX); "all": every stream.

    Warning:
        At order 2 and above the recursion is *not* exact on quadratics: the first difference
        is the slope between two steps, not at the last one. It is exact on linear signals.

    Raises:
        ValueError: a value is out of range, or a stream has no such name.

    >>> taylorseer(order=1).weights((6, 4), 7, 0)  # value + slope: 1.5, -0.5
    (1.5, -0.5)

    Reference: Liu et al., "From Reusable to Forecastable: TaylorSeers", arXiv:2503.06923,
    equations 5-8.
    """

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weights of the last order + 1 residuals; see the module's equation."""
        return _weights(tuple(times), target, first, self.order)
