r"""MagCache: skip while the sizes of residuals, known from another run, let the last one stand for those that follow.

With the ratio $m_t$ of the size of the residual at step $t$ to that of the step before,

$$\rho_t = \prod_{c < s \le t} m_s, \qquad e_t = \sum_{c < s \le t} |1 - \rho_s|$$

since the last computed step $c$, step $t$ is skipped where $e_t \le \delta$ and $t - c \le K$.
"""

import math
from typing import Any

import attrs

from pure.checks import number, refuse, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.notes import Note
from pure.rules import Mask

__all__ = ["magcache"]


def _ratios(instance: object, attribute: attrs.Attribute, value: object) -> None:
    good = isinstance(value, tuple) and value and all(isinstance(each, float) for each in value)
    if not good or not all(math.isfinite(each) and each > 0 for each in value):  # type: ignore[union-attr]
        cure = "give one number above 0 a step: the mean size of its residual divided by that of the step before"
        raise refuse(instance, attribute.name, value, cure)


def _floats(value: Any) -> Any:
    try:
        return tuple(map(float, value))
    except (TypeError, ValueError):
        return value


@attrs.frozen(kw_only=True, cache_hash=True)
class magcache(Transform):
    """Skip by a table of sizes; it is its own mask, static, so nothing is measured and no front blocks are needed.

    Args:
        ratios: one a step, above 0, measured on a run without a cache; the first is 1, as no step is before it.
            diffusers prints them with `MagCacheConfig(calibrate=True)` and has those of FLUX.1 as `FLUX_MAG_RATIOS`.
        threshold: of the accumulated error, at least 0; the authors use 0.06 to 0.24.
        max_skip: most steps skipped in a row.
        retention: the part of the steps, from the first on, that is computed, 0 to 1.

    Raises:
        ValueError: a value is out of range, or another mask is set.

    >>> magcache(ratios=(1.0, 1.0, 0.98, 0.98, 0.98, 0.98), threshold=0.06, max_skip=3, retention=0.2).mask(6)
    (1, 0, 0, 0, 1, 0)

    Reference: Ma et al., "MagCache: Fast Video Generation with Magnitude-Aware Cache", arXiv:2506.09045. The decisions
    are those of diffusers 0.42.
    """

    ratios: tuple[float, ...] = attrs.field(converter=_floats, validator=_ratios)
    threshold: float = attrs.field(default=0.06, validator=number(0.0, "the threshold"))
    max_skip: int = attrs.field(default=3, validator=whole(0, "the limit of skips in a row"))
    retention: float = attrs.field(default=0.2, validator=number(0.0, "the retained part", most=1.0))

    def mask(self, count: int) -> tuple[int, ...]:
        """Return the entries; for another number of steps than there are ratios, each takes the nearest."""
        early = max(1, math.floor(self.retention * count + 0.5))  # the first step has nothing to repeat
        scale = (len(self.ratios) - 1) / max(count - 1, 1)
        entries, ratio, error, streak = [1] * min(early, count), 1.0, 0.0, 0
        for index in range(early, count):
            ratio *= self.ratios[round(index * scale)]
            error, streak = error + abs(1 - ratio), streak + 1
            skips = error <= self.threshold and streak <= self.max_skip
            entries.append(int(not skips))
            if not skips:
                ratio, error, streak = 1.0, 0.0, 0
        return tuple(entries)

    @property
    def cure(self) -> str:
        """What to change where it computes every step of a run."""
        if self.max_skip == 0:
            return "with 0 skips in a row nothing is skipped: raise max_skip"
        return "lower retention, which is the part of the steps that is computed, or raise the threshold"

    def notes(self, count: int) -> tuple[Note, ...]:
        """Say if the ratios are those of another number of steps."""
        if len(self.ratios) == count:
            return ()
        return (Note(f"magcache has ratios of {len(self.ratios)} steps; each of {count} takes the nearest"),)

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Add the mask."""
        return attrs.evolve(denoiser, plan=denoiser.plan.add(Mask(self, "static")))
