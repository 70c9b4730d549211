"""Pixels to image and video files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pure.engine.writing import write_whole

__all__ = ["encode_image", "save_frames", "save_image", "save_video"]

OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write pixels (H, W, 3) in [0, 1] in the format of the path's ending, whole or not at all."""
    # Encoded in memory first: Pillow's own writing hides why the disk refused.
    write_whole(path, encode_image(pixels, IMAGE_FORMATS[path.suffix.lower()]))


def encode_image(pixels: np.ndarray, kind: str, quality: int | None = None) -> bytes:
    """Return pixels (H, W, 3) in [0, 1] as a file of Pillow's format `kind`.

    Args:
        pixels: red, green and blue.
        kind: "PNG", "JPEG" or "WEBP".
        quality: 0 to 100, for JPEG and WEBP; None for the usual one.
    """
    options = OPTIONS[kind] if quality is None or kind == "PNG" else {**OPTIONS[kind], "quality": quality}
    encoded = io.BytesIO()
    Image.fromarray(_bytes(pixels)).save(encoded, format=kind, **options)
    return encoded.getvalue()


def save_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write frames (F, H, W, 3) in [0, 1] as a video of `fps` frames per second, whole or not at all."""
    from pure.engine.video import write_video

    write_video(path, _bytes(frames), fps)


def save_frames(folder: Path, frames: np.ndarray) -> None:
    """Write frames (F, H, W, 3) in [0, 1] as one PNG each."""
    from pure.engine.video import write_frames

    write_frames(folder, _bytes(frames))


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 255).round().astype(np.uint8)


IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File name endings of images, and Pillow's names for the formats."""
