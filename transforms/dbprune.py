r"""DBPrune: skip every middle block by itself, while what enters it barely moves.

$$\text{block } i \text{ is skipped} \iff
\frac{\lVert h_i(c_i) - h_i(t) \rVert_1}{\lVert h_i(c_i) \rVert_1} < \theta$$

with what enters block $i$ now, $h_i(t)$, and what entered it when it was last computed, at step $c_i$.
"""

import attrs

from pure.checks import choice, number, optional, refuse, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.plan import Probe, Span
from pure.rules import Continuous, Rule, Threshold, Total, Warmup

__all__ = ["dbprune"]


def _indices(instance: object, attribute: attrs.Attribute, value: object) -> None:
    if not isinstance(value, tuple) or not all(type(each) is int and each >= 0 for each in value):
        raise refuse(instance, attribute.name, value, "give indices of blocks, such as (3, 4)")


@attrs.frozen(kw_only=True)
class dbprune(Transform):
    """Skip middle blocks one by one.

    Every sample and every block has its own residual and decision: each block that may be skipped waits for the device
    once. Limits count steps, and a step with any block skipped counts as skipped. What a skipped block adds is
    repeated, or extrapolated by a predictor.

    Args:
        front: blocks at the start that always run.
        back: blocks at the end that always run.
        keep: indices of further blocks that always run.
        threshold: at least 0: a block is skipped if the relative change of its input is below it; 0 never skips, 1 and
            above always does.
        warmup: number of first steps that are all computed.
        max_cached: most steps with a skipped block in a run; None: no limit.
        max_continuous: most of them in a row; None: no limit.
        importance: measure only tokens whose own relative change exceeds this; 0 measures all.
        downsample: measure every n-th feature only.
        follow: "own": every guidance branch measures its own changes; "conditional": the unconditional branch uses
            those of the conditional one.

    Raises:
        ValueError: a value is out of range, there are fewer blocks, none of them may be skipped, or another span or
            probe is set.

    >>> dbprune(front=2, threshold=0.05).back
    0

    Reference: dynamic block pruning of cache-dit (github.com/vipshop/cache-dit).
    """

    front: int = attrs.field(default=1, validator=whole(0, "the number of front blocks"))
    back: int = attrs.field(default=0, validator=whole(0, "the number of back blocks"))
    keep: tuple[int, ...] = attrs.field(default=(), validator=_indices)
    threshold: float = attrs.field(default=0.08, validator=number(0.0, "the threshold", "use 0 to never skip"))
    warmup: int = attrs.field(default=4, validator=whole(0, "the number of warm-up steps"))
    max_cached: int | None = attrs.field(
        default=None, validator=optional(whole(0, "the limit of skipped steps (None: no limit)"))
    )
    max_continuous: int | None = attrs.field(
        default=None, validator=optional(whole(0, "the limit of skips in a row (None: no limit)"))
    )
    importance: float = attrs.field(default=0.0, validator=number(0.0, "the importance", "use 0 for all tokens"))
    downsample: int = attrs.field(default=1, validator=whole(1, "the downsampling factor"))
    follow: str = attrs.field(default="own", validator=choice("own", "conditional"))

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set span and probe, and add the rules."""
        size = len(denoiser.blocks)
        span = Span(front=self.front, back=self.back, each=True, keep=self.keep)
        if max(self.keep, default=0) >= size:
            cure = f"give indices of 0 to {size - 1}"
            raise ValueError(f"{self} keeps a block that is not there: the denoiser has {size}; {cure}")
        if not span.left(size):
            cure = "make front and back smaller, or keep fewer"
            raise ValueError(f"{self} leaves no block to skip: the denoiser has {size}; {cure}")
        rules: list[Rule] = [Warmup(self.warmup), Threshold(self.threshold)]
        rules += [] if self.max_cached is None else [Total(self.max_cached)]
        rules += [] if self.max_continuous is None else [Continuous(self.max_continuous)]
        probe = Probe(importance=self.importance, downsample=self.downsample, follow=self.follow)
        return attrs.evolve(denoiser, plan=denoiser.plan.set(span=span, probe=probe).add(*rules))
