r"""DBCache: always run the first and last blocks, reuse the middle while the front barely moves.

$$\text{skip} \iff \frac{\overline{|r_c - r_t|}}{\overline{|r_c|}} < \theta$$

with the front residual $r$ (what the first `front` blocks add) now and at the last
computed step $c$.
"""

import math
from typing import Any

import attrs

from pure.compose import Transform
from pure.denoiser import Denoiser
from pure.plan import Probe, Span
from pure.rules import Accumulated, Continuous, Rule, Threshold, Total, Warmup, find

__all__ = ["dbcache"]


def _count(least: int, meaning: str) -> Any:
    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"dbcache({attribute.name}={value!r}): {meaning} must be a whole number of at least {least}"
            )

    return check


def _number(least: float, meaning: str, cure: str, below: float = math.inf) -> Any:
    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not least <= value < below:
            raise ValueError(f"dbcache({attribute.name}={value!r}): {meaning}; {cure}")

    return check


def _choice(*allowed: str) -> Any:
    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"dbcache({attribute.name}={value!r}): choose one of {list(allowed)}")

    return check


@attrs.frozen(kw_only=True)
class dbcache(Transform):
    """Dual-block cache.

    Args:
        front: blocks at the start that always run, 0 up to the size of the stack. Their
            residual is what the threshold measures, so 0 needs a threshold of 0 or of 1 and above.
        back: blocks at the end that always run.
        threshold: relative change of the front residual below which a step is skipped; 0 never
            skips, 1 and above always does.
        warmup: the first steps, all computed; capped by the leading ones of a mask.
        warmup_interval: compute every n-th warm-up step; those between may be skipped.
        max_cached: most steps skipped in a run; None: no limit.
        max_continuous: most steps skipped in a row; None: no limit.
        max_accumulated: compute once the accepted changes since the last computed step add up to
            this; None: no limit. (cache-dit never resets this sum, so that one trip
            switches its cache off for good; here every computed step resets it.)
        importance: measure only tokens whose own relative change exceeds this; 0 measures all.
        downsample: measure every n-th feature only.
        follow: "own": every guidance branch measures itself; "conditional": the unconditional
            branch takes the change measured on the conditional one, its limits stay its own.

    Raises:
        ValueError: a value is out of range, or the blocks do not fit the stack.

    >>> dbcache(front=1, threshold=0.12)
    dbcache(front=1, back=0, threshold=0.12, warmup=4, warmup_interval=1, max_cached=None, \
max_continuous=3, max_accumulated=None, importance=0.0, downsample=1, follow='own')

    Reference: https://github.com/vipshop/cache-dit (DBCache); the threshold on the first
    block's residual is ParaAttention's first-block cache.
    """

    front: int = attrs.field(default=1, validator=_count(0, "the number of front blocks"))
    back: int = attrs.field(default=0, validator=_count(0, "the number of back blocks"))
    threshold: float = attrs.field(
        default=0.24,
        validator=_number(-math.inf, "the threshold must be a finite number", "0.05 to 0.4 are usual, 0 never skips"),
    )
    warmup: int = attrs.field(default=4, validator=_count(0, "the number of warm-up steps"))
    warmup_interval: int = attrs.field(default=1, validator=_count(1, "the interval of warm-up steps"))
    max_cached: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_count(0, "the limit of skipped steps (None: no limit)"))
    )
    max_continuous: int | None = attrs.field(
        default=3, validator=attrs.validators.optional(_count(0, "the limit of skips in a row (None: no limit)"))
    )
    max_accumulated: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(
            _number(0.0, "the accumulated limit must be a number of at least 0", "use None for no limit")
        ),
    )
    importance: float = attrs.field(
        default=0.0, validator=_number(0.0, "the importance must be a number of at least 0", "use 0 for all tokens")
    )
    downsample: int = attrs.field(default=1, validator=_count(1, "the downsampling factor"))
    follow: str = attrs.field(default="own", validator=_choice("own", "conditional"))

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the span and add the rules."""
        size = len(denoiser.blocks)
        if self.front + self.back > size:
            raise ValueError(
                f"dbcache(front={self.front}, back={self.back}) asks for {self.front + self.back} blocks that always "
                f"run, but the denoiser has {size}; make front + back at most {size}"
            )
        if 0 < self.threshold < 1 and (self.front == 0 or size == 1):
            cure = "use front=1, or threshold=1 to skip without measuring"
            if size == 1:  # a model in one piece: with front=1 nothing would be left to skip
                cure = "say which steps to skip: scm(mask=..., policy='static'), or front=0 with threshold=1"
            raise ValueError(
                f"dbcache(front={self.front}, threshold={self.threshold}) has no front block whose change could be "
                f"compared with the threshold; {cure}"
            )
        self._check_limits(denoiser)
        probe = Probe(importance=self.importance, downsample=self.downsample, follow=self.follow)
        plan = denoiser.plan.set(span=Span(front=self.front, back=self.back), probe=probe).add(*self._rules())
        return attrs.evolve(denoiser, plan=plan)

    def _check_limits(self, denoiser: Denoiser) -> None:
        """A limit left out says "no limit": it contradicts one that another dbcache has set."""
        if denoiser.plan.span is None:
            return
        for kind in (Total, Continuous, Accumulated):
            old, new = find(denoiser.plan.rules, kind), find(self._rules(), kind)
            if old != new:
                raise ValueError(
                    f"a limit is set twice, to {old or 'none'} and to {new or 'none'}; compose only one dbcache"
                )

    def _rules(self) -> tuple[Rule, ...]:
        rules: list[Rule] = [Warmup(self.warmup, self.warmup_interval), Threshold(self.threshold)]
        if self.max_cached is not None:
            rules.append(Total(self.max_cached))
        if self.max_continuous is not None:
            rules.append(Continuous(self.max_continuous))
        if self.max_accumulated is not None:
            rules.append(Accumulated(self.max_accumulated))
        return tuple(rules)
