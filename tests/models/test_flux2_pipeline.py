"""Whole FLUX.2 pipelines, dev and klein, against diffusers': the same pixels and latents."""

import functools
import itertools
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline

import pure
from pure.models import CheckpointError, load_pipeline
from pure.models.flux2.vae import limited
from pure.transforms import dbcache, guided, scm
from tests.support import chat_pipelines as tiny
from tests.support.half import assert_as_near, rounding_once

CLASSES = {"dev": Flux2Pipeline, "klein": Flux2KleinPipeline, "distilled": Flux2KleinPipeline}
# Of dev, the conversation before the prompt alone is 250 bytes, which are its tokens here.
SHORT: dict[str, dict[str, Any]] = {
    "dev": {"max_sequence_length": 300, "steps": 3, "height": 16, "width": 20},
    "klein": {"max_sequence_length": 64, "steps": 3, "height": 16, "width": 20},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flux2")
    tiny.flux2_dev().save_pretrained(folder / "dev")
    tiny.flux2_klein().save_pretrained(folder / "klein")
    tiny.flux2_klein(distilled=True).save_pretrained(folder / "distilled")
    return folder


@functools.cache
def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Our pipeline and diffusers'."""
    theirs = CLASSES[folder.name].from_pretrained(folder, dtype=dtype)
    theirs.set_progress_bar_config(disable=True)
    return load_pipeline(folder, dtype=dtype), theirs


CALLS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "dev": ("dev", "a dog", {}),
    "dev, other guidance": ("dev", "a dog", {"guidance_scale": 1.5}),
    "dev, two prompts twice": ("dev", ["a dog", "a cat on a mat"], {"images_per_prompt": 2}),
    "dev, a mark of a picture": ("dev", "a [IMG] dog", {"steps": 1}),
    "dev, one reference": ("dev", "a dog", {"images": [tiny.picture(71, 64)]}),
    "dev, two references": (
        "dev",
        ["a dog", "a cat"],
        {"images": [tiny.picture(71, 64), tiny.picture(64, 90, seed=1)]},
    ),
    "klein, guided": ("klein", "a dog", {}),
    "klein, guided more": ("klein", ["a dog", "a cat on a mat"], {"guidance_scale": 7.0, "images_per_prompt": 2}),
    "klein, not guided": ("klein", "a dog", {"guidance_scale": 1.0}),
    "klein, a generator per image": ("klein", "a dog", {"images_per_prompt": 2, "seed": [3, 4]}),
    "klein, one reference": ("klein", "a dog", {"images": [tiny.picture(71, 64)]}),
    "klein, two references": ("klein", "a dog", {"images": [tiny.picture(71, 64), tiny.picture(64, 90, seed=1)]}),
    "klein, distilled": ("distilled", "a dog", {"guidance_scale": 1.0, "steps": 4}),
}


@pytest.mark.parametrize("call", CALLS)
def test_pixels_and_latents_are_those_of_diffusers(saved, call):
    """Measured: pixels differ by at most 2e-6, latents by 2e-5 of values up to 5."""
    name, prompt, options = CALLS[call]
    ours, theirs = loaded(saved / name)
    options = {**SHORT["dev" if name == "dev" else "klein"], **options}
    made = ours.generate(prompt, **{"seed": 0, **options})
    pixels, latents = tiny.reference(theirs, prompt, **options)
    torch.testing.assert_close(made.pixels, pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.latents, latents, atol=1e-4, rtol=0)


def test_prompts_that_edit_the_same_picture_get_what_they_get_alone(saved):
    ours, _ = loaded(saved / "klein")
    options = {**SHORT["klein"], "guidance_scale": 1.0, "images": [tiny.picture(64, 64)], "steps": 1}
    prompts = ["a dog", "a cat"]
    together = ours.encode(ours.request(prompts, **options))
    alone = [ours.encode(ours.request(prompt, **options)) for prompt in prompts]
    assert len(together.reference) == 2
    for name in ("text", "reference"):
        rows = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), rows, atol=1e-5, rtol=0)


def test_the_size_of_the_first_picture_is_taken(saved):
    ours, theirs = loaded(saved / "klein")
    options = {"max_sequence_length": 64, "steps": 1, "images": [tiny.picture(71, 66), tiny.picture(90, 64)]}
    made = ours.generate("a dog", seed=0, **options).pixels
    assert made.shape == (1, 3, 64, 68)
    torch.testing.assert_close(made, tiny.reference(theirs, "a dog", **options)[0], atol=1e-5, rtol=0)


