"""The video autoencoder of HunyuanVideo."""

from __future__ import annotations

import attrs
import torch
from PIL import Image

from pure.models.common.video import VideoAutoencoder
from pure.models.request import Request


@attrs.frozen(kw_only=True, eq=False)
class VideoCodec(VideoAutoencoder):
    """The autoencoder."""

    factors = ("spatial_compression_ratio", "temporal_compression_ratio")

    def encode(self, picture: Image.Image, request: Request) -> torch.Tensor:
        """Return latents (1, C, 1, h, w), fp32, of a picture resized to the size of the video."""
        pixels = self.processor.preprocess(picture.convert("RGB"), request.height, request.width)
        with torch.no_grad():
            found = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype).unsqueeze(2)).latent_dist.mode()
        return found.to(torch.float32) * self.vae.config["scaling_factor"]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what the autoencoder makes of latents (B, C, f, h, w): (B, 3, F, H, W) in -1 to 1."""
        scaled = latents.to(self.vae.device, self.vae.dtype) / self.vae.config["scaling_factor"]
        return self.vae.decode(scaled, return_dict=False)[0]
