"""The base of the autoencoders of images and of videos."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch


@attrs.frozen(eq=False)
class Autoencoder:
    """An autoencoder of diffusers, on whose device and in whose type it works.

    Attributes:
        vae: diffusers' module.
    """

    vae: Any

    def encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the likeliest latents of pixels in -1 to 1, as the module has them."""
        with torch.no_grad():
            return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mode()

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels in -1 to 1 of latents as the module has them."""
        return self.vae.decode(latents.to(self.vae.device, self.vae.dtype), return_dict=False)[0]

    def statistics(self, like: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return mean and standard deviation of the latents of a video, (1, C, 1, 1, 1) each, in the type of `like`."""
        config = self.vae.config
        return [torch.tensor(config[name]).view(1, -1, 1, 1, 1).to(like) for name in ("latents_mean", "latents_std")]
