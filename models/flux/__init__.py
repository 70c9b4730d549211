"""FLUX.1."""

from pure.models.flux.denoiser import Conditioning, flux

__all__ = ["Conditioning", "flux"]
