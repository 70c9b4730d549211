"""FLUX.2."""

from pure.models.flux2.denoiser import Conditioning, flux2

__all__ = ["Conditioning", "flux2"]
