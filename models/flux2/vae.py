"""Pixels and latents of FLUX.2: sizes, and the autoencoder, whose tokens are normalised channel by channel.

Shapes: B samples, C channels of a token, h x w tokens of 2 x 2 latents (N = h w), H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from PIL import Image

from pure.models.common.image import ImageAutoencoder, pack

if TYPE_CHECKING:
    from diffusers.image_processor import PipelineImageInput
    from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor

AREA = 1024 * 1024  # pixels that a reference picture has at most


@attrs.frozen(eq=False)
class ImageCodec(ImageAutoencoder):
    """The autoencoder."""

    latents = ("latent_channels", 32)

    @classmethod
    def halvings(cls, config: Mapping[str, Any]) -> int:
        """Return one less than the levels."""
        return len(config.get("block_out_channels", (128, 256, 512, 512))) - 1

    @property
    def processor(self) -> Flux2ImageProcessor:
        """What crops pictures and scales their values."""
        from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor

        return Flux2ImageProcessor(vae_scale_factor=self.patch)

    def fitted(self, picture: Image.Image) -> tuple[int, int]:
        """Return height and width that a reference picture is read with, in pixels.

        Raises:
            ValueError: the picture is too small, or too long and narrow.
        """
        self.processor.check_image_input(picture)
        width, height = limited(picture).size
        return height // self.patch * self.patch, width // self.patch * self.patch

    def encode(self, picture: Image.Image) -> torch.Tensor:
        """Return tokens (1, N, C) of a reference picture: made smaller if it is large, and cropped."""
        height, width = self.fitted(picture)
        image: PipelineImageInput = limited(picture)
        pixels = self.processor.preprocess(image, height=height, width=width, resize_mode="crop")
        tokens = pack(self.encoded(pixels))
        mean, deviation = self._statistics(tokens)
        return (tokens - mean) / deviation

    def denormalised(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, N, C) as they are before they are normalised."""
        mean, deviation = self._statistics(tokens)
        return tokens * deviation + mean

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, 3, H, W) in 0 to 1 of latents (B, C / 4, 2h, 2w) that are not normalised."""
        return self.shown(self.decoded(latents))

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the tokens, (C,) each."""
        norm = self.vae.bn
        deviation = torch.sqrt(norm.running_var + self.vae.config["batch_norm_eps"])
        return norm.running_mean.to(like), deviation.to(like)


def limited(picture: Image.Image) -> Image.Image:
    """Return the picture with at most `AREA` pixels."""
    if picture.width * picture.height <= AREA:
        return picture
    scale = math.sqrt(AREA / (picture.width * picture.height))
    return picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.LANCZOS)
