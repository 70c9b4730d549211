r"""FoCa: forecast the middle residual along its derivative, and calibrate the forecast by Heun's method.

With the derivative $D(t; r)$ at $t$ of the parabola through the value there and those of the two computed steps
before it (the second-order backward difference), $t_0$ the last computed step and $k = t - t_0$:

$$\tilde r(t) = r(t_0) + k\, D(t_0; r), \qquad
\hat r(t) = r(t_0) + \frac{k}{2} \left( D(t_0; r) + D(t; \tilde r) \right)$$
"""

import functools
from collections.abc import Sequence

import attrs

from pure.transforms.extrapolation import Extrapolation

__all__ = ["foca"]


def _backward(times: Sequence[int]) -> list[float]:
    """Return the weights of the derivative at the first of `times`, by two or three of them."""
    near = times[0] - times[1]
    if len(times) == 2:
        return [1 / near, -1 / near]
    far, whole = times[1] - times[2], times[0] - times[2]
    return [(near + whole) / (near * whole), -whole / (near * far), near / (far * whole)]


@functools.lru_cache(maxsize=4096)
def _weights(times: tuple[int, ...], target: int) -> tuple[float, ...]:
    known = [time for time in times if time >= 0]
    absent = (0.0,) * (len(times) - len(known))
    if len(known) == 1:
        return (1.0, *absent)
    ahead = target - known[0]
    at_last = _backward(known)
    forecast = [ahead * each for each in at_last]
    forecast[0] += 1.0
    now, *others = _backward([target, *known[:2]])
    at_target = [now * each for each in forecast]
    for place, weight in enumerate(others):
        at_target[place] += weight
    found = [ahead / 2 * (one + two) for one, two in zip(at_last, at_target, strict=True)]
    found[0] += 1.0
    return (*found, *absent)


@attrs.frozen(kw_only=True)
class foca(Extrapolation):
    """Extrapolate skipped middles by FoCa's forecast and calibration; the transform is the predictor, too.

    It is exact on lines, and takes in a part of the curvature. With two computed steps it continues the line through
    them, with one it repeats the residual.

    Args:
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads; "all":
            every stream.

    Warning:
        These are not the numbers of cache-dit's calibrator of this name: it takes differences of steps for
        derivatives whatever lies between them, and forecasts from forecasts; see docs/differences.md.

    Raises:
        ValueError: a value is out of range, or a stream has no such name.

    >>> foca().weights((4, 2, -1), 5, 2)  # value + half the difference of two steps
    (1.5, -0.5, 0.0)

    Reference: Zheng et al., "Forecast then Calibrate: Feature Caching as ODE for Efficient Diffusion Transformers",
    arXiv:2508.16211: its two stages, with derivatives from computed steps only and at their true distances, so that
    they are weights of three residuals.
    """

    order: int = attrs.field(default=2, init=False, repr=False)

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weights of the last three residuals; see the module's equations."""
        return _weights(tuple(times), target)
