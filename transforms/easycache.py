r"""EasyCache: compute once the changes that the prediction is foreseen to make add up to a threshold.

With the latents $x$ and the predictions $v$ of the last two computed steps $c$ and $c'$,

$$k = \frac{\lVert v_c - v_{c'} \rVert_1}{\lVert x_c - x_{c'} \rVert_1}, \qquad
a_t = a_{t-1} + k\, \frac{\lVert x_t - x_{t-1} \rVert_1}{\lVert v_c \rVert_1}, \qquad
\text{step } t \text{ is skipped} \iff a_t < \delta$$

with $a = 0$ at every computed step. The first steps and the last one are computed.
"""

from typing import ClassVar

import attrs
import torch

from pure.checks import choice, number, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.plan import Probe
from pure.transforms.accumulation import Sum

__all__ = ["easycache"]


@attrs.frozen(cache_hash=True)
class Foreseen(Sum):
    """Compute once the foreseen changes of the prediction add up to the threshold."""

    name: ClassVar[str] = "easycache"
    known: ClassVar[int] = 2  # how the prediction answers to the latents takes two predictions


@attrs.frozen
class Latents:
    """The latents as they are: a record, so that a saved state names the same one."""

    reads_sigma: ClassVar[bool] = False

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor | None) -> torch.Tensor:
        """Return them."""
        return latents


@attrs.frozen(kw_only=True)
class easycache(Transform):
    """Skip all blocks by how much the latents have moved and how the prediction answered to that; no table is needed.

    Every sample has its own sum and decision. Compose it with `scm` or a predictor; `dbcache` measures something else
    and is refused beside it. Until two steps are computed nothing is known, and steps are computed.

    Args:
        threshold: at least 0, which computes every step; the authors use 0.025 to 0.2.
        warmup: first steps, all of them computed.
        follow: "own": every guidance branch has its own changes; "conditional": the unconditional branch takes those of
            the conditional one, as the authors do.

    Raises:
        ValueError: a value is out of range, or another probe is set.

    >>> easycache(threshold=0.1).warmup
    10

    Reference: Zhou et al., "Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching",
    arXiv:2507.02860, with k from computed steps, as the authors' code has it. They repeat what the whole
    model added to its latents; here what the blocks added is filled in, and the model's head runs.
    """

    threshold: float = attrs.field(default=0.05, validator=number(0.0, "the threshold", "use 0 to compute every step"))
    warmup: int = attrs.field(default=10, validator=whole(0, "the number of warm-up steps"))
    follow: str = attrs.field(default="own", validator=choice("own", "conditional"))

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the probe and add the rule."""
        probe = Probe(seen=Latents(), gain=True, since="last step", follow=self.follow)
        plan = denoiser.plan.set(probe=probe).add(Foreseen(self.threshold, self.warmup))
        return attrs.evolve(denoiser, plan=plan)
