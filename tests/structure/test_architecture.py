"""The picture of the architecture and its walk are those of the code."""

import os
import subprocess
import sys

from tests.structure import architecture
from tests.structure.house import HOUSE, arrows
from tests.structure.source import ROOT


def test_picture_and_walk_are_not_out_of_date():
    done = subprocess.run(
        [sys.executable, "-m", "tests.structure.architecture", "--check"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_picture_has_every_room_and_arrow():
    text = architecture.PICTURE.read_text(encoding="utf-8")
    assert text.count('class="room"') == sum(map(len, HOUSE)) == 9
    assert text.count('class="arrow"') == len(arrows())
    found = {(a.removeprefix("pure."), b.removeprefix("pure.")) for a, b in arrows()}
    assert {("cli", "engine"), ("serving", "engine"), ("engine", "configs"), ("cli", "serving")} <= found


def test_every_stage_of_the_walk_enters_a_room_once_and_the_stages_are_in_order():
    found = [row.split(" | ")[1:3] for row in architecture.GUIDE.read_text(encoding="utf-8").splitlines()
             if row.startswith("| ") and row.split(" | ")[0][2:].isdecimal()]  # fmt: skip
    assert len(found) == len({tuple(row) for row in found})
    stages = list(dict.fromkeys(stage for stage, _ in found))
    assert stages == ["", "check", "load", "make"] and [stage for stage, _ in found] == sorted(
        (stage for stage, _ in found), key=stages.index
    )
    rooms = {f"`{name.removeprefix('pure.')}`" for row in HOUSE for name in row}
    assert {room for _, room in found} == rooms - {"`serving`", "`testing`"}
