"""Frames to video files and to folders of images, each whole or not at all.

Shapes: F frames of H x W pixels.
"""

import io
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pure.engine.errors import Failure, Misuse
from pure.engine.writing import explain, write_whole

__all__ = ["write_frames", "write_video"]

QUALITY = 18  # x264's constant rate factor: no loss to be seen
# Players take untagged colours for those of television in high definition: convert to these, and say so.
COLOURS = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")
CONVERSION = "scale=out_color_matrix=bt709:out_range=tv"
FRAME = re.compile(r"frame-\d{4,}\.png")


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write frames (F, H, W, 3), uint8, as H.264 in 4:2:0 (`yuv420p`), which every player shows.

    Whatever goes wrong, an interruption included, `path` is what it was before.

    Args:
        path: the file, which is replaced if it is there.
        frames: red, green and blue; H and W even.
        fps: frames per second, above 0.

    Raises:
        ValueError: the frames are of another shape or type.
        Misuse: a size is odd, `fps` is not above 0, or the encoder is not installed.
        Failure: the file cannot be written, or the encoder gave up.
    """
    _check(frames)
    _, height, width, _ = frames.shape
    if odd := [f"{name} {size}" for name, size in (("height", height), ("width", width)) if size % 2]:
        raise Misuse(
            f"{path}: {' and '.join(odd)} cannot be written as a video, whose colours are stored "
            "for 2 x 2 pixels; choose even sizes"
        )
    if not fps > 0:
        raise Misuse(f"{path}: {fps} frames per second make no video; choose a number above 0")
    command = [_encoder(path), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-framerate", str(fps), "-i", "pipe:", "-vf", CONVERSION, *COLOURS]
    command += ["-c:v", "libx264", "-crf", str(QUALITY), "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    with _folder_beside(path) as folder:
        encoded = folder / "video.mp4"
        # The index of an mp4 is written last and read first: the encoder needs a file, not a pipe.
        done = subprocess.run(
            [*command, str(encoded)], input=np.ascontiguousarray(frames).data, capture_output=True, check=False
        )
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
            raise Failure(f"cannot write {path}: the video encoder stopped with code {done.returncode}: {reason[-1]}")
        write_whole(path, encoded.read_bytes())


def write_frames(folder: Path, frames: np.ndarray) -> None:
    """Write frames (F, H, W, 3), uint8, as `frame-0000.png`, `frame-0001.png`, ... into a folder of their own.

    A folder of frames that is there already is replaced as a whole.

    Raises:
        ValueError: the frames are of another shape or type.
        Failure: the folder cannot be written, or something else is in it.
    """
    _check(frames)
    foreign = _foreign(folder)
    if foreign is not None:
        raise Failure(f"cannot write frames into {folder}: {foreign}; choose another folder")
    with _folder_beside(folder) as temporary:
        for number, frame in enumerate(frames):
            encoded = io.BytesIO()
            Image.fromarray(frame).save(encoded, format="PNG")
            write_whole(temporary / "new" / f"frame-{number:04d}.png", encoded.getvalue())
        try:
            if folder.exists():
                os.replace(folder, temporary / "old")
            os.replace(temporary / "new", folder)
        except OSError as error:
            raise explain("write", folder, error) from error


def _check(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames are (F, H, W, 3) of uint8, at least one; these are {frames.shape} of {frames.dtype}")


def _encoder(path: Path) -> str:
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise Misuse(f"{path}: writing videos needs ffmpeg ({error}); pip install 'puredit[video]'") from error


def _foreign(folder: Path) -> str | None:
    """What of a folder is not to be replaced by frames, or None."""
    if not folder.exists() and not folder.is_symlink():
        return None
    if not folder.is_dir() or folder.is_symlink():
        return "it is there and is no folder"
    others = sorted(path.name for path in folder.iterdir() if not FRAME.fullmatch(path.name))
    return f"{others[0]} is in it" if others else None


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Make a folder on the same disk as `path`, and remove it with what is left in it."""
    name = {"prefix": f".{path.stem[:40]}-", "suffix": ".tmp"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, **name, ignore_cleanup_errors=True)
    except OSError as error:
        raise explain("write", path, error) from error
    with folder as made:
        yield Path(made)
