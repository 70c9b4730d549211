"""The video autoencoder of HunyuanVideo."""

import attrs
import torch
from PIL import Image

from pure.models.common.video import VideoAutoencoder


@attrs.frozen(kw_only=True, eq=False)
class VideoCodec(VideoAutoencoder):
    """The autoencoder."""

    names = ("spatial_compression_ratio", "temporal_compression_ratio", "latent_channels")

    def encode(self, picture: Image.Image, height: int, width: int) -> torch.Tensor:
        """Return latents (1, C, 1, h, w), fp32, of a picture resized to the size of the video."""
        pixels = self.processor.preprocess(picture, height, width).unsqueeze(2)
        return self.encoded(pixels).to(torch.float32) * self.vae.config["scaling_factor"]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, F, 3, H, W) in 0 to 1 of latents (B, C, f, h, w)."""
        latents = latents.to(self.vae.device, self.vae.dtype)
        return self.shown(self.decoded(latents / self.vae.config["scaling_factor"]))
