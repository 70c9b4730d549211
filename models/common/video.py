"""Pixels and latents of videos: sizes, and what families' autoencoders have in common.

Shapes: B samples, F frames of H x W pixels, f frames of h x w latents.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from PIL import Image

from pure.models.common.autoencoder import Autoencoder
from pure.models.common.sizes import AllowedSizes

if TYPE_CHECKING:
    from diffusers.video_processor import VideoProcessor

FACTORS = (8, 4, 16)
"""Pixels on a side of a latent, its frames and its channels, where the config of an autoencoder says nothing."""


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

    @classmethod
    def sizes(cls, config: Mapping[str, Any], patch: tuple[int, int, int]) -> AllowedSizes:
        """Return the sizes that an autoencoder of this config and such patches allow."""
        factor, period, channels = (config.get(name, each) for name, each in zip(cls.names, FACTORS, strict=True))
        return AllowedSizes(
            height=factor * patch[1],
            width=factor * patch[2],
            frames=period * patch[0],
            first=1 + period * (patch[0] - 1),
            numbers=channels * math.prod(patch),
        )

    def size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return f, h and w of a video.

        Raises:
            ValueError: a size is not possible.
        """
        self.sizes(self.vae.config, self.patch).check(height=height, width=width, frames=frames)
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
        sizes = self.sizes(self.vae.config, self.patch)
        height, width = (
            max(side // step, 1) * step for side, step in zip(wanted, (sizes.height, sizes.width), strict=True)
        )
        return height, width

    @abc.abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, F, 3, H, W) in 0 to 1 of latents (B, C, f, h, w)."""

    def shown(self, video: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, F, 3, H, W) in 0 to 1 of decoded pixels (B, 3, F, H, W) in -1 to 1."""
        pixels = self.processor.postprocess_video(video, output_type="pt")
        assert isinstance(pixels, torch.Tensor)
        return pixels
