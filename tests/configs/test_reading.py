"""Files that people name: text of bounded size, and pipes that do not hold up a command."""

import os
import threading
from pathlib import Path

import pytest

from pure.configs import ConfigError, load_config, reading
from pure.configs.reading import read_text
from pure.engine.errors import Misuse
from pure.engine.reading import read_given as read_named
from pure.models import PictureError, open_picture


def test_text_of_a_file_and_of_a_pipe(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffa caf\u00e9\r\na dog\r".encode())
    assert read_text(tmp_path / "a") == "a caf\u00e9\na dog\n"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"a cat\r\n" * 20_000,))  # more than a pipe holds
    writer.start()
    assert read_text(pipe) == "a cat\n" * 20_000
    writer.join()
    end, start = os.pipe()  # what <(command) of a shell is
    os.write(start, b"a cat\n")
    os.close(start)
    assert read_text(f"/dev/fd/{end}") == "a cat\n"
    os.close(end)


def test_silent_pipes_endless_devices_and_folders_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    monkeypatch.setattr(reading, "MOST", 2**20)
    (tmp_path / "full").write_bytes(b"a" * 2**20)
    assert len(read_text(tmp_path / "full")) == 2**20
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Misuse, match=r"--config .*pipe cannot be read: it is a pipe, and nothing came out of it for 0"):
        read_named(tmp_path / "pipe", "--config")
    with pytest.raises(Misuse, match="prompts /dev/zero cannot be read: it is larger than 1 MiB"):
        read_named(Path("/dev/zero"), "prompts")
    with pytest.raises(ConfigError, match="it is larger than 1 MiB; allowed: a readable YAML or JSON file"):
        load_config("/dev/zero")
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        read_text(tmp_path)
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(PictureError, match="it is a pipe or a device and no file"):
            open_picture(path)
