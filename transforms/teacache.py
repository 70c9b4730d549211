r"""TeaCache: compute once the rescaled changes of the first block's modulated input add up to a threshold.

$$a_t = a_{t-1} + p\left(\frac{\lVert x_t - x_{t-1} \rVert_1}{\lVert x_{t-1} \rVert_1}\right),
\qquad \text{step } t \text{ is skipped} \iff a_t < \delta$$

with $a = 0$ at every computed step and a polynomial $p$ that was fitted for the model. The first steps and the last
one are computed.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from pure.checks import number, optional, refuse, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.plan import Probe, Published
from pure.transforms.accumulation import Sum

__all__ = ["teacache"]


@attrs.frozen(cache_hash=True)
class Rescaled(Sum):
    """Compute once the rescaled changes add up to the threshold."""

    name: ClassVar[str] = "teacache"


def _numbers(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


def _polynomial(instance: Any, attribute: attrs.Attribute, value: object) -> None:
    try:
        Probe(polynomial=value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        cure = "give a list of finite numbers, highest power first, or None for those published for the model"
        raise refuse(instance, attribute.name, value, cure) from None


@attrs.frozen(kw_only=True)
class teacache(Transform):
    """Skip all blocks by how much the first block's input has changed; no block runs to measure that.

    Every sample has its own sum and decision. Compose it with `scm` or a predictor; `dbcache` measures something else
    and is refused beside it. What is None is taken from what was published for the model: for FLUX.1 dev, HunyuanVideo
    and Wan 2.1 from text by the authors, with the thresholds and first steps of SGLang where it has them.

    Args:
        threshold: at least 0, which computes every step; for FLUX.1 the authors use 0.25 to 0.8.
        polynomial: coefficients, highest power first, fitted for the model. (1.0, 0.0) takes the changes as they are.
        warmup: first steps, all of them computed.

    Raises:
        ValueError: a value is out of range, another probe is set, the family does not say what its first block
            reads, or nothing was published for the model and a value is None.

    >>> teacache(threshold=0.25, polynomial=[1, 0]).polynomial
    (1, 0)

    Reference: Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", arXiv:2411.19108.
    """

    threshold: float | None = attrs.field(
        default=None, validator=optional(number(0.0, "the threshold", "use 0 to compute every step"))
    )
    polynomial: tuple[float, ...] | None = attrs.field(default=None, converter=_numbers, validator=_polynomial)
    warmup: int | None = attrs.field(default=None, validator=optional(whole(0, "the number of warm-up steps")))

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the probe and add the rule."""
        if denoiser.modulated is None:
            raise ValueError(
                "teacache measures the modulated input of the first block, which only puredit's own denoisers "
                "of FLUX.1, HunyuanVideo and Wan name; use dbcache(front=1, threshold=...), or a "
                "Probe(of=...) of your own, see docs/extending.md"
            )
        published: Published | None = getattr(denoiser.modulated, "published", None)
        if published is None and None in (self.threshold, self.polynomial):
            raise ValueError(
                f"{self}: no polynomial and threshold were published for this model; give teacache(threshold=..., "
                "polynomial=(1.0, 0.0)), which takes changes as they are, or a fitted polynomial"
            )
        found = published or Published(polynomial=(1.0, 0.0), threshold=0.0)
        polynomial = found.polynomial if self.polynomial is None else self.polynomial
        threshold = found.threshold if self.threshold is None else self.threshold
        rule = Rescaled(threshold, found.warmup if self.warmup is None else self.warmup)
        probe = Probe(of=denoiser.modulated, since="last step", polynomial=polynomial)
        return attrs.evolve(denoiser, plan=denoiser.plan.set(probe=probe).add(rule))
