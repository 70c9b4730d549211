"""Files are written whole or not at all."""

import errno
import os
import stat

import numpy as np
import pytest
from PIL import Image

from pure.engine.errors import Failure
from pure.engine.saving import save
from pure.engine.writing import check_file, check_folder, write_whole


def test_a_file_is_written_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    write_whole(path, b"new")
    write_whole(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["a.bin"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 & ~os.umask(os.umask(0o022))


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Failure, "No space left on device; free some space"),
        (OSError(errno.EACCES, "Permission denied"), Failure, "Permission denied; choose a folder you may write to"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_nothing_half_written_stays(tmp_path, monkeypatch, function, error, raised, message):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(f"pure.engine.writing.os.{function}", fail)
    with pytest.raises(raised, match=message):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_devices_and_folders_are_not_replaced(tmp_path):
    with pytest.raises(Failure, match="no ordinary file"):
        write_whole(tmp_path, b"")
    with pytest.raises(Failure, match="--plot /dev/full: it is no ordinary file"):
        check_file(type(tmp_path)("/dev/full"), "--plot")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_folders_are_made_and_checked(tmp_path):
    check_folder(tmp_path / "a" / "b", "--output-path")
    assert os.listdir(tmp_path) == [], "a folder is made by the first file in it"
    write_whole(tmp_path / "a" / "b" / "file", b"1")
    assert os.listdir(tmp_path / "a" / "b") == ["file"]
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"cannot write into --output-path .*file.* choose another folder"):
        check_folder(tmp_path / "file" / "b", "--output-path")
    with pytest.raises(Failure, match="there is a file of that name"):
        check_folder(tmp_path / "file", "--output-path")


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP")])
def test_image_formats(tmp_path, name, kind):
    pixels = np.linspace(0, 1, 16 * 24 * 3, dtype=np.float32).reshape(16, 24, 3)
    save(tmp_path / name, pixels[None])
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size, image.mode) == (kind, (24, 16), "RGB")
        if kind == "PNG":
            assert np.array_equal(np.asarray(image), (pixels * 255).round().astype(np.uint8))
