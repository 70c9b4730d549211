"""The base of pipelines of single images.

Shapes: B samples, h x w tokens (N = h w), C channels of a token of 2 x 2 latents, H x W pixels.
"""

import math

import attrs
import torch

from pure.models.common import image
from pure.models.common.config import HeadsConfig
from pure.models.errors import CheckpointError
from pure.models.family import Description
from pure.models.pipeline import Pipeline
from pure.models.request import Request


@attrs.frozen(kw_only=True, eq=False)
class ImagePipeline(Pipeline):
    """A pipeline of images, whose autoencoder determines which sizes are possible.

    Attributes:
        codec: turns latents into pixels.
    """

    codec: image.ImageAutoencoder = attrs.field(repr=False)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.codec.vae.config["latent_channels"]

    def size(self, request: Request) -> tuple[int, int]:
        """Return the height and width that a request has by default, in pixels; see the base."""
        return self.codec.side, self.codec.side

    def grid(self, request: Request) -> tuple[int, int]:
        """Return h and w.

        Raises:
            ValueError: a size is not a positive multiple of a token's.
        """
        return self.codec.grid(request.height, request.width)

    def tokens(self, request: Request) -> int:
        """Return N."""
        return math.prod(self.grid(request))

    def shape(self, request: Request) -> tuple[int, ...]:
        """Return the shape of unpacked latents."""
        rows, columns = self.grid(request)
        return self.channels, rows * image.PATCH, columns * image.PATCH

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode latents (B, C / 4, 2h, 2w) to pixels (B, 3, H, W) in 0 to 1."""
        return self.codec.decode(latents)


@attrs.frozen(kw_only=True, eq=False)
class PackedPipeline(ImagePipeline):
    """One whose latents are packed into tokens for the whole run."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.params["x_embedder.weight"].shape[1] // image.PATCH**2

    def pack(self, noise: torch.Tensor) -> torch.Tensor:
        """Turn latents (B, C / 4, 2h, 2w) into tokens (B, N, C)."""
        return image.pack(noise)

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode tokens (B, N, C) to pixels (B, 3, H, W) in 0 to 1."""
        return self.codec.decode(image.unpack(latents, *self.grid(request)))


def check_packed(found: Description, config: HeadsConfig, patch: int = 1) -> None:
    """Refuse a transformer whose tokens are not 2 x 2 latents.

    Raises:
        CheckpointError: it is one.
    """
    channels, out = config.in_channels, config.channels
    if out != channels or channels % image.PATCH**2 or patch != 1:
        raise CheckpointError(
            f"{found.folder / 'transformer' / 'config.json'}: {channels} channels in, {out} out and patch_size "
            f"{patch}; text-to-image needs as many out as in, a multiple of 4, and patch_size 1"
        )
