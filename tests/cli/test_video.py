"""Videos are read back as they were written, and written whole or not at all."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pure.engine.errors import Failure, Misuse
from pure.engine.video import write_frames, write_video


def moving(frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth picture that moves, of strong colours."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(2 * np.pi * (x / 40 + t / 20)), np.cos(2 * np.pi * (y / 36 - t / 24)), np.sin((x + y + 2 * t) / 14)]
    return (np.stack(waves, axis=-1) * 110 + 128).round().astype(np.uint8)


def read(path: Path) -> tuple[np.ndarray, str]:
    """The frames of a video, and what its file says of it: `h264 (High), yuv420p(tv, bt709), 64x48, 16 fps, ...`."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:"]
    done = subprocess.run(command, capture_output=True, check=True)
    about = re.findall(r"Stream .* Video: (.*)", done.stderr.decode())[0]
    (width, height) = map(int, re.findall(r", (\d+)x(\d+)", about)[0])
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), about


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2)))


@pytest.mark.parametrize(
    ("fps", "count", "size"), [(16, 33, (48, 64)), (24, 5, (64, 34)), (23.976, 12, (50, 66)), (8, 1, (16, 16))]
)
def test_a_video_is_read_back(tmp_path, fps, count, size):
    frames = moving(count, *size)
    write_video(tmp_path / "a.mp4", frames, fps)
    found, about = read(tmp_path / "a.mp4")
    assert found.shape == frames.shape
    assert about.startswith("h264") and "yuv420p(tv, bt709" in about
    assert float(re.findall(r"([\d.]+) fps", about)[0]) == pytest.approx(fps, abs=0.01)
    assert min(psnr(a, b) for a, b in zip(found, frames, strict=True)) > 30
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == 0o666 & ~os.umask(os.umask(0o022))


def test_colours_are_those_of_the_frames(tmp_path):
    """Of every frame in full colour: a wrong conversion is off by ten levels and more."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 240, 20], [128, 128, 128]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (5, 32, 32, 3))
    write_video(tmp_path / "a.mp4", frames, 5)
    found, _ = read(tmp_path / "a.mp4")
    assert np.abs(found.astype(int) - frames).max() <= 4


def test_the_index_comes_first(tmp_path):
    """So that a browser can play the file while it loads."""
    write_video(tmp_path / "a.mp4", moving(), 16)
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("size", "message"),
    [((48, 33), "width 33 cannot"), ((47, 64), "height 47 cannot"), ((5, 7), "height 5 and width 7")],
)
def test_odd_sizes_are_refused(tmp_path, size, message):
    with pytest.raises(Misuse, match=message + ".*2 x 2 pixels; choose even sizes"):
        write_video(tmp_path / "a.mp4", moving(2, *size), 16)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_no_video_without_a_rate(tmp_path, fps):
    with pytest.raises(Misuse, match="frames per second make no video; choose a number above 0"):
        write_video(tmp_path / "a.mp4", moving(), fps)


@pytest.mark.parametrize("frames", [moving()[0], moving() / 255, moving()[:0], moving()[..., :2]])
@pytest.mark.parametrize("write", [lambda path, frames: write_video(path, frames, 16), write_frames])
def test_other_arrays_are_refused(tmp_path, write, frames):
    with pytest.raises(ValueError, match=r"frames are \(F, H, W, 3\) of uint8, at least one; these are"):
        write(tmp_path / "a", frames)


def test_without_the_encoder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(Misuse, match=r"writing videos needs ffmpeg .*pip install 'puredit\[video\]'"):
        write_video(tmp_path / "a.mp4", moving(), 16)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "write", [lambda path: write_video(path, moving(), 16), lambda path: write_frames(path, moving())]
)
def test_folders_that_cannot_be_written(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"cannot write .*file/a.mp4: .*; (there is a file|a part of the path is a file)"):
        write(tmp_path / "file" / "a.mp4")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo first >&2; echo 'No space left on device' >&2; exit 3", "stopped with code 3: No space left on device"),
        ("cat > /dev/null; exit 1", "stopped with code 1: it gave no reason"),
    ],
)
def test_an_encoder_that_gives_up(tmp_path, monkeypatch, script, message):
    broken = tmp_path / "ffmpeg"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(Failure, match=message):
        write_video(tmp_path / "a.mp4", moving(), 16)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "ffmpeg"]


def test_an_interruption_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt("stop")

    (tmp_path / "a.mp4").write_bytes(b"old")
    write_frames(tmp_path / "b", moving(2))
    monkeypatch.setattr(subprocess, "run", interrupted)
    monkeypatch.setattr("pure.engine.video.write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_video(tmp_path / "a.mp4", moving(), 16)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_frames(tmp_path / "b", moving(3))
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert len(os.listdir(tmp_path / "b")) == 2
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b"]


def test_frames_are_read_back(tmp_path):
    frames = moving(11, 15, 17)
    write_frames(tmp_path / "c" / "a-frames", frames)
    names = [f"frame-{i:04d}.png" for i in range(11)]
    assert sorted(os.listdir(tmp_path / "c" / "a-frames")) == names
    for name, frame in zip(names, frames, strict=True):
        with Image.open(tmp_path / "c" / "a-frames" / name) as image:
            assert image.mode == "RGB" and np.array_equal(np.asarray(image), frame)
    assert os.listdir(tmp_path / "c") == ["a-frames"]


def test_frames_replace_frames_and_nothing_else(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    write_frames(folder, moving(5))
    write_frames(folder, moving(2))
    assert sorted(os.listdir(folder)) == ["frame-0000.png", "frame-0001.png"]
    (folder / "notes.txt").touch()
    with pytest.raises(Failure, match=r"cannot write frames into .*: notes.txt is in it; choose another folder"):
        write_frames(folder, moving(3))
    assert sorted(os.listdir(folder)) == ["frame-0000.png", "frame-0001.png", "notes.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="it is there and is no folder; choose another folder"):
        write_frames(tmp_path / "file", moving(3))
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]
