"""What a notebook shows: pictures, tables, plots, a live line; and what it does not show."""

import io
import re
import subprocess
import sys

import attrs
import huggingface_hub.utils as hub
import numpy as np
import pytest
import torch
import transformers.utils.logging as bars
from PIL import Image

import pure
from pure.engine.comparing import compare
from pure.models import Pipeline, embedded, load_pipeline
from pure.models.checkpoint.quiet import quietly
from pure.models.generation import Generation
from pure.transforms import attention, compiled, dbcache, scm, taylorseer

RECIPE = pure.compose(dbcache(threshold=0.3, warmup=1), taylorseer(order=2))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(embedded())


@pytest.fixture(scope="module")
def made(pipeline: Pipeline) -> tuple[Generation, Generation, pure.Recording]:
    """Two samples with and without a cache, and the recording of the run with it."""
    recording, prompts = pure.Recording(latents=True), ["a red apple", "a <dog>"]
    plain = pipeline.generate(prompts, steps=6)
    return plain, pipeline.generate(prompts, steps=6, transform=RECIPE, observe=recording), recording


def test_a_generation_has_its_pictures_and_shows_them(made) -> None:
    _, cached, _ = made
    assert [picture.size for picture in cached.images] == [(64, 64)] * 2
    decisions = [decision.computed for info in cached.infos for decision in info.decisions]
    assert repr(cached) == f"<Generation: 2 images, 64 x 64, {sum(decisions)} of 12 steps computed>"
    shown = cached._repr_html_()
    assert shown.count("<img") == 2 and f"<td>{sum(decisions)}</td><td>{12 - sum(decisions)}</td>" in shown


def test_a_video_is_shown_by_a_frame() -> None:
    pixels = torch.rand(1, 5, 3, 8, 16)
    video = Generation(pixels=pixels, latents=torch.zeros(1, 2), infos=(), notes=(pure.Note("<cut>"),))
    assert len(video.images[0]) == 5  # type: ignore[arg-type]
    assert repr(video) == "<Generation: 1 5-frame video, 16 x 8, 0 of 0 steps computed>"
    assert video._repr_html_().count("<img") == 1 and "warning: &lt;cut&gt;" in video._repr_html_()


def test_a_recording_has_every_step(made) -> None:
    _, cached, recording = made
    assert tuple(recording.infos) == cached.infos
    assert [step.index for step in recording.steps] == list(range(6))
    assert torch.equal(recording.latents[-1], cached.latents)
    rows = re.findall(r"<tr><td>(\d)</td><td>(\d)</td><td>conditional</td>", recording._repr_html_())
    assert rows == [(str(step), str(sample)) for step in range(6) for sample in range(2)]


def test_a_recording_keeps_no_latents_unless_asked(pipeline: Pipeline) -> None:
    recording = pure.Recording()
    pipeline.generate("a dog", steps=2, observe=recording)
    assert (len(recording.infos), recording.latents, recording.samples) == (2, [], 1)


def test_a_plot_of_one_sample_with_its_pictures(made, tmp_path) -> None:
    plain, cached, recording = made
    drawn = pure.plot(cached, plain, sample=1, threshold=0.3, title="$a dog$")
    assert [ax.get_title() for ax in drawn.figure.axes[:3]][:2] == ["without cache", "with cache"]
    assert torch.equal(torch.tensor(drawn.figure.axes[1].images[0].get_array()), cached.pixels[1].permute(1, 2, 0))
    drawn.save(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes() == drawn._repr_png_()
    for result in (cached, recording, [pure.Info(info.decisions[1:]) for info in cached.infos]):
        sample = 0 if isinstance(result, list) else 1
        (picture, *_), axes = Image.open(io.BytesIO(pure.plot(result, sample=sample)._repr_png_())).size, 2
        figure = pure.plot(result, sample=sample).figure
        assert picture > 1000 and len(figure.axes) == axes
        bars = [bar.get_hatch() is None for bar in figure.axes[0].patches]
        assert bars == [info.decisions[1].computed for info in cached.infos]


def spoilt(made: Generation) -> Generation:
    return attrs.evolve(made, pixels=made.pixels.index_fill(3, torch.tensor([5]), float("nan")))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda plain, cached: (3,), TypeError, "plot takes a Generation, a Run, a Recording or infos, got int"),
        (lambda plain, cached: (pure.Recording(),), ValueError, "no step was recorded"),
        (lambda plain, cached: (cached.infos, plain), TypeError, "of two Generations"),
        (
            lambda plain, cached: (spoilt(cached), plain),
            ValueError,
            r"of the first .* not finite \(sample 0\), .* alone",
        ),
        (
            lambda plain, cached: (cached, spoilt(plain)),
            ValueError,
            r"of the second .* not finite \(sample 0\), .* alone",
        ),
    ],
)
def test_what_cannot_be_drawn(made, arguments, error, message) -> None:
    plain, cached, _ = made
    with pytest.raises(error, match=message):
        pure.plot(*arguments(plain, cached))