def test_a_large_picture_is_made_smaller(saved):
    ours, theirs = loaded(saved / "klein")
    picture = tiny.picture(1290, 1009)
    small, wanted = limited(picture), theirs.image_processor._resize_to_target_area(picture)
    assert small.size == wanted.size and small.tobytes() == wanted.tobytes()
    assert ours.codec.fitted(picture) == (wanted.height // 4 * 4, wanted.width // 4 * 4)
    assert limited(tiny.picture(1024, 1024)).size == (1024, 1024)


@pytest.mark.parametrize("name", ["dev", "klein"])
def test_what_the_prompt_and_the_pictures_say_is_seen(saved, name):
    ours, options = loaded(saved / name)[0], {**SHORT[name], "steps": 2}

    def latents(prompt: str, **pictures) -> torch.Tensor:
        return ours.generate(prompt, seed=0, **options, **pictures).latents

    made = [latents("a dog"), latents("a cat")]
    made += [latents("a dog", images=[tiny.picture(64, 64, seed)]) for seed in (0, 1)]
    apart = [float((one - other).abs().max()) for one, other in itertools.combinations(made, 2)]
    assert min(apart) > 5e-3, "a thousand times what separates us from diffusers"


def test_schedules_are_those_of_diffusers(saved):
    ours, theirs = loaded(saved / "klein")
    steps = ours.schedule(ours.request("", steps=4, height=64, width=48))
    tiny.reference(theirs, "a dog", steps=4, height=64, width=48, max_sequence_length=16, guidance_scale=1.0)
    assert torch.equal(torch.stack([step.timestep for step in steps]), theirs.scheduler.timesteps / 1000)
    sigmas = [step.sigma for step in steps]
    assert torch.equal(torch.stack(sigmas), theirs.scheduler.sigmas[:-1])


def starting_noise(pipeline) -> torch.Tensor:
    return pipeline.noise(pipeline.request(""))


def test_defaults_are_told_from_the_files(saved):
    defaults = {name: loaded(saved / name)[0].defaults for name in CLASSES}
    assert {name: (d.steps, d.guidance_scale, d.negative_prompt) for name, d in defaults.items()} == {
        "dev": (50, 4.0, None),
        "klein": (50, 4.0, ""),
        "distilled": (4, 1.0, ""),
    }
    # 128 latents on a side, of 2 pixels here.
    assert [starting_noise(loaded(saved / name)[0]).shape for name in CLASSES] == [(1, 64 * 64, 8)] * 3


def test_bf16_runs(saved):
    for name in ("dev", "klein"):
        options = {**SHORT[name], "steps": 2, "images": [tiny.picture(64, 64)]}
        ours, theirs = loaded(saved / name, torch.bfloat16)
        made = ours.generate("a dog", seed=0, **options)
        assert made.latents.dtype == torch.bfloat16
        pixels, exact = (tiny.reference(pipe, "a dog", **options)[0] for pipe in (theirs, loaded(saved / name)[1]))
        assert_as_near(made.pixels, pixels, exact)
        if name == "dev":  # one row a step, as in diffusers: the same kernels
            with rounding_once(theirs):
                assert torch.equal(made.pixels, tiny.reference(theirs, "a dog", **options)[0])


def test_steps_are_skipped(saved):
    ours, _ = loaded(saved / "klein")
    options = {**SHORT["klein"], "steps": 6, "images": [tiny.picture(64, 64)]}
    plain = ours.generate("a dog", seed=0, **options)
    cached = ours.generate("a dog", seed=0, transform=dbcache(front=1, threshold=0.9, warmup=2), **options)
    masked = ours.generate("a dog", seed=0, transform=scm(mask="110101", policy="static"), **options)
    assert all(all(info.computed) for info in plain.infos)
    assert not all(all(info.computed) for info in cached.infos)
    assert [info.computed for info in masked.infos] == [(bit == "1",) * 2 for bit in "110101"]
    assert not torch.equal(masked.pixels, plain.pixels)


def test_dev_can_be_guided_by_a_transform(saved):
    """Classifier-free guidance on top of the embedded one, which diffusers' pipeline does not do."""
    ours, _ = loaded(saved / "dev")
    plain = ours.generate("a dog", seed=0, **SHORT["dev"])
    once = ours.generate("a dog", "ugly", seed=0, transform=guided(scale=1.0), **SHORT["dev"])
    twice = ours.generate("a dog", "ugly", seed=0, transform=guided(scale=3.0), **SHORT["dev"])
    torch.testing.assert_close(once.pixels, plain.pixels, atol=1e-5, rtol=0)
    assert not torch.allclose(twice.latents, plain.latents, atol=1e-2)
    assert len(twice.infos[0].decisions) == 2


def test_the_processor_of_the_published_checkpoint_is_read_without_its_eyes(saved, tmp_path):
    """`PixtralProcessor` needs torchvision; of it only the tokenizer is read."""
    shutil.copytree(saved / "dev", tmp_path / "dev")
    tiny.rewrite(tmp_path / "dev" / "model_index.json", tokenizer=["transformers", "PixtralProcessor"])
    ours, _ = loaded(saved / "dev")
    options = {**SHORT["dev"], "steps": 1}
    same = load_pipeline(tmp_path / "dev").generate("a dog", seed=0, **options).pixels
    assert torch.equal(same, ours.generate("a dog", seed=0, **options).pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 18}, "height=18 is not a positive multiple of 4 pixels; the nearest size is 16"),
        ({"images": [tiny.picture(40, 64)]}, "Image too small: 40.64"),
        ({"images": [tiny.picture(64, 600)]}, "Aspect ratio too extreme"),
        ({"images": [tiny.picture(64, 64)] * 11}, "takes 0 to 10 input pictures, got 11"),
        ({"max_sequence_length": 513}, "max_sequence_length=513 should be in 1 to 512"),
    ],
)
def test_requests_that_are_not_possible_are_refused(saved, options, message):
    ours, _ = loaded(saved / "klein")
    with pytest.raises(ValueError, match=message):
        ours.generate("a dog", **{**SHORT["klein"], **options})


