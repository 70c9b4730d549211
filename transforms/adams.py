r"""Adams: extrapolate the middle residual by the explicit method of Adams and Bashforth.

The slopes between computed steps are taken for the derivative at the newer of the two, and the polynomial
through them is integrated from the last computed step $t_0$ on:

$$f_j = \frac{r(t_j) - r(t_{j+1})}{t_j - t_{j+1}}, \qquad
\hat r(t) = r(t_0) + \sum_{j<n} f_j \int_{t_0}^{t} \prod_{m \ne j} \frac{s - t_m}{t_j - t_m}\, ds$$
"""

import functools
from collections.abc import Sequence

import attrs

from pure.transforms.extrapolation import Extrapolation

__all__ = ["adams"]


def _integral(nodes: Sequence[int], at: int, distance: int) -> float:
    """Return the integral over 0 to `distance` of the polynomial that is 1 at one node and 0 at all others."""
    coefficients = [1.0]  # lowest power first
    for place, node in enumerate(nodes):
        if place != at:
            gap = nodes[at] - node
            shifted = [0.0, *coefficients]
            coefficients = [(up - node * low) / gap for up, low in zip(shifted, [*coefficients, 0.0], strict=True)]
    return sum(each * distance ** (power + 1) / (power + 1) for power, each in enumerate(coefficients))


@functools.lru_cache(maxsize=4096)
def _weights(times: tuple[int, ...], target: int) -> tuple[float, ...]:
    known = [time for time in times if time >= 0]
    nodes, weights = [time - known[0] for time in known[:-1]], [1.0] + [0.0] * (len(times) - 1)
    for at in range(len(nodes)):
        slope = _integral(nodes, at, target - known[0]) / (known[at] - known[at + 1])
        weights[at] += slope
        weights[at + 1] -= slope
    return tuple(weights)


@attrs.frozen(kw_only=True)
class adams(Extrapolation):
    """Extrapolate skipped middles by the method of Adams and Bashforth; the transform is the predictor, too.

    Order 1 continues the last slope, as `newton(order=1)` does. Higher orders let the slope go on changing as it
    did: they are exact on lines and not on quadratics, as a slope between two steps is not the derivative at the
    second one; far from the last computed step they stray further.

    Args:
        order: number of slopes, 0 to 3; 0 repeats the last residual. While fewer than order + 1 steps have been
            computed, there are as many slopes as they allow.
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads; "all":
            every stream.

    Raises:
        ValueError: a value is out of range, or a stream has no such name.

    >>> adams(order=2).weights((2, 1, 0), 3, 0)  # value + 3/2 of the last slope - 1/2 of the one before
    (2.5, -2.0, 0.5)

    Reference: Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I", III.1, equation 1.5, with the
    residual as a function of the step index.
    """

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weights of the last order + 1 residuals; see the module's equation."""
        return _weights(tuple(times), target)
