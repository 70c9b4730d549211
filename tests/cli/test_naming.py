"""Names of output files."""

import re
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pure.cli.command import _identity
from pure.cli.naming import automatic, plan
from pure.engine.engine import Order
from pure.engine.errors import Misuse

NOW = datetime(2026, 11, 23, 3, 15, 0)


def paths(pairs, fixed=None, exists=lambda path: False):
    return [output.path for output in plan(pairs, Path("out"), fixed, NOW, exists=exists) if output.path]


@pytest.mark.parametrize(
    "prompt", ["a red apple", "../../etc/passwd", "été 🍎 \n x", "", "." * 300, "x" * 300, "CON:|?*"]
)
def test_automatic_names_are_harmless(prompt):
    name = automatic(prompt, NOW, "42")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}_20261123-031500_[0-9a-f]{8}", name)


def test_every_output_gets_a_file_of_its_own():
    found = paths([("a", 1), ("a", 2), ("b", 1), ("a", 1)])
    assert len(set(found)) == 4
    assert all(path.parent == Path("out") and path.suffix == ".png" for path in found)


def test_an_existing_file_is_not_met():
    (first,) = paths([("a", 1)])
    (second,) = paths([("a", 1)], exists=lambda path: path == first)
    assert second == first.with_name(f"{first.stem}-1.png")


@pytest.mark.parametrize(
    ("given", "name"), [("x", "x.png"), ("x.jpg", "x.jpg"), ("x.webp", "x.webp"), ("x.PNG", "x.PNG")]
)
def test_fixed_names(given, name):
    assert plan([("a", 1)], Path("out"), given, NOW)[0].path == Path("out") / name


@pytest.mark.parametrize(
    ("pairs", "name", "message"),
    [
        ([("a", 1), ("a", 2)], "x.png", "2 images cannot all be called x.png"),
        ([("a", 1)], "y/x.png", "not a plain file name"),
        ([("a", 1)], "", "not a plain file name"),
        ([("a", 1)], "x.mp4", "a video, this model makes images"),
        ([("a", 1)], "x.pgn", r"did you mean .png\?"),
    ],
)
def test_wrong_names(pairs, name, message):
    with pytest.raises(Misuse, match=message):
        plan(pairs, Path("out"), name, NOW)


def test_runs_that_differ_in_an_option_have_files_of_other_names():
    """But for input pictures, whose pixels are no part of a name."""
    checkpoint: Any = SimpleNamespace(path="a")
    another: Any = SimpleNamespace(path="b")
    orders = [{}, {"steps": 4}, {"guidance_scale": 2.0}, {"width": 64}, {"guidance_scale": 3.0}]
    found = [_identity(Order(options=options), checkpoint) for options in orders]
    assert len(set(found)) == len(orders) and _identity(Order(), another) not in found
    assert _identity(Order(options={"images": ("x",)}), checkpoint) == found[0]
    assert automatic("a", NOW, found[0]) != automatic("a", NOW, found[1])
