r"""Newton: extrapolate the middle residual by the polynomial through its last values.

$$\hat r(t) = \sum_j r(t_j) \prod_{m \ne j} \frac{t - t_m}{t_j - t_m}$$

That is Newton's divided differences, written as Lagrange's weights.
"""

import functools
import math
from collections.abc import Sequence

import attrs

from pure.transforms.extrapolation import Extrapolation

__all__ = ["newton"]


@functools.lru_cache(maxsize=4096)
def _weights(times: tuple[int, ...], target: int) -> tuple[float, ...]:
    known = [time for time in times if time >= 0]
    found = [
        math.prod((target - other) / (own - other) for place, other in enumerate(known) if place != at)
        for at, own in enumerate(known)
    ]
    return (*found, *[0.0] * (len(times) - len(known)))


@attrs.frozen(kw_only=True)
class newton(Extrapolation):
    """Extrapolate skipped middles by a polynomial through the last computed ones; the transform is the predictor, too.

    Exact on polynomials of degree `order`, at steps that are any distance apart. Weights grow with distance and order:
    far from the last computed step a high order is worse than a low one.

    Args:
        order: degree of the polynomial, 0 to 3; 0 repeats the last residual. While fewer than order + 1 steps have
            been computed, the degree is as high as they allow.
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads; "all":
            every stream.

    Raises:
        ValueError: a value is out of range, or a stream has no such name.

    >>> newton(order=2).weights((6, 5, 3), 7, 0)  # sums to 1; t^2 is continued exactly
    (2.6666666666666665, -2.0, 0.3333333333333333)

    Reference: divided differences instead of the repeated differences of TaylorSeer (Liu et al., arXiv:2503.06923),
    which are not exact on quadratics.
    """

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weights of the last order + 1 residuals; see the module's equation."""
        return _weights(tuple(times), target)