@pytest.mark.parametrize("title", [None, 3])
def test_a_title_is_text(made, title) -> None:
    with pytest.raises(TypeError, match=f"the title of a plot is text, got {title}; leave it out"):
        pure.plot(made[1], title=title)


def test_one_recording_is_of_one_run(pipeline: Pipeline) -> None:
    recording = pure.Recording()
    pipeline.generate("a dog", steps=2, observe=recording)
    with pytest.raises(ValueError, match=r"has step 0 of a run already, .* a new pure\.Recording\(\) to each"):
        pipeline.generate("a dog", steps=3, observe=recording)
    assert len(recording.infos) == 2


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_the_smallest_pictures_are_compared(side: int) -> None:
    picture = np.full((1, side, side, 3), 0.5, np.float32)
    assert compare(picture, picture, 1.0, 1.0).ssim == pytest.approx(1)
    assert 0 < compare(picture, picture / 2, 1.0, 1.0).ssim < 1


@pytest.mark.parametrize("sample", [2, -1, True, 0.0])
def test_a_sample_that_is_not_there(made, sample) -> None:
    with pytest.raises(ValueError, match=f"there is no sample {sample!r}: it is 0 to 1"):
        pure.plot(made[1], sample=sample)


def test_progress_is_shown_where_asked(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.generate("a dog", steps=3)
    assert capsys.readouterr().out == ""
    pipeline.generate("a dog", steps=3, progress=True)
    assert re.fullmatch(r"steps \S{3} 3/3  3 computed  0 skipped\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("transform", "shown"),
    [
        (dbcache(), "dbcache()"),
        (dbcache(threshold=0.12, max_continuous=None), "dbcache(threshold=0.12, max_continuous=None)"),
        (attention("flex"), "attention(name='flex')"),
        (scm(mask="101", policy="static"), "scm(mask=(1, 0, 1), policy='static')"),
        (pure.compose(compiled(), taylorseer(order=2)), "compose(compiled(), taylorseer(order=2))"),
    ],
)
def test_a_recipe_shows_what_was_set_and_can_be_typed(transform, shown) -> None:
    assert repr(transform) == shown
    names = {"compose": pure.compose, **vars(pure.transforms)}
    assert eval(shown, names) == transform


def test_a_recipe_shows_arrays_and_masks_what_is_masked() -> None:
    @attrs.frozen(kw_only=True)
    class Own(pure.Transform):
        weights: object = attrs.field(default=torch.zeros(2), eq=False)
        key: str = attrs.field(default="", repr=lambda _: "'***'")

    assert repr(Own(weights=torch.ones(2), key="secret")) == "Own(weights=tensor([1., 1.]), key='***')"


class Outer:
    @attrs.frozen(kw_only=True)
    class Own(pure.Transform):
        weight: float = 1.0


def test_a_recipe_has_the_classes_that_a_transform_stands_in() -> None:
    assert repr(Outer.Own(weight=2.0)) == "Outer.Own(weight=2.0)" and eval(repr(Outer.Own())) == Outer.Own()


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("hubs", [False, True])
def test_bars_are_as_they_were(ours: bool, hubs: bool) -> None:
    before = bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()

    def show(ours: bool, hubs: bool) -> None:
        (bars.enable_progress_bar if ours else bars.disable_progress_bar)()
        (hub.enable_progress_bars if hubs else hub.disable_progress_bars)()

    try:
        show(ours, hubs)
        with quietly():
            assert not bars.is_progress_bar_enabled() and hub.are_progress_bars_disabled()
        assert (bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()) == (ours, hubs)
    finally:
        show(*before)


@pytest.mark.slow
def test_importing_and_loading_are_quiet() -> None:
    code = "from pure.models import embedded, load_pipeline; load_pipeline(embedded())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
