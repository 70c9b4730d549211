r"""SpeCa: draft steps ahead with a predictor, verify every draft, and compute once one is rejected.

The last blocks run at every step, on what the predictor filled in; what they add, $b_t$, is compared with what the same
predictor makes of what they added at the computed steps, $\hat b_t$:

$$e_t = \frac{\lVert b_t - \hat b_t \rVert_2}{\lVert b_t \rVert_2}, \qquad
\text{step } t + 1 \text{ is computed} \iff e_t > \max(\tau_0\, \beta^{t/N}, \tau_1)$$

or so many steps have been drafted in a row.
"""

from typing import ClassVar

import attrs

from pure.checks import number, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.info import Answer
from pure.memory import Memory
from pure.plan import Probe, Span
from pure.rules import SHORTER, Mask, Rule
from pure.step import Where

__all__ = ["speca"]

LEAST = 2
"""Drafts that are not rejected, unless another number is given."""


@attrs.frozen(cache_hash=True)
class Accepted(Rule):
    """Skip as long as the last draft was accepted."""

    name: ClassVar[str] = "speca"
    after: ClassVar[type[Rule] | None] = Mask
    threshold: float
    decay: float
    floor: float
    least: int
    most: int
    warmup: int

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return self.most > 0

    def cure(self, count: int) -> str:
        """Return what to change."""
        return SHORTER if self.most > 0 else "with most=0 nothing is drafted: raise it"

    @property
    def forbids(self) -> bool:
        """Whether it always answers COMPUTE."""
        return not self.may_skip

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute the first steps, after so many drafts, and after one that was rejected."""
        if where.index < self.warmup or memory.streak >= self.most:
            return Answer.COMPUTE
        limit = max(self.threshold * self.decay**where.fraction, self.floor)
        rejected = memory.streak >= max(self.least, 1) and not memory.size <= limit  # NaN is rejected
        return Answer.COMPUTE if rejected else Answer.SKIP


@attrs.frozen(kw_only=True)
class speca(Transform):
    """Draft, verify, and compute where a draft was rejected; a predictor such as `taylorseer(order=1)` goes with it.

    Every sample has its own drafts. No step waits for its own verification: it decides about the next one. It brings
    its own span, of last blocks only; `dbcache` is refused beside it.

    Args:
        threshold: of the relative error at the begin of the run, at least 0.
        decay: what it is multiplied with over the run, above 0 and at most 1.
        floor: least threshold.
        least: drafts in a row that are not rejected, at most `most`; the default goes with any `most`.
        most: drafts in a row, after which a step is computed.
        back: last blocks, which always run and verify, at least 1.
        warmup: first steps, all of them computed.

    Raises:
        ValueError: a value is out of range, another span or probe is set, or there are fewer blocks.

    >>> speca(threshold=0.2).most
    8

    Reference: Liu et al., "SpeCa: Accelerating Diffusion Transformers with Speculative Feature Caching",
    arXiv:2509.11628. The schedule of the threshold and the numbers of drafts are those of its authors' code.
    """

    threshold: float = attrs.field(default=0.3, validator=number(0.0, "the threshold"))
    decay: float = attrs.field(default=0.3, validator=number(0.0, "the decay", "use 1", most=1.0, above=True))
    floor: float = attrs.field(default=0.1, validator=number(0.0, "the least threshold"))
    least: int = attrs.field(default=LEAST, validator=whole(0, "the number of drafts that are not rejected"))
    most: int = attrs.field(default=8, validator=whole(0, "the limit of drafts in a row"))
    back: int = attrs.field(default=1, validator=whole(1, "the number of back blocks"))
    warmup: int = attrs.field(default=4, validator=whole(0, "the number of warm-up steps"))

    def __attrs_post_init__(self) -> None:
        if self.least > max(self.most, LEAST):
            cure = f"give at most {self.most}, or raise most"
            raise ValueError(
                f"speca(least={self.least}, most={self.most}): after {self.most} drafts a step is computed; {cure}"
            )

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set span and probe, and add the rule."""
        size = len(denoiser.blocks)
        if self.back > size:
            raise ValueError(f"{self} asks for blocks that always run, but the denoiser has {size}; make them fewer")
        rule = Accepted(self.threshold, self.decay, self.floor, self.least, self.most, self.warmup)
        plan = denoiser.plan.set(span=Span(back=self.back), probe=Probe(verify=True)).add(rule)
        return attrs.evolve(denoiser, plan=plan)
