"""Wan 2.1 and 2.2."""

from pure.models.wan.denoiser import Conditioning, wan

__all__ = ["Conditioning", "wan"]
