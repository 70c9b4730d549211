"""Pixels and latents of Wan: sizes, the autoencoder, and the encoder of pictures.

Shapes: B samples, F frames of H x W pixels; C latent channels, f frames of h x w latents.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from PIL import Image

from pure.models.common.video import VideoAutoencoder


@attrs.frozen(kw_only=True, eq=False)
class VideoCodec(VideoAutoencoder):
    """The autoencoder."""

    names = ("scale_factor_spatial", "scale_factor_temporal", "z_dim")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, F, 3, H, W) in 0 to 1 of latents (B, C, f, h, w)."""
        latents = latents.to(self.vae.device, self.vae.dtype)
        mean, deviation = self.statistics(latents)
        return self.shown(self.decoded(latents / (1.0 / deviation) + mean))

    def first(self, picture: Image.Image, height: int, width: int) -> torch.Tensor:
        """Return fp32 latents (1, C, 1, h, w) of a picture, resized to `height` x `width` pixels."""
        return self._encode(self._pixels(picture, height, width))

    def beside(self, pictures: Sequence[Image.Image], frames: int, height: int, width: int) -> torch.Tensor:
        """Return what image-to-video puts beside the latents: (1, `period` + C, f, h, w) fp32.

        Channels 0 to `period` - 1 say which frames are given, the first and perhaps the last; the
        others are latents of a video in which all other frames are grey.
        """
        given = [self._pixels(picture, height, width) for picture in pictures]
        grey = given[0].new_zeros(1, 3, frames - len(given), height, width)
        known = torch.cat([torch.ones(1), torch.zeros(frames - len(given)), torch.ones(len(given) - 1)])
        # The first latent stands for one frame only, and has the others' number of channels.
        known = torch.cat([known[:1].expand(self.period), known[1:]]).view(1, -1, self.period, 1, 1).transpose(1, 2)
        latents = self._encode(torch.cat([given[0], grey, *given[1:]], dim=2))
        mask = known.to(latents.device).expand(-1, -1, -1, *latents.shape[3:])
        return torch.cat([mask, latents], dim=1)

    def _pixels(self, picture: Image.Image, height: int, width: int) -> torch.Tensor:
        """Return a picture as a video of one frame, (1, 3, 1, H, W) in -1 to 1."""
        return self.processor.preprocess(picture, height, width).to(torch.float32).unsqueeze(2)

    def _encode(self, video: torch.Tensor) -> torch.Tensor:
        latents = self.encoded(video).to(torch.float32)
        mean, deviation = self.statistics(latents)
        return (latents - mean) * (1.0 / deviation)


@attrs.frozen(kw_only=True, eq=False)
class PictureReader:
    """CLIP's vision encoder, of whose layers the last but one is read."""

    image_processor: Any
    image_encoder: Any

    def __call__(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return embeddings of all pictures as one sequence, (1, tokens, width)."""
        found = self.image_processor(images=list(pictures), return_tensors="pt")
        with torch.no_grad():
            embedded = self.image_encoder(found.pixel_values.to(self.image_encoder.device), output_hidden_states=True)
        return embedded.hidden_states[-2].flatten(0, 1).unsqueeze(0)
