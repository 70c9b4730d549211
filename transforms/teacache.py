r"""TeaCache: compute once the rescaled changes of the first block's modulated input add up to a threshold.

$$a_t = a_{t-1} + p\left(\frac{\lVert x_t - x_{t-1} \rVert_1}{\lVert x_{t-1} \rVert_1}\right),
\qquad \text{step } t \text{ is skipped} \iff a_t < \delta$$

with $a = 0$ at every computed step and a polynomial $p$ that was fitted for the model.
"""

from typing import ClassVar

import attrs

from pure.checks import number
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.info import Answer
from pure.memory import Memory
from pure.plan import Probe
from pure.rules import Rule, Threshold
from pure.step import Where

__all__ = ["teacache"]

FLUX = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)


@attrs.frozen(cache_hash=True)
class Sum(Rule):
    """Compute the last step, and once the changes since the last computed one add up to `threshold`."""

    name: ClassVar[str] = "teacache"
    before: ClassVar[type[Rule] | None] = Threshold
    threshold: float

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return self.threshold > 0

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute the last step, else ask for the change."""
        always = self.threshold <= 0 or where.index == where.count - 1
        return Answer.COMPUTE if always else Answer.DEFER

    def judge(self, change: float, where: Where, memory: Memory) -> Answer:
        """Answer once the change is known."""
        return Answer.SKIP if memory.accumulated + change < self.threshold else Answer.COMPUTE


@attrs.frozen(kw_only=True)
class teacache(Transform):
    """Skip all blocks by how much the first block's input has changed; no block runs to measure that.

    Every sample has its own sum and decision. Compose it with `scm` or a predictor; `dbcache` measures something else
    and is refused beside it.

    Args:
        threshold: at least 0, which computes every step; for FLUX.1 the authors use 0.25 to 0.8.
        polynomial: coefficients, highest power first, fitted for the model; the default is the authors' for FLUX.1
            dev. (1.0, 0.0) takes the changes as they are.

    Raises:
        ValueError: a value is out of range, another probe is set, or the family does not say what its first block
            reads.

    >>> teacache(threshold=0.25).threshold
    0.25

    Reference: Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", arXiv:2411.19108.
    """

    threshold: float = attrs.field(default=0.4, validator=number(0.0, "the threshold", "use 0 to compute every step"))
    polynomial: tuple[float, ...] = FLUX

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the probe and add the rule."""
        if denoiser.modulated is None:
            raise ValueError(
                "teacache measures the modulated input of the first block, which only FLUX.1 says what it is; use "
                "dbcache(front=1, threshold=...), or a Probe(of=...) of your own, see docs/extending.md"
            )
        probe = Probe(of=denoiser.modulated, since="last step", polynomial=self.polynomial)
        return attrs.evolve(denoiser, plan=denoiser.plan.set(probe=probe).add(Sum(self.threshold)))
