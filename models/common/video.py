"""Pixels and latents of videos: sizes, and what families' autoencoders have in common.

Shapes: B samples, F frames of H x W pixels, f frames of h x w latents.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, ClassVar

import attrs
import torch
from PIL import Image

from pure.models.common.autoencoder import Autoencoder, check_side

if TYPE_CHECKING:
    from diffusers.video_processor import VideoProcessor


@attrs.frozen(kw_only=True, eq=False)
class VideoAutoencoder(Autoencoder, abc.ABC):
    """An autoencoder of videos, and the sizes that its shape and the transformer's patches allow.

    Attributes:
        patch: latents on the sides of a token: frames, rows, columns.
    """

    patch: tuple[int, int, int]

    names: ClassVar[tuple[str, str, str]]  # in the autoencoder's config of `factor`, `period` and `channels`

    @property
    def factor(self) -> int:
        """Pixels on a side of a latent."""
        return self.vae.config[self.names[0]]

    @property
    def period(self) -> int:
        """Frames that a latent stands for; the first frame has one to itself."""
        return self.vae.config[self.names[1]]

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config[self.names[2]]

    @property
    def processor(self) -> VideoProcessor:
        """What resizes pictures and scales their values."""
        from diffusers.video_processor import VideoProcessor

        return VideoProcessor(vae_scale_factor=self.factor)

    @property
    def steps(self) -> tuple[int, int]:
        """Pixels of which height and width are multiples."""
        return self.factor * self.patch[1], self.factor * self.patch[2]

    def size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return f, h and w of a video.

        Raises:
            ValueError: a size is not possible.
        """
        for (name, pixels), step in zip({"height": height, "width": width}.items(), self.steps, strict=True):
            check_side(name, pixels, step)
        step, first = self.period * self.patch[0], 1 + self.period * (self.patch[0] - 1)
        if frames < first or (frames - first) % step:
            nearest = max(round((frames - first) / step), 0) * step + first
            raise ValueError(
                f"frames={frames} is not {first} plus a multiple of {step}; the nearest number is {nearest}"
            )
        return (frames - 1) // self.period + 1, height // self.factor, width // self.factor

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return tokens of a video along frames, rows and columns.

        Raises:
            ValueError: see `size`.
        """
        f, h, w = self.size(frames, height, width)
        return f // self.patch[0], h // self.patch[1], w // self.patch[2]

    def fitted(self, picture: Image.Image, area: int) -> tuple[int, int]:
        """Return height and width near `area` pixels, and below, with the proportions of a picture."""
        ratio = picture.height / picture.width
        wanted = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        height, width = (max(side // step, 1) * step for side, step in zip(wanted, self.steps, strict=True))
        return height, width

    @abc.abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, F, 3, H, W) in 0 to 1 of latents (B, C, f, h, w)."""

    def shown(self, video: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, F, 3, H, W) in 0 to 1 of decoded pixels (B, 3, F, H, W) in -1 to 1."""
        pixels = self.processor.postprocess_video(video, output_type="pt")
        assert isinstance(pixels, torch.Tensor)
        return pixels
