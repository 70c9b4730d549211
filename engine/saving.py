"""Pixels to image and video files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pure.engine.video import write_video
from pure.engine.writing import write_whole

__all__ = ["IMAGE_FORMATS", "eight_bits", "encode_image", "save"]

OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


def save(path: Path, frames: np.ndarray, fps: int | None = None, quality: int | None = None) -> None:
    """Write frames (F, H, W, 3) in [0, 1], whole or not at all: a video, or the one frame of an image.

    Args:
        path: the file; its ending is the format of an image.
        frames: one for an image.
        fps: frames per second; None for an image.
        quality: of an image, as `encode_image` takes it.

    Raises:
        Failure: the file cannot be written.
    """
    if fps is None:
        # Encoded in memory first: Pillow's own writing hides why the disk refused.
        write_whole(path, encode_image(frames[0], IMAGE_FORMATS[path.suffix.lower()], quality))
        return
    write_video(path, eight_bits(frames), fps)


def encode_image(pixels: np.ndarray, kind: str, quality: int | None = None) -> bytes:
    """Return pixels (H, W, 3) in [0, 1] as a file of Pillow's format `kind`.

    Args:
        pixels: red, green and blue.
        kind: "PNG", "JPEG" or "WEBP".
        quality: 0 to 100, for JPEG and WEBP; None for the default of the format.
    """
    options = OPTIONS[kind] if quality is None or kind == "PNG" else {**OPTIONS[kind], "quality": quality}
    encoded = io.BytesIO()
    Image.fromarray(eight_bits(pixels)).save(encoded, format=kind, **options)
    return encoded.getvalue()


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Return pixels in [0, 1] as uint8."""
    return (pixels * 255).round().astype(np.uint8)


IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File name endings of images, and Pillow's names for the formats."""
