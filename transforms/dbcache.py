r"""DBCache: always run the first and last blocks, reuse the middle while the front barely moves.

$$\text{skip} \iff \frac{\overline{|r_c - r_t|}}{\overline{|r_c|}} < \theta$$

with the front residual $r$ (what the first `front` blocks add) now and at the last
computed step $c$.
"""

import attrs

from pure.checks import choice, number, optional, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.plan import Probe, Span
from pure.rules import Accumulated, Continuous, Rule, Threshold, Total, Warmup

__all__ = ["dbcache"]


@attrs.frozen(kw_only=True)
class dbcache(Transform):
    """Dual-block cache: run the middle blocks only where the front residual has changed enough.

    Args:
        front: blocks at the start that always run, fewer than there are, or nothing is left to skip. The threshold
            measures their residual, so 0 needs a threshold of 0, or of 1 and above.
        back: blocks at the end that always run.
        threshold: at least 0: a step is skipped if the relative change of the front residual is
            below it; 0 never skips, 1 and above always does.
        warmup: number of first steps that are all computed; capped by the leading ones of a mask.
        warmup_interval: compute every n-th warm-up step; those between may be skipped.
        max_cached: most steps skipped in a run; None: no limit.
        max_continuous: most steps skipped in a row; None: no limit.
        max_accumulated: compute once the accepted changes since the last computed step add up to
            this; None: no limit. (cache-dit never resets this sum, so that reaching it once
            switches its cache off for the rest of the run; here every computed step resets it.)
        importance: measure only tokens whose own relative change exceeds this; 0 measures all.
        downsample: measure every n-th feature only.
        follow: "own": every guidance branch measures its own change; "conditional": the
            unconditional branch uses the change of the conditional one and keeps its own limits.

    Raises:
        ValueError: a value is out of range, or the blocks do not fit the stack.

    >>> dbcache(front=1, threshold=0.12)
    dbcache(threshold=0.12)

    Reference: https://github.com/vipshop/cache-dit (DBCache); the threshold on the first
    block's residual is ParaAttention's first-block cache.
    """

    front: int = attrs.field(default=1, validator=whole(0, "the number of front blocks"))
    back: int = attrs.field(default=0, validator=whole(0, "the number of back blocks"))
    threshold: float = attrs.field(
        default=0.24, validator=number(0.0, "the threshold", "0.05 to 0.4 are common, 0 never skips")
    )
    warmup: int = attrs.field(default=4, validator=whole(0, "the number of warm-up steps"))
    warmup_interval: int = attrs.field(default=1, validator=whole(1, "the interval of warm-up steps"))
    max_cached: int | None = attrs.field(
        default=None, validator=optional(whole(0, "the limit of skipped steps (None: no limit)"))
    )
    max_continuous: int | None = attrs.field(
        default=3, validator=optional(whole(0, "the limit of skips in a row (None: no limit)"))
    )
    max_accumulated: float | None = attrs.field(
        default=None, validator=optional(number(0.0, "the accumulated limit", "use None for no limit"))
    )
    importance: float = attrs.field(default=0.0, validator=number(0.0, "the importance", "use 0 for all tokens"))
    downsample: int = attrs.field(default=1, validator=whole(1, "the downsampling factor"))
    follow: str = attrs.field(default="own", validator=choice("own", "conditional"))

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the span and add the rules."""
        size = len(denoiser.blocks)
        if self.front + self.back > size:
            raise ValueError(
                f"dbcache(front={self.front}, back={self.back}) asks for {self.front + self.back} blocks that always "
                f"run, but the denoiser has {size}; make front + back fewer than {size}"
            )
        if 0 < self.threshold < 1 and (self.front == 0 or size == 1):
            cure = "use front=1, or threshold=1 to skip without measuring"
            if size == 1:  # a model in one piece: with front=1 nothing would be left to skip
                cure = "choose the steps with scm(mask=..., policy='static'), or use front=0 with threshold=1"
            raise ValueError(
                f"dbcache(front={self.front}, threshold={self.threshold}) has no front block whose change could be "
                f"compared with the threshold; {cure}"
            )
        probe = Probe(importance=self.importance, downsample=self.downsample, follow=self.follow)
        plan = denoiser.plan.set(span=Span(front=self.front, back=self.back), probe=probe).add(*self._rules())
        return attrs.evolve(denoiser, plan=plan)

    def _rules(self) -> tuple[Rule, ...]:
        rules: list[Rule] = [Warmup(self.warmup, self.warmup_interval), Threshold(self.threshold)]
        if self.max_cached is not None:
            rules.append(Total(self.max_cached))
        if self.max_continuous is not None:
            rules.append(Continuous(self.max_continuous))
        if self.max_accumulated is not None:
            rules.append(Accumulated(self.max_accumulated))
        return tuple(rules)
