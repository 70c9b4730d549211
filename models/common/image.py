"""Pixels and packed latents: sizes, positions, and the decoder of a FLUX.1 checkpoint.

Shapes: B samples, C latent channels, h x w tokens (N = h w), H x W pixels.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch

from pure.models.common.autoencoder import Autoencoder
from pure.models.common.sizes import AllowedSizes

if TYPE_CHECKING:
    from diffusers.image_processor import VaeImageProcessor

    from pure.models.family import Description

PATCH = 2  # latents on a side of a token
SIDE = 128  # latents on a side of an image by default


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Turn latents (B, C, 2h, 2w) into tokens (B, N, 4C)."""
    patches = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Turn tokens (B, N, 4C) of `rows` x `columns` into latents (B, C, 2h, 2w).

    >>> latents = torch.arange(48.0).reshape(1, 2, 4, 6)
    >>> bool((unpack(pack(latents), 2, 3) == latents).all())
    True
    """
    patches = tokens.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (rows, columns))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(text: int, rows: int, columns: int) -> torch.Tensor:
    """Return (S, 3) fp32 positions: zeros for `text` tokens, then (0, row, column) of each image token.

    >>> positions(1, 1, 2)
    tensor([[0., 0., 0.],
            [0., 0., 0.],
            [0., 0., 1.]])
    """
    grid = torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
    return torch.cat([torch.zeros(text, 3), grid])


@attrs.frozen(eq=False)
class ImageAutoencoder(Autoencoder, abc.ABC):
    """An autoencoder of images, and the sizes that its shape allows."""

    latents: ClassVar[tuple[str, int]] = ("latent_channels", 4)  # in its config, and the default

    @classmethod
    @abc.abstractmethod
    def halvings(cls, config: Mapping[str, Any]) -> int:
        """Return how often an autoencoder of this config halves the sides of an image."""

    @classmethod
    def sizes(cls, config: Mapping[str, Any]) -> AllowedSizes:
        """Return the sizes that an autoencoder of this config allows."""
        side, (name, channels) = PATCH * 2 ** cls.halvings(config), cls.latents
        return AllowedSizes(height=side, width=side, numbers=config.get(name, channels) * PATCH**2)

    @classmethod
    def sizes_of(cls, found: Description) -> AllowedSizes:
        """Return the sizes that a checkpoint with such an autoencoder can make."""
        return cls.sizes(found.configs["vae"])

    @property
    def patch(self) -> int:
        """Pixels on a side of a token."""
        return self.sizes(self.vae.config).height

    @property
    def side(self) -> int:
        """Default height and width of an image, in pixels."""
        return SIDE * self.patch // PATCH

    @property
    def processor(self) -> VaeImageProcessor:
        """What resizes pictures and scales their values."""
        from diffusers.image_processor import VaeImageProcessor

        return VaeImageProcessor(vae_scale_factor=self.patch)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return h and w of an image of `height` x `width` pixels.

        Raises:
            ValueError: a size is not a positive multiple of `patch`.
        """
        self.sizes(self.vae.config).check(height=height, width=width)
        return height // self.patch, width // self.patch

    @abc.abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, 3, H, W) in 0 to 1 of latents."""

    def shown(self, decoded: torch.Tensor) -> torch.Tensor:
        """Return pixels in 0 to 1 of decoded pixels (B, 3, H, W) in -1 to 1."""
        pixels = self.processor.postprocess(decoded, output_type="pt")
        assert isinstance(pixels, torch.Tensor)
        return pixels


@attrs.frozen(eq=False)
class ImageDecoder(ImageAutoencoder):
    """The decoder of a FLUX.1 checkpoint."""

    @classmethod
    def halvings(cls, config: Mapping[str, Any]) -> int:
        """Return one less than the levels."""
        return len(config.get("block_out_channels", (64,))) - 1

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, 3, H, W) in 0 to 1 of latents (B, C, 2h, 2w)."""
        config = self.vae.config
        latents = latents / config["scaling_factor"] + (config["shift_factor"] or 0.0)
        return self.shown(self.decoded(latents))
