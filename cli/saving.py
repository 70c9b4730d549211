"""Pixels to image files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pure.cli.naming import IMAGE_FORMATS
from pure.cli.writing import write_whole

__all__ = ["save_image"]

OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write pixels (H, W, 3) in [0, 1] in the format of the path's ending, whole or not at all."""
    picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
    kind = IMAGE_FORMATS[path.suffix.lower()]
    # Encoded in memory first: Pillow's own writing hides why the disk refused.
    encoded = io.BytesIO()
    picture.save(encoded, format=kind, **OPTIONS[kind])
    write_whole(path, encoded.getvalue())
