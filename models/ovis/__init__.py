"""Ovis-Image."""

from pure.models.common.streams import Conditioning
from pure.models.ovis.denoiser import ovis

__all__ = ["Conditioning", "ovis"]
