"""Whole Ovis-Image pipelines against diffusers': the same pixels and latents."""

import functools
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import OvisImagePipeline

from pure.models import CheckpointError, load_pipeline
from pure.transforms import dbcache, scm
from tests.support import chat_pipelines as tiny
from tests.support.half import assert_as_near, rounding_once

# The instruction before the prompt is 150 bytes, which are its tokens here.
SHORT: dict[str, Any] = {"max_sequence_length": 220, "steps": 3, "height": 16, "width": 20}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ovis") / "ovis"
    tiny.ovis_pipeline().save_pretrained(folder)
    return folder


@functools.cache
def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Our pipeline and diffusers'."""
    theirs = OvisImagePipeline.from_pretrained(folder, dtype=dtype)
    theirs.set_progress_bar_config(disable=True)
    return load_pipeline(folder, dtype=dtype), theirs


CALLS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "guided": ("a dog", None, {}),
    "guided by a text": ("a dog", "ugly", {"guidance_scale": 3.0}),
    "not guided": ("a dog", None, {"guidance_scale": 1.0}),
    "two prompts twice": (["a dog", "a cat on a mat"], ["ugly", "bad"], {"images_per_prompt": 2}),
    "a generator per image": ("a dog", None, {"images_per_prompt": 2, "seed": [3, 4]}),
    "high": ("a dog", None, {"height": 36, "width": 8}),
    "one step": ("a dog", None, {"steps": 1}),
}


@pytest.mark.parametrize("call", CALLS)
def test_pixels_and_latents_are_those_of_diffusers(saved, call):
    """Measured: pixels differ by at most 3e-6, latents by 2e-5 of values up to 7."""
    prompt, negative, options = CALLS[call]
    ours, theirs = loaded(saved)
    options = {**SHORT, **options}
    made = ours.generate(prompt, negative, **{"seed": 0, **options})
    wanted = {} if negative is None else {"negative_prompt": negative}
    pixels, latents = tiny.reference(theirs, prompt, **options, **wanted)
    torch.testing.assert_close(made.pixels, pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.latents, latents, atol=1e-4, rtol=0)


def test_the_prompt_is_seen(saved):
    ours, _ = loaded(saved)
    made = [ours.generate(prompt, seed=0, **SHORT).latents for prompt in ("a dog", "a cat", "a dog, red")]
    assert all(float((one - other).abs().max()) > 1e-2 for one, other in itertools.pairwise(made))


def test_schedules_are_those_of_diffusers(saved):
    ours, theirs = loaded(saved)
    steps = ours.schedule(ours.request("", steps=4, height=64, width=48))
    tiny.reference(theirs, "a dog", **{**SHORT, "steps": 4, "height": 64, "width": 48, "guidance_scale": 1.0})
    assert torch.equal(torch.stack([step.timestep for step in steps]), theirs.scheduler.timesteps / 1000)


def test_defaults(saved):
    ours, _ = loaded(saved)
    defaults = ours.defaults
    assert (defaults.steps, defaults.guidance_scale, defaults.negative_prompt) == (50, 5.0, "")
    assert (defaults.max_sequence_length, defaults.longest) == (256, 256)
    assert ours.noise(ours.request("")).shape == (1, 64 * 64, 8), "128 latents on a side"


def test_bf16_runs(saved):
    ours, theirs = loaded(saved, torch.bfloat16)
    made = ours.generate("a dog", seed=0, **SHORT)
    assert made.latents.dtype == torch.bfloat16
    pixels, exact = (tiny.reference(pipe, "a dog", **SHORT)[0] for pipe in (theirs, loaded(saved)[1]))
    assert_as_near(made.pixels, pixels, exact)
    # Without guidance a step is of one row, as in diffusers: the same kernels.
    alone = {**SHORT, "guidance_scale": 1.0}
    with rounding_once(theirs):
        expected = tiny.reference(theirs, "a dog", **alone)[0]
    assert torch.equal(ours.generate("a dog", seed=0, **alone).pixels, expected)


def test_steps_are_skipped(saved):
    ours, _ = loaded(saved)
    caching = dbcache(front=1, threshold=0.99, warmup=2)
    cached = ours.generate("a dog", seed=0, transform=caching, **{**SHORT, "steps": 12})
    mask = scm(mask="110101", policy="static")
    masked = ours.generate("a dog", seed=0, transform=mask, **{**SHORT, "steps": 6})
    assert not all(all(info.computed) for info in cached.infos)
    assert [info.computed for info in masked.infos] == [(bit == "1",) * 2 for bit in "110101"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 18}, "height=18 is not a positive multiple of 4 pixels; the nearest size is 16"),
        ({"images": [tiny.picture(64, 64)]}, "takes no input pictures, got 1"),
        ({"max_sequence_length": 257}, "max_sequence_length=257 should be in 1 to 256"),
    ],
)
def test_requests_that_are_not_possible_are_refused(saved, options, message):
    ours, _ = loaded(saved)
    with pytest.raises(ValueError, match=message):
        ours.generate("a dog", **{**SHORT, **options})


def test_a_prompt_that_is_cut_off_is_said(saved):
    ours, _ = loaded(saved)
    with pytest.warns(UserWarning, match=r"reads 128 tokens and the prompt 'a dog' has \d+, with the conversation it"):
        ours.generate("a dog", **{**SHORT, "steps": 1, "max_sequence_length": 100, "guidance_scale": 1.0})


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler"},
            "describes a DDIMScheduler; supported: F",
        ),
        ("transformer/config.json", {"out_channels": 4}, "8 channels in, 4 out and patch_size 1; text-to-image needs"),
        (
            "transformer/config.json",
            {"joint_attention_dim": 24},
            "the text encoder is 16 wide and the transformer's jo",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(saved, tmp_path, file, changes, message):
    shutil.copytree(saved, tmp_path / "ovis")
    tiny.rewrite(tmp_path / "ovis" / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(tmp_path / "ovis")
