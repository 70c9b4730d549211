"""A tiny FLUX folder to run the command line on, the command line itself, and what can go wrong around it."""

import errno
import os

import pytest

from pure.cli.main import run
from tests.support import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder of a random FLUX pipeline: 6 blocks, 32 x 32 pixels, guidance embedded."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-flux"
    tiny.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def puredit(checkpoint, tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder; return exit code, standard output and standard error, of its processes too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)  # tables are as wide as they are in a pipe
    for name in [name for name in os.environ if name.startswith("SGLANG_")]:
        monkeypatch.delenv(name)

    def call(*words, model=checkpoint):
        capfd.readouterr()
        named = ("--model-path", str(model)) if model and words[:1] == ("generate",) else ()
        code = run([*words[:1], *named, *map(str, words[1:])])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def full_disk(monkeypatch):
    """The disk is full when the second file is written."""
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr("pure.engine.writing.os.fsync", fsync)


@pytest.fixture
def unloaded(monkeypatch):
    """Nothing may be loaded: what is wrong has to be found before."""

    def load(*_, **__):
        raise AssertionError("a checkpoint was loaded before the mistake was found")

    monkeypatch.setattr("pure.cli.generate.load", load)
