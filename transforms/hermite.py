r"""HiCache: extrapolate the middle residual by TaylorSeer's differences on scaled polynomials of Hermite.

$$\hat r(t_0 + k) = \sum_i d_i\, \frac{\sigma^i H_i(\sigma k)}{i!}, \qquad
H_0 = 1, \quad H_1(x) = 2x, \quad H_{i+1}(x) = 2x H_i(x) - 2i H_{i-1}(x)$$

with the differences $d_i$ of `taylorseer`; the polynomials stand where it has $k^i$.
"""

import functools
from collections.abc import Sequence
from math import factorial

import attrs

from pure.checks import number
from pure.transforms.extrapolation import Extrapolation
from pure.transforms.taylorseer import differences

__all__ = ["hermite"]


@functools.lru_cache(maxsize=4096)
def _weights(times: tuple[int, ...], target: int, first: int, order: int, scale: float) -> tuple[float, ...]:
    ladder = differences(times, first, order)
    point = scale * (target - times[0])
    values = [1.0, 2 * point]  # of the polynomials at this point
    for i in range(1, order):
        values.append(2 * point * values[i] - 2 * i * values[i - 1])
    parts = [scale**i * values[i] / factorial(i) for i in range(len(ladder))]
    return tuple(sum(part * rung[k] for part, rung in zip(parts, ladder, strict=True)) for k in range(len(times)))


@attrs.frozen(kw_only=True)
class hermite(Extrapolation):
    """Extrapolate skipped middles by HiCache's polynomials; the transform is the predictor, too.

    Of the last slope it takes the part 2 scale^2 (half of it at 0.5): where steps are far apart it strays less than
    `taylorseer`, and on linear signals it is exact at scale = 0.5^0.5 only, where order 1 is TaylorSeer's.

    Args:
        order: highest difference, 0 to 3; 0 repeats the last residual. Differences begin as late as TaylorSeer's.
        scale: the factor sigma of the equation, above 0 and at most 1; smaller ones stay closer to the last residual.
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads; "all":
            every stream.

    Raises:
        ValueError: a value is out of range, or a stream has no such name.

    >>> hermite(order=1).weights((6, 4), 7, 0)  # value + half the slope
    (1.25, -0.25)

    Reference: "HiCache: A Plug-in Scaled-Hermite Upgrade for Taylor-Style Cache-then-Forecast Diffusion
    Acceleration", arXiv:2508.16984.
    """

    scale: float = attrs.field(default=0.5, validator=number(0.0, "the scale", "use 0.5", most=1.0, above=True))

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weights of the last order + 1 residuals; see the module's equation."""
        return _weights(tuple(times), target, first, self.order, self.scale)
