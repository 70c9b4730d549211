r"""Classifier-free guidance as a transform.

$$v = v_- + s\,(v_+ - v_-)$$
"""

import math

import attrs

from pure.compose import Transform
from pure.denoiser import Denoiser
from pure.guidance import Guidance

__all__ = ["guided"]

NORMALIZE = ("none", "token", "sample")


@attrs.frozen(kw_only=True)
class guided(Transform):
    """Guide with a negative prompt.

    Args:
        scale: s above; 1 is the conditional prediction.
        start: fraction of the schedule at which guidance begins, 0 to 1.
        stop: fraction at which it ends, above `start`.
        lowest_sigma: noise level, 0 to 1, below which it has ended already.
        normalize: "none", "token" or "sample": keep the norm of the conditional prediction; see `pure.Guidance`.
        cap: of "sample": how often that norm is allowed, above 0.

    The conditioning must be `pure.Branches`; without a negative one the request runs
    without guidance and says so.

    Raises:
        ValueError: a value is out of range, or another guidance is set already.

    >>> guided(scale=3.0)
    guided(scale=3.0, start=0.0, stop=1.0, lowest_sigma=0.0, normalize='none', cap=1.0)

    Reference: Ho and Salimans, arXiv:2207.12598, equation 6.
    """

    scale: float = attrs.field()
    start: float = 0.0
    stop: float = 1.0
    lowest_sigma: float = 0.0
    normalize: str = "none"
    cap: float = 1.0

    def __attrs_post_init__(self) -> None:
        for name in ("scale", "start", "stop", "lowest_sigma", "cap"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"guided({name}={value!r}): {name} must be a finite number")
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"guided(start={self.start}, stop={self.stop}): the interval must satisfy 0 <= start < stop <= 1"
            )

        if not 0 <= self.lowest_sigma <= 1:
            raise ValueError(f"guided(lowest_sigma={self.lowest_sigma}): a noise level is in 0 to 1")
        if self.normalize not in NORMALIZE or self.cap <= 0:
            raise ValueError(
                f"guided(normalize={self.normalize!r}, cap={self.cap}): normalize must be one of "
                f"{', '.join(NORMALIZE)} and cap above 0"
            )

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the guidance."""
        new = Guidance(
            scale=float(self.scale),
            start=self.start,
            stop=self.stop,
            lowest_sigma=self.lowest_sigma,
            normalize=self.normalize,
            cap=self.cap,
        )
        if denoiser.guidance is not None and denoiser.guidance != new:
            raise ValueError(f"guidance is set twice, to {denoiser.guidance} and to {new}; compose only one of the two")
        return attrs.evolve(denoiser, guidance=new)
