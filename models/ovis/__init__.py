"""Ovis-Image."""

from pure.models.ovis.denoiser import Conditioning, ovis

__all__ = ["Conditioning", "ovis"]
