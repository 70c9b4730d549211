"""Pixels and latents of FLUX.2: sizes, and the autoencoder, whose latents are normalised channel by channel.

Shapes: B samples, C channels of a token, h x w tokens of 2 x 2 latents (N = h w), H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from PIL import Image

from pure.models.common.image import PATCH, ImageAutoencoder

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
        """Return latents (1, C, h, w) of a reference picture: made smaller if it is large, and cropped."""
        height, width = self.fitted(picture)
        image: PipelineImageInput = limited(picture)
        pixels = self.processor.preprocess(image, height=height, width=width, resize_mode="crop")
        patches = self.encoded(pixels).unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # (1, channels, h, 2, w, 2)
        latents = patches.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        mean, deviation = self._statistics(latents)
        return (latents - mean) / deviation

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, 3, H, W) in 0 to 1 of latents (B, C, h, w)."""
        latents = latents.to(self.vae.device)
        mean, deviation = self._statistics(latents)
        patches = (latents * deviation + mean).unflatten(1, (-1, PATCH, PATCH))  # (B, channels, 2, 2, h, w)
        latents = patches.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
        return self.shown(self.decoded(latents))

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the latents, (1, C, 1, 1) each."""
        norm = self.vae.bn
        mean, variance = norm.running_mean.view(1, -1, 1, 1), norm.running_var.view(1, -1, 1, 1)
        return mean.to(like), torch.sqrt(variance + self.vae.config["batch_norm_eps"]).to(like)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Turn latents (B, C, h, w) into tokens (B, N, C)."""
    return latents.flatten(2).transpose(1, 2).contiguous()


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Turn tokens (B, N, C) of `rows` x `columns` into latents (B, C, h, w).

    >>> latents = torch.arange(12.0).reshape(1, 2, 2, 3)
    >>> bool((unpack(pack(latents), 2, 3) == latents).all())
    True
    """
    return tokens.transpose(1, 2).unflatten(2, (rows, columns)).contiguous()


def limited(picture: Image.Image) -> Image.Image:
    """Return the picture with at most `AREA` pixels."""
    if picture.width * picture.height <= AREA:
        return picture
    scale = math.sqrt(AREA / (picture.width * picture.height))
    return picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.LANCZOS)
