r"""Classifier-free guidance as a transform.

$$v = v_- + s\,(v_+ - v_-)$$
"""

import attrs

from pure.checks import narrowed
from pure.composition import Transform, both
from pure.denoiser import Denoiser
from pure.guidance import Guidance

__all__ = ["guided"]


@attrs.frozen(kw_only=True)
class guided(Guidance, Transform):
    """Guide with a negative prompt; the fields are those of `pure.Guidance`.

    The conditioning must be `pure.Branches`; without a negative one the request runs
    without guidance, and `Denoiser.notes` says so.

    Raises:
        ValueError: a value is out of range, or another guidance is set already.

    >>> guided(scale=3.0)
    guided(scale=3.0)

    Reference: Ho and Salimans, arXiv:2207.12598, equation 6.
    """

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the guidance."""
        new = narrowed(self, Guidance)
        if denoiser.guidance is not None and denoiser.guidance != new:
            raise ValueError(both(guided(**attrs.asdict(denoiser.guidance, recurse=False)), self, "the guidance"))
        return attrs.evolve(denoiser, guidance=new)
