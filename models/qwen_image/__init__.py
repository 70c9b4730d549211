"""Qwen-Image and Qwen-Image-Edit."""

from pure.models.qwen_image.denoiser import Conditioning, qwen_image

__all__ = ["Conditioning", "qwen_image"]
