"""Counting, the table, the live line, the comparison and the plot."""

import io
import json
import math

import numpy as np
import pytest
import rich.console
from PIL import Image

from pure import Decision, Info
from pure.cli.made import Made
from pure.cli.perf import report, write_report
from pure.cli.plotting import write_plot
from pure.cli.summary import never_skipped, summary
from pure.cli.tables import print_table
from pure.engine import plotting
from pure.engine.comparing import Comparison, amplification, compare, panels
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.models.progress import Progress
from pure.statistics import tally


def decision(index, computed, reason, change=None, branch="conditional"):
    return Decision(index, computed, reason, change, 6 if computed else 1, branch)


def info(index, computed, reason, change=None):
    other = decision(index, True, "warm-up", None, "unconditional")
    return Info((decision(index, computed, reason, change), other))


INFOS = (info(0, True, "first step"), info(1, False, "threshold", 0.1), info(2, True, "threshold", 0.3))


def result(infos=INFOS, seconds=(0.2, 0.1, 0.2), shade=0.5):
    frames = np.full((1, 16, 16, 3), shade, dtype=np.float32)
    sample = Sample(prompt="a $cat$ [red]", seed=7)
    return Result(
        sample=sample, frames=frames, infos=infos, step_seconds=seconds, encode_seconds=0.1, decode_seconds=0.1
    )


def made(shade=0.5):
    plain, cached = result(seconds=(0.4, 0.4, 0.2)), result(shade=shade)
    found = compare(plain.frames, cached.frames, plain.seconds, cached.seconds)
    return Made(result=cached, plain=plain, comparison=found)


def test_changes_that_are_not_finite_are_counted_apart():
    changes = (None, 0.1, math.inf, 0.3, math.nan, 0.2)
    infos = tuple(info(index, False, "threshold", change) for index, change in enumerate(changes))
    rows = dict(summary([Made(result=result(infos, seconds=(0.1,) * 6))]))
    assert rows["measured change (conditional)"] == (
        "least 0.100, 25 % 0.150, median 0.200, 75 % 0.250, most 0.300, and 2 not finite"
    )


def test_counts_by_branch():
    counts = tally(INFOS)
    assert list(counts) == ["conditional", "unconditional"]
    own = counts["conditional"]
    assert (own.computed, own.skipped, own.changes) == ((0, 2), (1,), (0.1, 0.3))
    assert (own.blocks_run, own.blocks, own.steps) == (13, 18, 3)
    assert own.limit == pytest.approx(18 / 13)
    assert own.skipped_because == {"threshold": 1}
    both = own + counts["unconditional"]
    assert (both.blocks_run, both.blocks, both.steps) == (31, 36, 6)


def test_the_table_says_what_was_done():
    rows = dict(summary([made()], threshold=0.24))
    assert rows["steps computed (conditional)"] == "2 of 3 (first step 1, threshold 1)"
    assert rows["steps skipped (conditional)"] == "1 of 3 (threshold 1)"
    assert rows["measured change (conditional)"].startswith("least 0.100, 25 % 0.150, median 0.200")
    assert rows["measured change (conditional)"].endswith("threshold 0.24")
    assert rows["seconds"] == "0.50 denoising, 0.70 with text and decoding"
    assert rows["speed-up limit of the plan"] == "1.16x (all blocks / blocks run)"
    assert rows["time ratio"] == "2.00x"
    assert rows["PSNR"] == "infinite: the images are equal"
    assert rows["SSIM"] == "1.0000"


def test_the_table_adds_up_several_images():
    rows = dict(summary([made(), made()]))
    assert rows["blocks run (conditional)"] == "26 of 36"
    assert rows["seconds"] == "1.00 denoising, 1.40 with text and decoding, 2 images"


def test_the_table_is_printed_as_it_is():
    file = io.StringIO()
    print_table(rich.console.Console(file=file, width=100), ("", ""), [("name", "[red]1[/red] :smile:")])
    assert "[red]1[/red] :smile:" in file.getvalue()


def test_a_cache_that_never_skipped_is_seen():
    assert not never_skipped([made()])
    idle = (info(0, True, "first step"), info(1, True, "warm-up"))
    assert never_skipped([Made(result=result(idle, (0.1, 0.1)))])


@pytest.mark.parametrize(
    ("terminal", "encoding", "mark"), [(True, "utf-8", "█░█"), (False, "utf-8", "█░█"), (False, "ascii", "#.#")]
)
def test_the_live_line(terminal, encoding, mark):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    screen = rich.console.Console(file=file, force_terminal=terminal, width=100, color_system=None)
    with Progress(screen, "image", 3) as progress:
        for step in INFOS:
            progress.update(step)
    file.flush()
    text = file.buffer.getvalue().decode(encoding)
    assert f"image {mark} 3/3  2 computed  1 skipped" in text
    assert terminal or text.count("\n") == 1