@pytest.mark.parametrize(
    ("name", "negative", "options", "message"),
    [
        ("dev", "ugly", {}, "the negative prompt has no effect: guidance is built into this model"),
        ("klein", "ugly", {"guidance_scale": 1.0}, "the negative prompt has no effect: set guidance_scale above 1"),
        ("distilled", None, {"guidance_scale": 4.0}, "guidance_scale=4.0 has no effect: this checkpoint is distilled"),
        ("distilled", "ugly", {"guidance_scale": 4.0}, "guidance_scale=4.0 with the negative prompt has no effect: th"),
        ("klein", None, {"max_sequence_length": 24}, "the text encoder reads 24 tokens and the prompt 'a dog' has"),
    ],
)
def test_what_has_no_effect_is_said(saved, name, negative, options, message):
    ours, _ = loaded(saved / name)
    usual = {**SHORT["dev" if name == "dev" else "klein"], "steps": 1}
    if "max_sequence_length" in options:
        usual["guidance_scale"] = 1.0
    with pytest.warns(UserWarning, match=message):
        ours.generate("a dog", negative, **{**usual, **options})


def test_distilled_is_as_if_nothing_had_been_asked(saved):
    ours, _ = loaded(saved / "distilled")
    options = {**SHORT["klein"], "steps": 1}
    with pytest.warns(UserWarning, match="distilled to a few steps"):
        asked = ours.generate("a dog", "ugly", seed=0, guidance_scale=4.0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a scale of 1 asks for nothing
        plain = ours.generate("a dog", seed=0, guidance_scale=1.0, **options)
    assert torch.equal(asked.pixels, plain.pixels) and not plain.notes
    guide = pure.compose(guided(scale=4.0))
    assert not torch.equal(ours.generate("a dog", "ugly", seed=0, transform=guide, **options).pixels, asked.pixels)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler"},
            "describes a DDIMScheduler; supported: F",
        ),
        (
            "scheduler/scheduler_config.json",
            {"use_karras_sigmas": True},
            "sets use_karras_sigmas=True, not implemented",
        ),
        (
            "transformer/config.json",
            {"in_channels": 16},
            "the transformer has 16 channels and the VAE 2; it needs a qua",
        ),
        ("transformer/config.json", {"patch_size": 2}, "8 channels in, 8 out and patch_size 2; text-to-image needs"),
        ("transformer/config.json", {"joint_attention_dim": 64}, r"27 layers of width 16; hidden states \(9, 18, 27\)"),
        ("text_encoder/config.json", {"num_hidden_layers": 12}, "12 layers of width 16; hidden states"),
        (
            "model_index.json",
            {"vae": ["diffusers", "AutoencoderKL"]},
            "vae is a AutoencoderKL; supported: AutoencoderKL",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(saved, tmp_path, file, changes, message):
    shutil.copytree(saved / "klein", tmp_path / "klein")
    tiny.rewrite(tmp_path / "klein" / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(tmp_path / "klein")
