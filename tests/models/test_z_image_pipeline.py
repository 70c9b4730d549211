"""Whole Z-Image pipelines against diffusers': the same pixels and latents."""

import functools
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline

from pure import Guidance
from pure.models import CheckpointError, load_pipeline
from pure.transforms import dbcache, guided, scm
from tests.support import chat_pipelines as tiny
from tests.support.half import assert_as_near

SHORT: dict[str, Any] = {"max_sequence_length": 96, "steps": 3, "height": 16, "width": 20}
LONG = "a dog on a mat beside a cat on a hat"  # more than 32 tokens longer than "a dog"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("z-image")
    tiny.z_image_pipeline().save_pretrained(folder / "base")
    tiny.z_image_pipeline(shift=3.0, whole=True).save_pretrained(folder / "turbo")
    return folder


@functools.cache
def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Our pipeline and diffusers'."""
    theirs = ZImagePipeline.from_pretrained(folder, dtype=dtype)
    theirs.set_progress_bar_config(disable=True)
    return load_pipeline(folder, dtype=dtype), theirs


def compare(ours: Any, theirs: Any, prompt: Any, options: dict, mine: dict, their: dict) -> None:
    """Pixels and latents agree; `mine` and `their` are what the two libraries call differently."""
    negative = mine.pop("negative", None)
    made = ours.generate(prompt, negative, **{"seed": 0, **SHORT, **options, **mine})
    wanted = {} if negative is None else {"negative_prompt": negative}
    pixels, latents = tiny.reference(theirs, prompt, **{**SHORT, **options, **their, **wanted})
    torch.testing.assert_close(made.pixels, pixels, atol=2e-5, rtol=0)
    torch.testing.assert_close(made.latents, latents, atol=1e-4, rtol=0)


CALLS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "guided": ("a dog", {}, None),
    "guided a little": ("a dog", {"guidance_scale": 0.5}, None),
    "guided by a longer text": ("a dog", {"guidance_scale": 3.0}, LONG),
    "not guided": ("a dog", {"guidance_scale": 0.0}, None),
    "two prompts of different length": (["a dog", LONG], {}, None),
    "two prompts, not guided": (["a dog", LONG], {"guidance_scale": 0.0}, None),
    "two prompts twice": (["a dog", LONG], {"images_per_prompt": 2}, ["a cat", "ugly"]),
    "a generator per image": ("a dog", {"images_per_prompt": 2, "seed": [3, 4]}, None),
    "high": ("a dog", {"height": 36, "width": 8}, None),
    "one step": ("a dog", {"steps": 1}, None),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["base", "turbo"])
def test_pixels_and_latents_are_those_of_diffusers(saved, name, call):
    """Measured: pixels differ by at most 2e-6, latents by 9e-6 of values up to 4."""
    prompt, options, negative = CALLS[call]
    options = {"guidance_scale": 5.0, **options}
    compare(*loaded(saved / name), prompt, options, {"negative": negative}, {})


@pytest.mark.parametrize("prompt", ["a dog", ["a dog", LONG]], ids=["one", "two"])
@pytest.mark.parametrize("cap", [1.0, 0.7, 1.5])
def test_normalisation_is_that_of_diffusers(saved, prompt, cap):
    transform = guided(scale=4.0, normalize="sample", cap=cap)
    mine = {"transform": transform, "guidance_scale": None}
    compare(*loaded(saved / "base"), prompt, {}, mine, {"guidance_scale": 3.0, "cfg_normalization": cap})


@pytest.mark.parametrize("truncation", [0.05, 0.2, 0.5])
def test_truncation_is_that_of_diffusers(saved, truncation):
    ours, theirs = loaded(saved / "base")
    transform = guided(scale=4.0, lowest_sigma=1 - truncation)
    mine, their = {"transform": transform}, {"guidance_scale": 3.0, "cfg_truncation": truncation}
    compare(ours, theirs, ["a dog", LONG], {"steps": 8}, mine, their)
    made = ours.generate("a dog", seed=0, transform=transform, **{**SHORT, "steps": 8})
    both = [len(info.decisions) == 2 for info in made.infos]
    assert both[0] and not both[-1] and both == sorted(both, reverse=True)


