r"""FORA: compute every n-th step.

$$\text{step } t \text{ is computed} \iff t < w \ \text{ or } \ t \bmod n = 0$$

with an interval of $n$ steps after $w$ steps of warm-up.
"""

import attrs

from pure.checks import whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.notes import Note
from pure.rules import SHORTER, Mask
from pure.step import MOST_STEPS

__all__ = ["fora"]


@attrs.frozen(kw_only=True)
class fora(Transform):
    """Compute every n-th step and skip all others; composed with a predictor, it is the schedule of TaylorSeer's paper.

    It is its own mask, static and for any number of steps, and needs no front blocks: nothing is measured.
    `dbcache(front=..., back=...)` beside it says which blocks run at skipped steps; its threshold is not asked.

    Args:
        interval: of the computed steps, at least 1; 1 computes all.
        warmup: first steps, all of them computed.

    Raises:
        ValueError: a value is out of range, or another mask is set.

    >>> fora(interval=3, warmup=2).mask(8)
    (1, 1, 0, 1, 0, 0, 1, 0)

    Reference: Selvaraju et al., "FORA: Fast-Forward Caching in Diffusion Transformer Acceleration", arXiv:2407.01425.
    The paper repeats what attention and feed-forward networks of every block added; their sum is what is repeated here.
    """

    interval: int = attrs.field(default=3, validator=whole(1, "the interval", MOST_STEPS))
    warmup: int = attrs.field(default=0, validator=whole(0, "the number of warm-up steps"))

    def mask(self, count: int) -> tuple[int, ...]:
        """Return the entries: 1 in the first `warmup` places and at every multiple of `interval`."""
        return tuple(int(index < self.warmup or index % self.interval == 0) for index in range(count))

    @property
    def cure(self) -> str:
        """What to change where it computes every step of a run."""
        return "an interval of 1 computes all: raise it" if self.interval == 1 else SHORTER

    def notes(self, count: int) -> tuple[Note, ...]:
        """Return none: the mask fits any number of steps."""
        return ()

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Add the mask."""
        return attrs.evolve(denoiser, plan=denoiser.plan.add(Mask(self, "static")))
