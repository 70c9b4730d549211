"""The examples run, as they stand and by the commands that they name."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_noise_is_optimised_until_the_picture_has_the_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run("optimise_noise.py", "--steps", "4", "--rounds", "6", monkeypatch=monkeypatch)
    errors = [float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines() if "error" in line]
    assert errors[-1] < 0.9 * errors[0]
    with Image.open("noise.png") as picture:
        assert picture.size == (64, 64)


def test_a_predictor_learns_to_beat_taylorseer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    run("optimise_predictor.py", "--rounds", "8", monkeypatch=monkeypatch)
    before, after = (float(part.split()[-1]) for part in capsys.readouterr().out.splitlines()[-1].split(",")[-2:])
    assert after < before