def test_the_prompt_is_seen(saved):
    ours, _ = loaded(saved / "base")
    made = [ours.generate(prompt, seed=0, **SHORT).latents for prompt in ("a dog", "a cat", LONG)]
    assert all(float((one - other).abs().max()) > 0.1 for one, other in itertools.pairwise(made))


def test_a_prompt_gets_alone_what_it_gets_beside_a_longer_one(saved):
    ours, _ = loaded(saved / "base")
    alone = ours.generate("a dog", seed=5, **SHORT)
    beside = ours.generate(["a dog", LONG], seed=[5, 6], **SHORT)
    torch.testing.assert_close(beside.pixels[:1], alone.pixels, atol=2e-5, rtol=0)


def test_conditioning_has_a_mask_only_where_lengths_differ(saved):
    ours, _ = loaded(saved / "base")
    assert not ours.encode(ours.request("a dog", guidance_scale=0.0, max_sequence_length=96)).ragged
    assert not ours.encode(ours.request(["a dog", "a cat "], guidance_scale=0.0, max_sequence_length=96)).ragged
    both = ours.encode(ours.request(["a dog", LONG], guidance_scale=0.0, max_sequence_length=96))
    assert both.ragged and both.text.shape[1] == int(both.lengths.max()) > 32 > int(both.lengths.min())
    branches = ours.encode(ours.request("a dog", LONG, max_sequence_length=96))
    assert branches.conditional.ragged and branches.conditional.text.shape == branches.unconditional.text.shape


def test_padding_on_the_left_changes_nothing(saved):
    """The text is what counts: a tokenizer that pads on the other side gives the same conditioning."""
    ours, _ = loaded(saved / "base")
    left: Any = load_pipeline(saved / "base")
    left.reader.tokenizer.padding_side = "left"
    _, mask = left.reader(["a dog", LONG], 96)
    assert not mask[0, 0] and mask[0, -1]
    request = ours.request(["a dog", LONG], guidance_scale=0.0, max_sequence_length=96)
    one: Any = ours.encode(request)
    other: Any = left.encode(request)
    torch.testing.assert_close(one.text, other.text, atol=1e-5, rtol=0)
    assert torch.equal(one.lengths, other.lengths)


def test_schedules_are_those_of_diffusers(saved):
    """To the last bit but one: diffusers spaces them evenly in fp32, we in fp64."""
    ours, theirs = loaded(saved / "base")
    steps = ours.schedule(ours.request("", steps=9, height=64, width=48))
    tiny.reference(theirs, "a dog", **{**SHORT, "steps": 9, "guidance_scale": 0.0})
    timesteps = torch.stack([step.timestep for step in steps])
    torch.testing.assert_close(timesteps, theirs.scheduler.timesteps / 1000, atol=1.2e-7, rtol=0)


def test_defaults_are_told_from_the_files(saved):
    found = {name: loaded(saved / name)[0] for name in ("base", "turbo")}
    told = {name: (p.defaults.steps, p.defaults.guidance_scale) for name, p in found.items()}
    assert told == {"base": (50, 5.0), "turbo": (9, 0.0)}
    defaults = found["base"].defaults
    assert (defaults.negative_prompt, defaults.max_sequence_length, defaults.longest) == ("", 512, 1504)
    assert found["base"].noise(found["base"].request("")).shape == (1, 4, 512, 512)
    made = found["turbo"].generate("a dog", seed=0, **{**SHORT, "steps": None})
    assert [len(info.decisions) for info in made.infos] == [1] * 9


