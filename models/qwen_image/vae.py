"""Pixels and latents of Qwen-Image: sizes, and the autoencoder.

Shapes: B samples, C latent channels, h x w tokens of 2 x 2 latents, H x W pixels.
"""

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from PIL import Image

from pure.models.common.image import ImageAutoencoder

STEP = 32  # sides of a picture that is edited are multiples of it


@attrs.frozen(eq=False)
class ImageCodec(ImageAutoencoder):
    """The autoencoder."""

    latents = ("z_dim", 16)

    @classmethod
    def halvings(cls, config: Mapping[str, Any]) -> int:
        """Return the number of levels that halve the sides, and perhaps the frames of a video."""
        return len(config.get("temperal_downsample", (False, True, True)))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, 3, H, W) in 0 to 1 of latents (B, C, 2h, 2w)."""
        latents = latents.unsqueeze(2).to(self.vae.device, self.vae.dtype)
        mean, deviation = self.statistics(latents)
        return self.shown(self.decoded(latents / (1.0 / deviation) + mean)[:, :, 0])

    def encode(self, picture: Image.Image, height: int, width: int) -> torch.Tensor:
        """Return latents (1, C, 2h, 2w) of a picture, resized to `height` x `width` pixels."""
        latents = self.encoded(self.processor.preprocess(picture, height, width).unsqueeze(2))
        mean, deviation = self.statistics(latents)
        return ((latents - mean) / deviation).squeeze(2)


def fitted(picture: Image.Image, area: int) -> tuple[int, int]:
    """Return height and width near `area` pixels with the picture's proportions, multiples of 32.

    Raises:
        ValueError: the picture is too long and narrow for that.

    >>> fitted(Image.new("RGB", (640, 480)), 1024 * 1024)
    (896, 1184)
    """
    ratio = picture.width / picture.height
    width = math.sqrt(area * ratio)
    sides = round(width / ratio / STEP) * STEP, round(width / STEP) * STEP
    if min(sides) < STEP:
        raise ValueError(
            f"a picture of {picture.width} x {picture.height} pixels is too long and narrow to be resized to {area} "
            f"pixels with sides of at least {STEP}; crop it"
        )
    return sides
