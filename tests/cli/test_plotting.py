"""What is drawn: bars, marks, lines, legends and panels have the numbers of the run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pure import Decision, Info
from pure.cli import plotting as files
from pure.cli.made import Made
from pure.configs.tuned import TunedFor
from pure.engine import plotting
from pure.engine.comparing import Comparison, amplification, compare
from pure.engine.notebook import Recording, plot
from pure.engine.plotting import FAINT, Heading, colour, draw
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.engine.tuning import TunedPlan
from pure.engine.tuning.plan import ExpertPlan
from pure.models.generation import Generation


def decision(at: int, computed: bool, reason: str, change: float | None = None, branch: str = "conditional") -> Any:
    return Decision(at, computed, reason, change, 6 if computed else 1, branch)


INFOS = [
    Info((decision(0, True, "first step"),)), Info((decision(1, True, "threshold", 0.3),)),
    Info((decision(2, False, "threshold", 0.1),)), Info((decision(3, False, "threshold", float("nan")),)),
    Info((decision(4, True, "default", 0.2),)),
]  # fmt: skip
GUIDED = [
    Info((decision(0, True, "mask", 0.4), decision(0, False, "mask", 0.4, "unconditional"))),
    Info((decision(1, False, "other", 0.2), decision(1, True, "mask", 0.1, "unconditional"))),
]
PICTURES = [(name, np.full((4, 4, 3), shade)) for name, shade in (("one", 0.1), ("two", 0.2), ("three", 0.3))]


def texts(figure: Any) -> list[str]:
    return [each.get_text() for each in figure.texts]


def test_a_run_is_drawn_with_its_pictures_changes_and_decisions():
    figure: Any = draw(INFOS, 0.24, PICTURES, Heading(title="a title", numbers="1 s", small="dbcache()"))
    *pictures, timeline, changes = figure.axes
    assert [ax.get_title() for ax in pictures] == ["one", "two", "three"]
    assert [float(np.asarray(ax.images[0].get_array()).mean()) for ax in pictures] == pytest.approx([0.1, 0.2, 0.3])
    assert texts(figure) == ["a title", "1 s", "dbcache()"]
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_hatch()) for bar in timeline.patches]
    assert bars == [(pytest.approx(0), None), (pytest.approx(1), None), (pytest.approx(2), "////"),
                    (pytest.approx(3), "////"), (pytest.approx(4), None)]  # fmt: skip
    assert list(timeline.get_xticks()) == list(range(5)) and timeline.get_ylim() == (1, 0)
    assert [each.get_text() for each in timeline.get_yticklabels()] == ["decision"]
    marks = np.asarray(changes.collections[-1].get_offsets())
    assert marks.tolist() == [[1, 0.3], [2, 0.1], [4, 0.2]]
    assert changes.lines[0].get_ydata()[0] == 0.24 and changes.texts[0].get_text() == "threshold 0.24"
    assert changes.get_ylim() == (0, pytest.approx(0.3 * 1.22))
    assert changes.get_xlim() == timeline.get_xlim() == (-0.7, 4.7)
    labels = [each.get_text() for each in figure.legends[0].get_texts()]
    assert labels == ["computed: default (1)", "computed: first step (1)", "computed: threshold (1)",
                      "skipped: threshold (2)"]  # fmt: skip
    hatches = [each.get_hatch() for each in figure.legends[0].get_patches()]
    assert hatches == [None, None, None, "////"]


def test_branches_have_rows_and_marks_of_their_own():
    figure: Any = draw(GUIDED, None, (), Heading())
    timeline, changes = figure.axes
    assert [each.get_text() for each in timeline.get_yticklabels()] == ["conditional", "unconditional"]
    bars = [(round(bar.get_y() - 0.09), bar.get_hatch()) for bar in timeline.patches]
    assert bars == [(0, None), (0, "////"), (1, "////"), (1, None)] and timeline.get_ylim() == (2, 0)
    first, second = (np.asarray(each.get_offsets()) for each in changes.collections if hasattr(each, "get_sizes")
                     and len(each.get_sizes()))  # fmt: skip
    assert first[:, 0] == pytest.approx([-0.18, 0.82]) and second[:, 0] == pytest.approx([0.18, 1.18])
    assert first[:, 1].tolist() == [0.4, 0.2] and second[:, 1].tolist() == [0.4, 0.1]
    assert changes.texts[-1].get_text() == "○ conditional, □ unconditional"
    assert not changes.lines, "there is no threshold"


@pytest.mark.parametrize(
    ("infos", "threshold", "axes"),
    [(INFOS[:1], None, 1), (INFOS[:1], 1.0, 1), (INFOS[:1], 0.3, 2), (INFOS[:1], 0.0, 2), (INFOS, None, 2),
     (INFOS, 1.0, 2)],
)  # fmt: skip
def test_changes_are_drawn_where_some_are_measured_or_would_be(infos, threshold, axes):
    figure: Any = draw(infos, threshold, (), Heading())
    assert len(figure.axes) == axes
    if axes == 2:
        said = [each.get_text() for each in figure.axes[1].texts]
        assert ("no change was measured" in said) == (infos != INFOS)
        assert [text for text in said if "threshold" in text] == ["threshold 0.3"] * (threshold == 0.3)


@pytest.mark.parametrize(("count", "every"), [(1, 1), (30, 1), (31, 2), (60, 2), (61, 3)])
def test_at_most_thirty_steps_have_a_number(count, every):
    ax: Any = Figure().subplots()
    plotting._timeline(ax, [Info((decision(at, True, "mask"),)) for at in range(count)])
    assert list(ax.get_xticks()) == list(range(0, count, every))


def test_what_has_no_colour_of_its_own_is_grey_or_yellow():
    assert colour(decision(0, True, "mine")) == "#6c757d" and colour(decision(0, False, "mine")) == "#e9c46a"
    assert colour(decision(0, False, "first step")) == "#e9c46a"


def test_long_texts_are_cut():
    figure: Any = draw(INFOS, None, (), Heading(title="word " * 99, numbers="", small="part " * 99))
    title, _, small = texts(figure)
    assert title.endswith(" …") and len(title) <= 97 and small.endswith(" …") and 100 < len(small) <= 170


# ------------------------------------------------------------------------------ comparisons


@pytest.mark.parametrize(("height", "window"), [(4, 3), (6, 5), (7, 7), (16, 7)])
def test_the_window_of_similarity_is_odd_and_fits(height, window):
    from skimage.metrics import structural_similarity

    one, other = (np.random.default_rng(seed).random((1, height, 20, 3)) for seed in (0, 1))
    wanted = structural_similarity(one[0], other[0], data_range=1.0, channel_axis=2, win_size=window)
    assert compare(one, other, 1.0, 1.0).ssim == pytest.approx(wanted)


def test_a_few_stray_pixels_do_not_darken_a_difference():
    difference = np.full((40, 40, 3), 0.01)
    difference[0, 0] = 1.0
    assert amplification(difference) == 64 and amplification(np.ones((40, 40, 3))) == 1


def test_similarity_is_of_all_frames_and_the_worst_frame_is_named():
    one = np.random.default_rng(0).random((3, 16, 16, 3))
    other = one.copy()
    other[1] = np.clip(one[1] + 0.3, 0, 1)
    alone = compare(one[1:2], other[1:2], 3.0, 2.0)
    found = compare(one, other, 3.0, 2.0)
    assert found.ssim == pytest.approx((2 + alone.ssim) / 3) and (found.frame, found.ratio) == (1, 1.5)


def test_a_recording_keeps_latents_of_its_own():
    latents = torch.zeros(2, 3, requires_grad=True)
    frame: Any = SimpleNamespace(step="step", info=INFOS[0], latents=latents)
    recording = Recording(latents=True)
    recording(frame)
    with torch.no_grad():
        latents.add_(1)
    assert not recording.latents[0].requires_grad
    assert torch.equal(recording.latents[0], torch.zeros(2, 3)) and recording.samples == 2
    assert (recording.steps, recording.infos) == (["step"], [INFOS[0]])


def test_a_plot_compares_generations_of_one_size():
    def made(width: int) -> Any:
        return Generation(pixels=torch.zeros(1, 3, 4, width), latents=torch.zeros(1, 1), infos=(INFOS[0],), notes=())

    with pytest.raises(
        ValueError, match=r"the two have pixels of different shapes, \(1, 3, 4, 8\) and \(1, 3, 4, 6\); gen"
    ):
        plot(made(8), made(6))
    for sample in (1, -1, True, "0"):
        with pytest.raises(ValueError, match=f"there is no sample {sample!r}: it is 0 to 0"):
            plot(made(8), sample=sample)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------ files


def test_the_plot_of_a_sample_has_its_numbers(monkeypatch, tmp_path):
    drawn: list[Any] = []
    monkeypatch.setattr(files, "draw", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(files, "png", lambda figure: b"png")

    def result(seconds: float, shade: float) -> Result:
        frames = np.stack([np.full((16, 16, 3), each) for each in (0.0, shade)])
        sample = Sample(prompt="a cat", seed=7)
        return Result(sample=sample, frames=frames, infos=tuple(INFOS), step_seconds=(seconds,))

    found = Comparison(psnr=31.26, ssim=0.98765, ratio=2.0, frame=1)
    made = Made(result=result(1.0, 0.5), plain=result(2.0, 0.25), comparison=found)
    files.write_plot(tmp_path / "a.png", made, 0.3, "dbcache()")
    ((infos, threshold, pictures, heading),) = drawn
    assert (tuple(infos), threshold, (tmp_path / "a.png").read_bytes()) == (tuple(INFOS), 0.3, b"png")
    numbers = "2.00 s without cache, 1.00 s with: 2.00x   |   PSNR 31.3 dB   |   SSIM 0.988   |   seed 7"
    assert heading == Heading(title="“a cat”", numbers=numbers, small="dbcache()")
    assert [float(pixels.mean()) for _, pixels in pictures[:2]] == [0.25, 0.5]


def plan(computed: int, psnr: float, worst: float) -> TunedPlan:
    made = TunedFor(steps=9, computed=computed, psnr=psnr, worst_psnr=worst, prompts=2)
    return TunedPlan(made_for=made, front=0, back=0, parts={"": ExpertPlan(mask=(1,), table=())})


def test_the_curve_of_plans_has_mean_and_worst_of_both(monkeypatch, tmp_path):
    drawn: list[Any] = []
    monkeypatch.setattr(files, "png", lambda figure, **options: drawn.append(figure) or b"png")
    path = Path(tmp_path / "a.png")
    files.write_curve(path, [plan(3, 50.0, 45.0)], [plan(4, 48.0, 41.0), plan(2, 40.0, 30.0)])
    (ax,) = drawn[0].axes
    found = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in ax.lines}
    assert found == {
        "mean, not refined": [[2, 40.0], [4, 48.0]], "mean, refined": [[3, 50.0]],
        "worst tenth, not refined": [[2, 30.0], [4, 41.0]], "worst tenth, refined": [[3, 45.0]],
    }  # fmt: skip
    assert (ax.get_xlabel(), ax.get_xlim()) == ("computed steps of 9", (0, 9.5)) and path.read_bytes() == b"png"
    assert "2 held-out prompts" in ax.get_ylabel() and ax.spines["left"].get_edgecolor() is not FAINT
