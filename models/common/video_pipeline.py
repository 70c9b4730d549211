"""The base of pipelines of videos.

Shapes: B samples, F frames of H x W pixels, C latent channels, f frames of h x w latents.
"""

import attrs
import torch

from pure.models.common.video import VideoAutoencoder
from pure.models.pipeline import Pipeline
from pure.models.request import Request


@attrs.frozen(kw_only=True, eq=False)
class VideoPipeline(Pipeline):
    """A pipeline of videos: latents (B, C, f, h, w), in fp32 for models of every type.

    Attributes:
        codec: turns latents into pixels and pictures into latents; sides are multiples of a token's, frames 1 more
            than a multiple of a latent's.
    """

    codec: VideoAutoencoder = attrs.field(repr=False)

    fp32 = True

    def size(self, request: Request) -> tuple[int, int]:
        """Return the checkpoint's height and width; where neither is given, those of its area that fit a picture."""
        height, width = self.defaults.height or 0, self.defaults.width or 0
        if request.images and not (request.height or request.width):
            return self.codec.fitted(request.images[0], height * width)
        return height, width

    def grid(self, request: Request) -> tuple[int, int, int]:
        """Return tokens along frames, rows and columns; see the base."""
        return self.codec.grid(request.frames, request.height, request.width)

    def shape(self, request: Request) -> tuple[int, ...]:
        """Return (C, f, h, w)."""
        return self.codec.channels, *self.codec.size(request.frames, request.height, request.width)

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode latents (B, C, f, h, w) to pixels (B, F, 3, H, W) in 0 to 1."""
        return self.codec.decode(latents)


def with_first(first: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Return latents (B, C, f, h, w) with their first frame replaced by `first`, (1 or B, C, 1, h, w)."""
    first = first.to(latents.device, latents.dtype).expand(len(latents), *first.shape[1:])
    return torch.cat([first, latents[:, :, 1:]], dim=2)
