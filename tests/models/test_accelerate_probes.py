"""Caches in `accelerate` that measure latents and noise levels, and one that measures what no recording names."""

from typing import Any

import attrs
import diffusers
import pytest
import torch

import pure
from pure import Answer
from pure.models import embedded, load_pipeline
from pure.models.accelerate.calls import noise_level
from pure.plan import Span
from pure.rules import Threshold
from pure.transforms import easycache, scm, seacache, teacache
from tests.support import tiny
from tests.support.pipelines import IMAGE, make, picture

STEPS = 12
ONLY_OF_FLUX = ("image_encoder", "feature_extractor")


def test_easycache_decides_as_in_our_own_pipeline():
    cache = easycache(threshold=0.5, warmup=1)
    made = load_pipeline(embedded()).generate("a red apple", transform=cache, seed=1, steps=STEPS)
    theirs: Any = diffusers.FluxPipeline.from_pretrained(embedded())
    theirs.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": STEPS, "max_sequence_length": 16, "height": 64, "width": 64, "output_type": "pt"}
    with pure.accelerate(theirs, cache) as report:
        found = theirs("a red apple", generator=torch.Generator().manual_seed(1), **options).images
    (infos,) = report.last.branches.values()
    assert [info.computed for info in infos] == [info.computed for info in made.infos]
    assert 0 < report.last.skipped < STEPS - 2
    torch.testing.assert_close(found, made.pixels, rtol=0, atol=1e-4)


@attrs.frozen
class Looking(pure.Rule):
    """Notes the noise level of every step."""

    name = "looking"
    before = Threshold
    seen: list = attrs.field(factory=list, eq=False)

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        self.seen.append(where.sigma)
        return Answer.COMPUTE


@attrs.frozen
class look(pure.Transform):
    """Adds the rule."""

    rule: Looking

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, plan=denoiser.plan.set(span=Span(front=1)).add(self.rule))


@pytest.mark.parametrize("name", ["flux_img2img", "wan21"])
def test_steps_have_the_noise_levels_of_the_scheduler(name):
    pipe, call = make(name)
    rule = Looking()
    with pytest.warns(UserWarning, match="looking computes every"), pure.accelerate(pipe, look(rule)) as report:
        picture(pipe, call)
    branches, count = len(report.last.branches), next(iter(report.last.counts.values()))
    expected = [float(level) for level in pipe.scheduler.sigmas[:-1][-count:] for _ in range(branches)]
    assert [level for level in rule.seen if level == level] == expected and expected[-1] < expected[0] <= 1


def test_schedulers_of_other_processes_have_no_noise_levels():
    for scheduler in (diffusers.EulerDiscreteScheduler(), diffusers.DDIMScheduler()):
        assert noise_level(scheduler) is None
    mochi = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    mochi.set_timesteps(sigmas=[1.0, 0.75, 0.5])
    level = noise_level(mochi)
    assert level is not None and level.item() == 1.0


def test_seacache_runs_where_latents_are_a_grid():
    pipe, call = make("wan21")
    with pure.accelerate(pipe, seacache(threshold=1e9)) as report:
        picture(pipe, call)
    assert report.last.skipped > 0


@pytest.mark.parametrize("name", ["flux", "unet"])
@pytest.mark.parametrize("cache", [teacache(), teacache(threshold=0.3, polynomial=(1.0, 0.0))], ids=["", "given"])
def test_teacache_is_refused_before_the_run_with_what_works(name, cache):
    pipe, _ = make(name)
    for given in (cache, {name.replace("flux", "transformer"): pure.compose(cache, scm(mask="11", policy="static"))}):
        with pytest.raises(ValueError, match=r"under accelerate does not name, .*; use dbcache\(...\) or easycache"):
            pure.accelerate(pipe, given)


def test_seacache_says_which_schedulers_have_no_levels():
    pipe, call = make("unet")
    with (
        pytest.raises(ValueError, match=r"accelerate takes it from schedulers of flow matching only; easycache\(...\)"),
        pure.accelerate(pipe, seacache()),
    ):
        picture(pipe, call)
    with pure.accelerate(pipe, easycache(threshold=1e9, warmup=1)) as report:
        picture(pipe, call)
    assert report.last.skipped > 0


def test_easycache_compares_predictions_that_are_smaller_than_what_enters():
    """Here the picture that controls enters beside the latents; it does not move."""
    parts = {name: part for name, part in tiny.pipeline().components.items() if name not in ONLY_OF_FLUX}
    wide = tiny.transformer(in_channels=2 * tiny.CONFIG["in_channels"], out_channels=tiny.CONFIG["in_channels"])
    pipe = diffusers.FluxControlPipeline(**{**parts, "transformer": wide})
    pipe.set_progress_bar_config(disable=True)
    call = {**make("flux")[1], "control_image": IMAGE.resize((16, 16)), "output_type": "latent"}
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = wide.register_forward_hook(lambda _, a, kw, v: seen.append((kw["hidden_states"], v[0])), with_kwargs=True)
    picture(pipe, call)
    hook.remove()
    with pure.accelerate(pipe, easycache(threshold=1e9, warmup=1)) as report:
        picture(pipe, call)
    (infos,) = report.last.branches.values()
    assert [info.computed[0] for info in infos] == [True, True, False, False, False, True]
    (x0, v0), (x1, v1), (x2, _) = seen[:3]
    change = (v1 - v0).abs().sum() / (x1 - x0).abs().sum() * (x2 - x1).abs().sum() / v1.abs().sum()
    assert infos[2].changes[0] == pytest.approx(float(change), rel=1e-4)
