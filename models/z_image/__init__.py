"""Z-Image."""

from pure.models.z_image.denoiser import Conditioning, z_image

__all__ = ["Conditioning", "z_image"]
