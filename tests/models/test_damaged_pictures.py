"""Files that are no pictures, damaged ones, and those that say that they are huge: an error in words, or a picture."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pure.models import PictureError, open_picture

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def encoded(format: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, format, **options)
    return file.getvalue()


def sized(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels."""
    png, chunk = encoded("PNG"), b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (encoded("PNG")[:800], "it is damaged or cut off"),
        (encoded("JPEG")[:800], "it is damaged or cut off"),
        (encoded("PNG")[:33], "it is no picture we can read"),
        (sized(100_000, 100_000), "too many pixels|pixels are too many"),
        (sized(2**31 - 1, 2**31 - 1), "too many pixels|pixels are too many"),
        (sized(16_000, 16_000), "too many pixels|pixels are too many"),
        (sized(0, 10), "it is no picture we can read"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is no picture we can read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "it is no picture we can read"),
        (b"%PDF-1.4\n1 0 obj\n", "it is no picture we can read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "it is a PostScript program, which is not run"),
        (b"a red apple", "it is no picture we can read"),
        (bytes(1000), "it is no picture we can read"),
    ],
)
@pytest.mark.parametrize("path", [True, False])
def test_what_is_no_picture_is_refused(tmp_path, content, message, path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError, match=message):
        open_picture(tmp_path / "a.png" if path else content)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damage_anywhere_gives_a_picture_or_an_error_in_words(format):
    random, whole = np.random.default_rng(1), encoded(format)
    for _ in range(40):
        content = bytearray(whole)
        for place in random.integers(0, min(len(content), 400), 8):
            content[place] = random.integers(0, 256)
        try:
            assert open_picture(bytes(content), most=10_000).image.mode == "RGB"
        except PictureError as error:
            assert len(str(error)) < 300
