"""Opened pictures equal diffusers' `load_image`, and what they lose is told."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from diffusers.utils import load_image
from PIL import Image

from pure.models import open_picture
from pure.models.common.pictures import ORIENTATION, PictureError

MODES = "RGB PNG, L PNG, 1 PNG, P PNG, P GIF, CMYK JPEG, L JPEG, YCbCr JPEG, CMYK TIFF, LAB TIFF, RGB BMP, RGB PPM"
SIZE = (12, 8)  # width, height


def noise(*shape, dtype=np.uint8, top=256):
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def colours():
    return Image.fromarray(noise(SIZE[1], SIZE[0], 3))


def in_mode(mode):
    width, height = SIZE
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(noise(height, width, dtype=kind, top=65536))
    if mode in ("RGBA", "LA"):
        return Image.fromarray(noise(height, width, 4)).convert(mode)
    return colours().convert(mode)


def palette(transparency):
    image, file = colours().quantize(4), io.BytesIO()
    image.save(file, "PNG", transparency=transparency)
    return file.getvalue()


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_as_diffusers(content, folder):
    path = folder / "picture"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = load_image(str(path))
    found = [open_picture(path), open_picture(content), open_picture(io.BytesIO(content))]
    for each in found:
        assert each.image.mode == "RGB" and each.image.size == wanted.size
        assert np.array_equal(np.asarray(each.image), np.asarray(wanted))
        assert each.image.getexif().get(ORIENTATION, 1) == 1
    return found[0]


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path, kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    found = assert_as_diffusers(saved(colours(), kind, exif=turned(orientation), **options), tmp_path)
    assert found.image.size == (SIZE if orientation < 5 else SIZE[::-1]) and not found.notes
    if kind == "PNG" and orientation == 6:  # the top of the picture is the left side of the file
        assert found.image.getpixel((0, 0)) == colours().getpixel((0, SIZE[1] - 1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing(tmp_path, orientation):
    assert assert_as_diffusers(saved(colours(), "PNG", exif=turned(orientation)), tmp_path).image.size == SIZE


@pytest.mark.parametrize(
    ("mode", "kind"),
    [tuple(each.split()) for each in MODES.split(", ")],
)
def test_modes(tmp_path, mode, kind):
    assert not assert_as_diffusers(saved(in_mode(mode), kind), tmp_path).notes


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")])
def test_more_than_eight_bits(tmp_path, mode, kind):
    (note,) = assert_as_diffusers(saved(in_mode(mode), kind), tmp_path).notes
    assert "values above 255 become white" in note.text and note.kind == "warning"


@pytest.mark.parametrize(
    "content",
    [
        saved(in_mode("RGBA"), "PNG"),
        saved(in_mode("LA"), "PNG"),
        saved(in_mode("RGBA"), "WEBP", lossless=True),
        palette(0),
        palette(bytes([0, 128, 255, 255])),
        saved(colours(), "PNG", transparency=colours().getpixel((0, 0))),
    ],
    ids=["RGBA", "LA", "WebP", "palette", "palette of alphas", "one colour"],
)
def test_transparency(tmp_path, content):
    (note,) = assert_as_diffusers(content, tmp_path).notes
    assert "transparent parts" in note.text


def test_alpha_without_transparent_parts_needs_no_note(tmp_path):
    assert not assert_as_diffusers(saved(colours().convert("RGBA"), "PNG"), tmp_path).notes


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    frames = [colours(), colours().rotate(180), Image.new("RGB", SIZE)]
    found = assert_as_diffusers(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options), tmp_path)
    assert [note.text for note in found.notes] == ["the file holds 3 pictures or frames; the first is used"]
    assert found.format == kind


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def promising(width, height):
    """A small PNG that says it is large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"no picture", "it is no picture we can read"),
        (b"%PDF-1.4", "it is no picture we can read"),
        (saved(colours(), "PNG")[:200], "it is damaged or cut off"),
        (saved(Image.fromarray(noise(64, 64, 3)), "JPEG")[:3000], "it is damaged or cut off"),
        (saved(colours(), "WEBP")[:60], "it is"),
        (saved(colours(), "BMP")[:100], "it is damaged or cut off"),
        (promising(100000, 100000), "it has too many pixels: at most 134217728 are read; make it smaller"),
        (promising(13000, 13000), "13000 x 13000 pixels are too many: at most 134217728 are read; make it smaller"),
        (promising(10000, 9500), "it is damaged or cut off"),
        (promising(1, 2**31 - 1), "it has too many pixels"),
        (promising(0, 5), "it is"),
    ],
    ids=["empty", "text", "pdf", "png", "jpeg", "webp", "bmp", "bomb", "large", "short", "narrow", "nothing"],
)
def test_what_cannot_be_opened(tmp_path, content, message):
    path = tmp_path / "picture"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(PictureError, match=message):
            open_picture(source)


def test_a_limit_of_pixels_and_of_formats():
    with pytest.raises(PictureError, match="12 x 8 pixels are too many: at most 95 are read"):
        open_picture(saved(colours(), "PNG"), most=95)
    with pytest.raises(PictureError, match="it is no picture we can read"):
        open_picture(saved(colours(), "GIF"), formats=("PNG", "JPEG"))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_picture(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError):
        open_picture(tmp_path)


def test_damaged_exif_leaves_the_picture_as_it_lies():
    content = saved(colours(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert np.array_equal(np.asarray(open_picture(content).image), np.asarray(colours()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damaged_bytes_never_raise_anything_else(kind):
    draw = np.random.default_rng(1)
    whole = bytearray(saved(colours(), kind, exif=turned(6)) if kind != "GIF" else saved(colours(), kind))
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(draw.integers(len(whole)))] = int(draw.integers(256))
        try:
            assert open_picture(bytes(damaged[: int(draw.integers(1, len(whole) + 1))]), most=2**20).image.mode == "RGB"
        except PictureError as error:
            assert str(error).startswith("it is ") or "pixels" in str(error)
