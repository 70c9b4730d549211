"""Opening a picture: from a file or bytes to three colours, the right way up.

The result is that of diffusers' `load_image`; notes report what is lost on the way.
"""

from __future__ import annotations

import io
import os
import warnings
from typing import BinaryIO

import attrs
from PIL import Image, UnidentifiedImageError

from pure.checks import shown
from pure.notes import Note

__all__ = ["MOST", "ORIENTATION", "Picture", "PictureError", "open_picture"]

MOST = 2**27
"""Most pixels of a picture, unless another number is given: 134 million."""
ORIENTATION = 0x0112
"""EXIF tag: 1 is upright; 2 to 8 are turned or mirrored."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # modes of more than 8 bits


class PictureError(ValueError):
    """A picture cannot be opened; the message says why, without the name of the file or field."""


@attrs.frozen(eq=False)
class Picture:
    """A picture that was opened.

    Attributes:
        image: mode RGB, upright.
        format: of the file, by Pillow's name: "PNG", "JPEG", "WEBP", "GIF", ...
        notes: what of the file is not in `image`: further frames, transparency, bits beyond 8.
    """

    image: Image.Image
    format: str
    notes: tuple[Note, ...] = ()

    def named(self, name: str) -> Picture:
        """Return the picture with a name, of its file or field, in front of its notes."""
        return attrs.evolve(self, notes=tuple(attrs.evolve(n, text=f"{name}: {n.text}") for n in self.notes))


def open_picture(
    source: str | os.PathLike[str] | bytes | BinaryIO, formats: tuple[str, ...] | None = None, most: int = MOST
) -> Picture:
    """Open a picture: its first frame, turned as its EXIF orientation says, in RGB.

    Args:
        source: a path, the bytes of a file, or a file opened in binary mode.
        formats: those that are read, by Pillow's names; None: all that Pillow knows.
        most: pixels that it may have; the size is read before memory is taken.

    Returns:
        The picture, equal to `diffusers.utils.load_image`, with notes of what was left out.

    Raises:
        PictureError: it is no picture, damaged, cut off, or too large.
        OSError: there is no such file, or it may not be read.
        TypeError: the source is none of these.
    """
    if not isinstance(source, str | os.PathLike | bytes) and not hasattr(source, "read"):
        raise TypeError(f"a picture is opened from a path, bytes or a binary file, got {shown(source)}")
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(source, str | os.PathLike):
        _check_file(source)
    elif source == b"":
        raise PictureError("it is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `most` is the limit
        try:
            with Image.open(file, formats=formats) as opened:
                return _read(opened, most)
        except (PictureError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(f"it has too many pixels: at most {most} are read; make it smaller") from error
        except UnidentifiedImageError as error:
            raise PictureError("it is no picture we can read") from error
        except Exception as error:  # Pillow's readers raise errors of any type on damaged files
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise PictureError(f"it is damaged or cut off ({error})") from error


def _check_file(path: str | os.PathLike[str]) -> None:
    if os.path.isfile(path):
        if os.path.getsize(path) == 0:
            raise PictureError("it is empty")
    elif os.path.exists(path) and not os.path.isdir(path):  # reading it could wait for ever
        raise PictureError("it is a pipe or a device and no file")


def _read(opened: Image.Image, most: int) -> Picture:
    if opened.width * opened.height > most:
        raise PictureError(
            f"{opened.width} x {opened.height} pixels are too many: at most {most} are read; make it smaller"
        )
    if opened.format == "EPS":  # Pillow would run Ghostscript on it, which runs what it says
        raise PictureError("it is a PostScript program, which is not run; convert it to PNG")
    opened.load()
    notes = [*_frames(opened), *_values(opened)]
    opened.info.pop("transparency", None)  # a note reports it; converting would warn
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
    except Exception as error:  # as above: a damaged block of EXIF, behind which the picture may be whole
        notes.append(Note(f"the EXIF data of the picture are damaged ({error}); it is used as it lies in the file"))
        turn = None
    image = opened.convert("RGB") if turn is None else opened.transpose(turn).convert("RGB")
    image.info.clear()  # it would still name the orientation
    return Picture(image, opened.format or "", tuple(notes))


def _frames(opened: Image.Image) -> list[Note]:
    frames = getattr(opened, "n_frames", 1)
    return [Note(f"the file holds {frames} pictures or frames; the first is used")] if frames > 1 else []


def _values(opened: Image.Image) -> list[Note]:
    """Return notes of values that RGB cannot hold."""
    notes: list[Note] = []
    if opened.mode in WIDE:
        notes.append(
            Note(
                f"the picture has more than 8 bits a value (mode {opened.mode}): values above 255 become white, as in "
                "diffusers; convert it to 8 bits a value"
            )
        )
    if opened.has_transparency_data and opened.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        notes.append(
            Note(
                "the picture has transparent parts: the colours that the file has there are used, as in diffusers; "
                "put the picture on a background first if they are not what you want"
            )
        )
    return notes
