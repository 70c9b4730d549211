r"""SeaCache: compute once the changes of the latents, seen through the filter of their noise level, reach a threshold.

Along every axis of frequencies $f$, with the power $S = \lvert f \rvert^{-\beta}$ of clean pictures,

$$G_\sigma(f) = \frac{(1 - \sigma)\, S(f)}{(1 - \sigma)^2\, S(f) + \sigma^2}, \qquad
y_t = \mathcal{F}^{-1}\!\left[ \frac{\prod G_\sigma}{\overline{\prod G_\sigma}}\, \mathcal{F} x_t \right], \qquad
a_t = a_{t-1} + \frac{\lVert y_t - y_{t-1} \rVert_1}{\lVert y_{t-1} \rVert_1}$$

and step $t$ is skipped where $a_t < \delta$, with $a = 0$ at every computed step.
"""

from typing import ClassVar

import attrs
import torch

from pure.checks import number, optional, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.plan import Probe
from pure.transforms.accumulation import Sum

__all__ = ["seacache"]

EDGE = 1e-6
"""Noise levels stay so far from 0 and 1."""

TINY = 1e-16


@attrs.frozen(cache_hash=True)
class Filtered(Sum):
    """Compute once the changes of the filtered latents add up to the threshold."""

    name: ClassVar[str] = "seacache"


@attrs.frozen
class Filter:
    """The filter of a noise level, over all axes after the channels.

    Attributes:
        power: of the spectrum of clean pictures, beta.
    """

    power: float

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return latents (B, channels, ...) filtered for their noise levels (B,).

        Raises:
            ValueError: they are no grid of rows and columns.
        """
        if latents.ndim < 4:
            raise ValueError(
                f"seacache filters latents along rows and columns, (B, channels, ..., rows, columns), and these are "
                f"{tuple(latents.shape)}: this model packs them into tokens; use dbcache(...) or easycache(...)"
            )
        axes = tuple(range(2, latents.ndim))
        spectrum = torch.fft.fftn(latents.float(), dim=axes)
        for axis in axes:
            gain = self._gain(latents.shape[axis], sigma.to(latents.device, torch.float32).clamp(EDGE, 1 - EDGE))
            gain = gain / gain.mean(1, keepdim=True)  # the mean of all axes is the product of their means
            spectrum = spectrum * gain.view(len(gain), *(-1 if each == axis else 1 for each in range(1, latents.ndim)))
        return torch.fft.ifftn(spectrum, dim=axes).real.to(latents.dtype)

    def _gain(self, size: int, sigma: torch.Tensor) -> torch.Tensor:
        """Return the response (B, size) along an axis."""
        clean = 1 / (torch.fft.fftfreq(size, device=sigma.device).abs() ** self.power + TINY)
        left, noise = 1 - sigma.unsqueeze(1), sigma.unsqueeze(1)
        return left * clean / (left**2 * clean + noise**2 + TINY)


@attrs.frozen(kw_only=True)
class seacache(Transform):
    """Skip all blocks by how much of the picture in the latents has changed; no block runs to measure that.

    Every sample has its own sum and decision. The authors extrapolate what is skipped from two computed steps:
    `pure.compose(seacache(), newton(order=1))`. `dbcache` measures something else and is refused beside it.

    Args:
        threshold: at least 0, which computes every step.
        power: of the spectrum of clean pictures, 0 to 10.
        warmup: first steps, all of them computed.
        ending: last steps, all of them computed.
        max_continuous: most steps skipped in a row; None: no limit.

    Raises:
        ValueError: a value is out of range, another probe is set, the latents are packed into tokens (FLUX,
            Qwen-Image), or the steps have no noise levels.

    >>> seacache(threshold=0.2).max_continuous
    2

    Reference: "SeaCache: Spectral-Evolution-Aware Cache for Accelerating Diffusion Models", arXiv:2602.18993. The
    decisions are those of diffusers 0.42 for Wan.
    """

    threshold: float = attrs.field(default=0.25, validator=number(0.0, "the threshold", "use 0 to compute every step"))
    power: float = attrs.field(default=3.0, validator=number(0.0, "the power", "use 3.0", most=10.0))
    warmup: int = attrs.field(default=1, validator=whole(0, "the number of warm-up steps"))
    ending: int = attrs.field(default=1, validator=whole(0, "the number of last steps that are computed"))
    max_continuous: int | None = attrs.field(
        default=2, validator=optional(whole(0, "the limit of skips in a row (None: no limit)"))
    )

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the probe and add the rule."""
        rule = Filtered(self.threshold, self.warmup, self.ending, self.max_continuous)
        probe = Probe(seen=Filter(self.power), since="last step")
        return attrs.evolve(denoiser, plan=denoiser.plan.set(probe=probe).add(rule))