def test_every_scale_above_0_guides(saved):
    ours, _ = loaded(saved / "base")
    scales = (0.0, 0.5, 1.0, 4.0)
    found = [ours.guidance(ours.request("", guidance_scale=scale)) for scale in scales]
    assert found == [None, *(Guidance(scale=1.0 + scale) for scale in scales[1:])]


def test_bf16_keeps_latents_in_fp32(saved):
    ours, theirs = loaded(saved / "base", torch.bfloat16)
    made = ours.generate("a dog", seed=0, **SHORT)
    pixels, latents = tiny.reference(theirs, "a dog", **SHORT)
    exact_pixels, exact_latents = tiny.reference(loaded(saved / "base")[1], "a dog", **SHORT)
    assert made.latents.dtype == latents.dtype == torch.float32
    assert_as_near(made.latents, latents, exact_latents)
    assert_as_near(made.pixels, pixels, exact_pixels)


def test_steps_are_skipped(saved):
    ours, _ = loaded(saved / "base")
    options = {**SHORT, "steps": 6}
    plain = ours.generate(["a dog", LONG], seed=0, **options)
    caching = dbcache(front=1, back=1, threshold=0.9, warmup=2)
    cached = ours.generate(["a dog", LONG], seed=0, transform=caching, **options)
    masked = ours.generate("a dog", seed=0, transform=scm(mask="110101", policy="static"), **options)
    assert all(all(info.computed) for info in plain.infos)
    assert not all(all(info.computed) for info in cached.infos)
    assert [info.computed for info in masked.infos] == [(bit == "1",) * 2 for bit in "110101"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 18}, "height=18 is not a positive multiple of 4 pixels; the nearest size is 16"),
        ({"width": 260}, "columns would need 65 positions and the checkpoint has 64; make a smaller image"),
        ({"images": [tiny.picture(64, 64)]}, "takes no input pictures, got 1"),
        ({"max_sequence_length": 1505}, "max_sequence_length=1505 should be in 1 to 1504"),
    ],
)
def test_requests_that_are_not_possible_are_refused(saved, options, message):
    ours, _ = loaded(saved / "base")
    with pytest.raises(ValueError, match=message):
        ours.generate("a dog", **{**SHORT, **options})


@pytest.mark.parametrize(
    ("negative", "options", "message"),
    [
        ("ugly", {"guidance_scale": 0.0}, "the negative prompt has no effect: set guidance_scale above 0"),
        (None, {"guidance_scale": -1.0}, "guidance_scale=-1.0 has no effect: it must be above 0"),
        (None, {"max_sequence_length": 20, "guidance_scale": 0.0}, "the text encoder reads 20 tokens and the prompt"),
    ],
)
def test_what_has_no_effect_is_said(saved, negative, options, message):
    ours, _ = loaded(saved / "base")
    with pytest.warns(UserWarning, match=message):
        ours.generate("a dog", negative, **{**SHORT, "steps": 1, **options})


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "UniPCMultistepScheduler"},
            "describes a UniPC.*; supported",
        ),
        ("transformer/config.json", {"in_channels": 8}, "the transformer has 8 channels and the VAE 4; they should ag"),
        ("transformer/config.json", {"cap_feat_dim": 24}, "the text encoder is 16 wide and the transformer's cap_feat"),
        ("transformer/config.json", {"siglip_feat_dim": 8}, "the omni variant, which reads pictures, is not implement"),
        (
            "model_index.json",
            {"text_encoder": ["transformers", "T5EncoderModel"]},
            "text_encoder is a T5EncoderModel; s",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(saved, tmp_path, file, changes, message):
    shutil.copytree(saved / "base", tmp_path / "base")
    tiny.rewrite(tmp_path / "base" / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(tmp_path / "base")


def test_channels_that_the_vae_leaves_out_are_those_of_its_class(saved, tmp_path):
    shutil.copytree(saved / "base", tmp_path / "base")
    file = tmp_path / "base" / "vae" / "config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "latent_channels"}))
    ours: Any = load_pipeline(tmp_path / "base")
    assert ours.channels == 4
