r"""An error budget: skip while the changes that were accepted stay below a limit that goes from one value to another.

With the change $d$ of the front residual since the last computed step $c$, as `dbcache` measures it, and the part
$\tau = t / N$ of the run that is over,

$$\text{step } t \text{ is skipped} \iff \sum_{c < s \le t} d_s < (1 - \tau)\, \delta_0 + \tau\, \delta_1$$
"""

from typing import ClassVar

import attrs

from pure.checks import number, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.info import Answer
from pure.memory import Memory
from pure.plan import Probe, Span
from pure.rules import SHORTER, Rule, Threshold
from pure.step import Where

__all__ = ["budget"]


@attrs.frozen(cache_hash=True)
class Spent(Rule):
    """Compute once the accepted changes since the last computed step reach what this step may spend."""

    name: ClassVar[str] = "budget"
    before: ClassVar[type[Rule] | None] = Threshold
    early: float
    late: float
    warmup: int

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return max(self.early, self.late) > 0

    @property
    def forbids(self) -> bool:
        """Whether it always answers COMPUTE."""
        return not self.may_skip

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute the first steps, and where nothing may be spent; else ask for the change."""
        return Answer.COMPUTE if where.index < self.warmup or self._limit(where) <= 0 else Answer.DEFER

    def cure(self, count: int) -> str:
        """Return what to change."""
        return SHORTER if self.may_skip else "a budget of 0 never skips: raise early or late"

    def judge(self, change: float, where: Where, memory: Memory) -> Answer:
        """Answer once the change is known."""
        return Answer.SKIP if memory.accumulated + change < self._limit(where) else Answer.COMPUTE

    def _limit(self, where: Where) -> float:
        return (1 - where.fraction) * self.early + where.fraction * self.late


@attrs.frozen(kw_only=True)
class budget(Transform):
    """Skip by a limit of the changes that add up, which may grow: early steps decide what is drawn, late ones details.

    Every sample has its own sum and decision. It brings its own span and measures it; `dbcache` is refused beside it.

    Args:
        early: limit at the begin of the run, at least 0.
        late: limit at its end, at least 0. With both 0 every step is computed.
        front: first blocks, which always run and are measured, at least 1.
        back: last blocks, which always run.
        warmup: first steps, all of them computed.

    Raises:
        ValueError: a value is out of range, another span or probe is set, or there are fewer blocks.

    >>> budget(early=0.1, late=0.4).front
    1

    Reference: the sum of changes is that of TeaCache (Liu et al., arXiv:2411.19108), the changes are those of the
    first-block cache; the limit that grows is of this package.
    """

    early: float = attrs.field(default=0.15, validator=number(0.0, "the limit at the begin"))
    late: float = attrs.field(default=0.45, validator=number(0.0, "the limit at the end"))
    front: int = attrs.field(default=1, validator=whole(1, "the number of front blocks"))
    back: int = attrs.field(default=0, validator=whole(0, "the number of back blocks"))
    warmup: int = attrs.field(default=4, validator=whole(0, "the number of warm-up steps"))

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set span and probe, and add the rule."""
        size = len(denoiser.blocks)
        if self.front + self.back > size:
            raise ValueError(f"{self} asks for blocks that always run, but the denoiser has {size}; make them fewer")
        plan = denoiser.plan.set(span=Span(front=self.front, back=self.back), probe=Probe())
        return attrs.evolve(denoiser, plan=plan.add(Spent(self.early, self.late, self.warmup)))