def test_a_narrow_terminal_shows_the_newest_steps_and_all_counts():
    file = io.StringIO()
    screen = rich.console.Console(file=file, force_terminal=True, width=80, color_system=None)
    with Progress(screen, "image", 60) as progress:
        for step in INFOS * 20:
            progress.update(step)
    last = file.getvalue().split("\x1b[2K")[-1]
    assert last.startswith("image ...") and last.count("█") + last.count("░") == 39
    assert "60/60  40 computed  20 skipped" in last


def test_a_quiet_line_says_nothing():
    file = io.StringIO()
    with Progress(rich.console.Console(file=file), "image", 3, quiet=True) as progress:
        progress.update(INFOS[0])
    assert file.getvalue() == ""


def test_comparing_equal_and_different_images():
    plain = np.zeros((1, 16, 16, 3), dtype=np.float32)
    same = compare(plain, plain, 2.0, 1.0)
    assert same == Comparison(psnr=math.inf, ssim=1.0, ratio=2.0)
    other = compare(plain, plain + 0.1, 2.0, 1.0)
    assert other.psnr == pytest.approx(20.0, abs=1e-3)
    assert other.ssim < 0.5


@pytest.mark.parametrize(("largest", "factor"), [(0.0, 1), (1.0, 1), (0.3, 2), (0.01, 64), (0.0001, 64)])
def test_amplification(largest, factor):
    assert amplification(np.full((4, 4, 3), largest)) == factor


@pytest.mark.parametrize("threshold", [None, 0.24, 1.0])
def test_the_plot_is_a_picture(tmp_path, threshold):
    write_plot(tmp_path / "plot.png", made(shade=0.4), threshold, "dbcache($x$)")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG" and min(image.size) > 1000
        assert np.asarray(image.convert("L")).std() > 10


def video(shades):
    """A video of flat frames."""
    frames = np.stack([np.full((16, 16, 3), shade, dtype=np.float32) for shade in shades])
    return Result(sample=Sample(prompt="a", seed=1), frames=frames, infos=INFOS, step_seconds=(0.2, 0.1, 0.2))


def test_the_plot_of_a_video_shows_the_frame_that_differs_most():
    plain, cached = video([0.2, 0.3, 0.4, 0.5]), video([0.2, 0.3, 0.4, 0.5 + 17 / 255])
    found = compare(plain.frames, cached.frames, 1.0, 1.0)
    assert found.frame == 3
    shown = panels(plain.frames, cached.frames, found.frame)
    names = [name for name, _ in shown]
    assert names == ["without cache, frame 4 of 4", "with cache, frame 4 of 4", "largest difference, amplified 8x"]
    assert np.array_equal(shown[0][1], plain.frames[3]) and np.array_equal(shown[1][1], cached.frames[3])
    assert shown[2][1] == pytest.approx(8 * 17 / 255, abs=1e-5)


def test_the_plot_of_an_image_names_no_frame():
    assert [name for name, _ in panels(result().frames, result(shade=0.4).frames, 0)] == [
        "without cache", "with cache", "difference, amplified 8x",
    ]  # fmt: skip


def test_branches_that_measured_the_same_are_drawn_side_by_side():
    from matplotlib.figure import Figure

    same = tuple(
        Info((decision(i, False, "threshold", 0.1), decision(i, False, "threshold", 0.1, "unconditional")))
        for i in range(3)
    )
    ax = Figure().subplots()
    plotting._changes(ax, same, None)
    first, second = (found for each in ax.collections if len(found := np.asarray(each.get_offsets())) == 3)
    assert np.array_equal(first[:, 1], second[:, 1]) and (second[:, 0] - first[:, 0] > 0.3).all()
    assert (np.abs(first[:, 0] - range(3)) < 0.25).all()


def test_the_report_is_json(tmp_path):
    from datetime import datetime

    content = report([made()], {"model_path": "m", "x": math.inf, "where": tmp_path}, 3.0, datetime(2026, 11, 23))
    write_report(tmp_path / "perf.json", content)
    read = json.loads((tmp_path / "perf.json").read_text())
    assert read["total_duration_ms"] == 3000
    assert read["computed_steps"] == [0, 2] and read["skipped_steps"] == [1]
    assert read["branches"]["unconditional"]["computed_steps"] == [0, 1, 2]
    assert [step["step"] for step in read["denoise_steps_ms"]] == [0, 1, 2]
    first = read["images"][0]
    assert first["decisions"][2] == {
        "step": 1, "branch": "conditional", "computed": False, "reason": "threshold", "change": 0.1, "blocks": 1,
    }  # fmt: skip
    assert first["comparison"] == {"time_ratio": 2.0, "psnr": None, "ssim": 1.0}
    assert (first["duration_ms"], first["without_cache"]["duration_ms"]) == pytest.approx((700, 1200))
    assert read["peak_memory"]["process_mb"] > 1
    assert read["settings"]["x"] == "inf"
    assert report([made(), made()], {}, 1.0, datetime(2026, 11, 23))["meta"]["prompt"] == ["a $cat$ [red]"] * 2
