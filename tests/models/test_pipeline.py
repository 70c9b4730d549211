"""Whole pipelines against diffusers' FluxPipeline: the same pixels."""

import contextlib
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers import FluxPipeline

import pure
from pure.models import CheckpointError, embedded, load_pipeline
from pure.models.checkpoint.description import describe
from pure.models.flux.denoiser import Conditioning
from pure.transforms import dbcache, guided
from tests.support import tiny
from tests.support.half import rounding_once

TINY: dict[str, Any] = {"max_sequence_length": 48}
SHORT: dict[str, Any] = {"steps": 1, "max_sequence_length": 8}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    for name, options in {"dev": {"dynamic": True}, "schnell": {"guidance_embeds": False}}.items():
        tiny.pipeline(**options).save_pretrained(folder / name)
    return {"dev": folder / "dev", "schnell": folder / "schnell"}


@functools.cache
def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Our pipeline and diffusers', whose annotations refuse what it takes."""
    theirs = FluxPipeline.from_pretrained(folder, dtype=dtype)
    theirs.set_progress_bar_config(disable=True)
    return load_pipeline(folder, dtype=dtype), theirs


def generators(seed: int | list[int]) -> torch.Generator | list[torch.Generator]:
    if isinstance(seed, int):
        return torch.Generator().manual_seed(seed)
    return [torch.Generator().manual_seed(s) for s in seed]


def both(folder: Path, prompt, negative=None, *, steps=3, seed=0, images_per_prompt=1, **options):
    """Pixels of both libraries."""
    ours, theirs = loaded(folder)
    made = ours.generate(
        prompt, negative, steps=steps, seed=seed, images_per_prompt=images_per_prompt, **options
    ).pixels
    side = ours.codec.vae.config["sample_size"]
    wanted = theirs(
        prompt,
        negative_prompt=negative,
        num_inference_steps=steps,
        generator=generators(seed),
        num_images_per_prompt=images_per_prompt,
        output_type="pt",
        **{"height": side, "width": side, **options},
    ).images
    return made, wanted


CALLS: dict[str, tuple[tuple, dict[str, Any]]] = {
    "plain": (("a squirrel",), {}),
    "other guidance": (("a squirrel",), {"guidance_scale": 7.0}),
    "true cfg": (("a squirrel", "ugly"), {"true_cfg_scale": 4.0}),
    "true cfg, empty negative": (("a squirrel", ""), {"true_cfg_scale": 1.5}),
    "three images": (("a squirrel",), {"images_per_prompt": 3}),
    "three images, true cfg": (("a squirrel", "ugly"), {"images_per_prompt": 3, "true_cfg_scale": 2.0}),
    "two prompts": ((["a squirrel", "a dog"],), {}),
    "two prompts twice, true cfg": (
        (["a squirrel", "a dog"], ["ugly", "cat"]),
        {"images_per_prompt": 2, "true_cfg_scale": 3.0},
    ),
    "a generator per image": (("a squirrel",), {"images_per_prompt": 2, "seed": [3, 4]}),
    "wide": (("a squirrel",), {"height": 16, "width": 40}),
    "high, true cfg": (("a squirrel", "ugly"), {"height": 36, "width": 8, "true_cfg_scale": 2.0}),
    "one step": (("a squirrel",), {"steps": 1}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["dev", "schnell"])
def test_pixels_of_the_tiny_pipeline(saved, name, call):
    arguments, options = CALLS[call]
    idle = name == "schnell" and "guidance_scale" in options
    said = pytest.warns(UserWarning, match=r"guidance_scale=7.0 has no effect: this checkpoint embeds none")
    with said if idle else contextlib.nullcontext():
        made, wanted = both(saved[name], *arguments, **TINY, **options)
    assert made.std() > 0.05
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("call", ["plain", "true cfg", "three images", "three images, true cfg"])
def test_pixels_of_the_embedded_checkpoint(call):
    arguments, options = CALLS[call]
    prompts = {"a squirrel": "a red apple on a blue background", "ugly": "a green apple"}
    made, wanted = both(embedded(), *(prompts[word] for word in arguments), max_sequence_length=32, **options)
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


def test_pictures_are_those_of_diffusers(saved):
    ours, theirs = loaded(saved["dev"])
    request = ours.request(["a", "b"], steps=1, height=16, width=24, max_sequence_length=8)
    latents = ours.noise(request, 5)
    wanted = theirs(
        ["a", "b"], num_inference_steps=1, latents=latents, height=16, width=24, max_sequence_length=8
    ).images
    run = ours.generate(["a", "b"], steps=1, seed=5, height=16, width=24, max_sequence_length=8)
    made = ours.decode(run.latents, request)
    assert [image.size for image in made] == [(24, 16)] * 2
    assert all(a.tobytes() == b.tobytes() for a, b in zip(made, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_latents_in_half_precision(saved, dtype):
    ours, theirs = loaded(saved["dev"], dtype)
    size: dict[str, Any] = {"height": 16, "width": 16}
    request = ours.request("a fox", steps=20, max_sequence_length=16, **size)
    noise = ours.noise(request, 0)
    run = pure.sample(ours.denoiser, ours.params, ours.encode(request), noise, ours.schedule(request), ours.solver)
    options: dict[str, Any] = {"num_inference_steps": 20, "max_sequence_length": 16, "output_type": "latent", **size}
    with torch.no_grad():
        plain = theirs("a fox", latents=noise, **options).images
        with rounding_once(theirs):
            expected = theirs("a fox", latents=noise, **options).images
    assert run.latents.dtype == dtype
    torch.testing.assert_close(run.latents, expected, rtol=0, atol=0)
    # diffusers' own scheduler also rounds the product of a step: at most one rounding of latents a step.
    rounding = torch.finfo(dtype).eps * float(noise.abs().max())
    torch.testing.assert_close(run.latents, plain, rtol=0, atol=20 * rounding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_embeddings_in_half_precision(saved, dtype):
    ours, theirs = loaded(saved["dev"], dtype)
    with torch.no_grad():
        text, pooled, ids = theirs.encode_prompt("a squirrel", max_sequence_length=20)
    made = ours.encode(ours.request("a squirrel", max_sequence_length=20, height=16, width=16))
    assert isinstance(made, Conditioning) and made.guidance is not None and made.pooled is not None
    assert made.text.dtype == made.pooled.dtype == ours.dtype == dtype
    assert torch.equal(made.text, text) and torch.equal(made.pooled, pooled)
    assert torch.equal(made.ids.value[:20], ids.float())
    assert made.guidance.dtype == torch.float32
    pixels = ours.generate("a squirrel", steps=2, **TINY).pixels
    assert pixels.dtype == dtype and pixels.isfinite().all()


def test_what_a_user_writes_step_by_step(saved):
    pipeline, _ = loaded(saved["dev"])
    request = pipeline.request("a squirrel", steps=4, height=16, width=16, **TINY)
    conditioning, latents, steps = (
        pipeline.encode(request),
        pipeline.noise(request, seed=42),
        pipeline.schedule(request),
    )
    state = pipeline.denoiser.init(pipeline.params, conditioning, latents, steps)
    for step in steps:
        with torch.no_grad():
            prediction, state, _ = pipeline.denoiser.apply(pipeline.params, state, pure.Inputs(latents, step))
        latents = pipeline.solver.step(latents, prediction, step)
    run = pipeline.generate("a squirrel", steps=4, height=16, width=16, **TINY)
    assert torch.equal(run.latents, latents)
    assert torch.equal(run.pixels, pipeline.pixels(latents, request))
    assert [info.computed for info in run.infos] == [(True,)] * 4


def test_negative_prompts_are_broadcast(saved):
    pipeline, _ = loaded(saved["dev"])
    one = pipeline.encode(pipeline.request(["a", "b"], "ugly", **TINY))
    two = pipeline.encode(pipeline.request(["a", "b"], ["ugly", "ugly"], **TINY))
    assert isinstance(one, pure.Branches) and isinstance(two, pure.Branches)
    assert one.unconditional.text.shape == (2, 48, 32)
    assert torch.equal(one.unconditional.text, two.unconditional.text)
    assert torch.equal(one.unconditional.pooled, two.unconditional.pooled)


def test_every_frame_is_observed(saved):
    pipeline, _ = loaded(saved["dev"])
    frames = []
    pipeline.generate("a", steps=3, observe=frames.append, **TINY)
    assert [frame.step.index for frame in frames] == [0, 1, 2]


def test_nothing_global_is_touched(saved):
    before = torch.random.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()
    pipeline: Any = load_pipeline(saved["dev"])
    pipeline.generate("a squirrel", "ugly", true_cfg_scale=2.0, steps=2, **TINY)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before[1:]
    assert not any(part.training for part in (pipeline.reader.text_encoder, pipeline.reader.text_encoder_2))
    assert not pipeline.codec.vae.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": []}, ValueError, "prompt is an empty sequence; give at least one"),
        ({"prompt": 3}, TypeError, "prompt should be a string or a sequence of strings, got 3"),
        ({"prompt": ["a", None]}, TypeError, "prompt should be a string or a sequence of strings"),
        ({"negative_prompt": ["a", "b"], "true_cfg_scale": 2.0}, ValueError, "2 negative prompts for 1 prompts; give"),
        ({"images_per_prompt": 0}, ValueError, "images_per_prompt=0 should be at least 1"),
        ({"max_sequence_length": 513}, ValueError, "max_sequence_length=513 should be in 1 to 512"),
        ({"max_sequence_length": 0}, ValueError, "max_sequence_length=0 should be in 1 to 512"),
        ({"height": 33}, ValueError, "height=33 is not a positive multiple of 4 pixels; the nearest size is 32"),
        ({"width": 39}, ValueError, "width=39 is not a positive multiple of 4 pixels; the nearest size is 40"),
        ({"width": 0}, ValueError, "width=0 should be at least 1"),
        ({"height": -8}, ValueError, "height=-8 should be at least 1"),
        ({"steps": 0}, ValueError, "steps=0 should be at least 1"),
        ({"seed": [1, 2]}, ValueError, "2 seeds for a batch of 1; give one seed per sample"),
        ({"steps": [2, 3]}, TypeError, r"steps should be a whole number, got \[2, 3\]"),
        ({"steps": True}, TypeError, "steps should be a whole number, got True"),
        ({"steps": 2.0}, TypeError, "steps should be a whole number, got 2.0"),
        ({"steps": 10**9}, ValueError, "steps=1000000000 should be in 1 to 10000"),
        ({"height": "64"}, TypeError, "height should be a whole number, got '64'"),
        ({"height": 100_000, "width": 100_000}, ValueError, r"height=100000, width=100000: latents of [\d,]+ numbers"),
        ({"height": 10**40}, ValueError, "latents of"),
        ({"images_per_prompt": 10**9}, ValueError, "images_per_prompt=1000000000 should be in 1 to 1024"),
        ({"guidance_scale": 1e308}, ValueError, r"guidance_scale=1e\+308 should be finite and at most 1000"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale=nan should be finite"),
        ({"true_cfg_scale": -1e30}, ValueError, r"true_cfg_scale=-1e\+30 should be finite and at most 1000"),
        ({"true_cfg_scale": "3"}, TypeError, "true_cfg_scale should be a number, got '3'"),
        ({"guidance_scale": [3.0]}, TypeError, r"guidance_scale should be a number, got \[3.0\]"),
        ({"num_inference_steps": 2}, TypeError, "there is no option 'num_inference_steps'; did you mean steps?"),
        ({"hieght": 2}, TypeError, "there is no option 'hieght'; did you mean height?"),
        ({"xyz": None}, TypeError, "there is no option 'xyz'; there are images, steps, height"),
        ({"images": "a.png"}, TypeError, "images should be a sequence of Pillow's pictures, got 'a.png'"),
        ({"images": [None]}, TypeError, "images should be a sequence of Pillow's pictures"),
        ({"seed": 2**63}, ValueError, r"from 0 to 2\*\*63 - 1, got 9223372036854775808"),
        ({"seed": -1}, ValueError, "a seed is a whole number from 0 to .* got -1"),
        ({"seed": [1.5]}, TypeError, "seed should be a whole number, got 1.5"),
        ({"seed": None}, TypeError, "seed should be a whole number, got None"),
        (
            {"transform": dbcache},
            TypeError,
            r"a transform is a record such as dbcache\(\), got .*; call it: dbcache\(...\)",
        ),
        ({"transform": 3}, TypeError, r"a transform is a record such as dbcache\(\), got 3"),
        ({"transform": str}, TypeError, r"call it: str\(...\)"),
        ({"transform": repr}, TypeError, "the transform .* returns str; it should return a denoiser"),
    ],
)
def test_wrong_arguments(saved, arguments, error, message):
    pipeline, _ = loaded(saved["dev"])
    with pytest.raises(error, match=message):
        pipeline.generate(**{"prompt": "a", "steps": 1, "max_sequence_length": 8, **arguments})


def test_latents_of_another_size(saved):
    pipeline, _ = loaded(saved["dev"])
    message = r"latents of shape \(1, 64, 4\) are not those of 16 x 16 pixels and 1 frames.*; pass the request"
    with pytest.raises(ValueError, match=message):
        pipeline.pixels(pipeline.noise(pipeline.request("a")), pipeline.request("a", height=16, width=16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"true_cfg_scale": 3.0}, r"true_cfg_scale=3.0 has no effect: give a negative prompt \('' will do\)"),
        ({"true_cfg_scale": 0.5, "negative_prompt": "b"}, "true_cfg_scale=0.5 has no effect: it must be above 1"),
        ({"negative_prompt": "b"}, "the negative prompt has no effect: set true_cfg_scale above 1"),
    ],
)
def test_guidance_by_halves_warns_and_runs_without(saved, arguments, message):
    pipeline, _ = loaded(saved["dev"])
    with pytest.warns(UserWarning, match=message):
        made = pipeline.generate("a", **SHORT, **arguments)
    assert torch.equal(made.pixels, pipeline.generate("a", **SHORT).pixels)


class Guided:
    """A transform that sets guidance."""

    def __call__(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, guidance=pure.Guidance(scale=2.0))


def test_guidance_by_transform(saved):
    pipeline, _ = loaded(saved["dev"])
    wanted = pipeline.generate("a", "b", true_cfg_scale=2.0, **SHORT).pixels
    assert torch.equal(pipeline.generate("a", "b", transform=Guided(), **SHORT).pixels, wanted)
    with pytest.raises(ValueError, match=r"the transform guides with scale 2.0 and true_cfg_scale is 3.0; set one"):
        pipeline.generate("a", "b", transform=Guided(), true_cfg_scale=3.0, **SHORT)


@pytest.mark.parametrize(
    ("negative", "options", "message"),
    [
        (None, {}, r"guided\(scale=2.0\) has no negative conditioning and runs without .*; give a negative prompt"),
        ("b", {"start": 0.4, "stop": 0.4001}, r"guided\(scale=2.0\) has no effect: none of 2 steps is in \[0.4, "),
    ],
)
def test_a_transform_that_guides_no_step_warns(saved, negative, options, message):
    pipeline = load_pipeline(saved["dev"])
    settings: Any = {**SHORT, "steps": 2}
    with pytest.warns(UserWarning, match=message):
        made = pipeline.generate("a", negative, transform=guided(scale=2.0, **options), **settings)
    assert len(made.notes) == 1


def test_truncated_prompts_warn_and_equal_diffusers(saved):
    ours, theirs = loaded(saved["dev"])
    prompt = "a squirrel in a tree"
    with pytest.warns(
        UserWarning, match=r"the text embedding \(T5\) reads 8 tokens and the prompt .* 'rrel in a tree'"
    ):
        made = ours.encode(ours.request(prompt, max_sequence_length=8))
    assert isinstance(made, Conditioning)
    with torch.no_grad():
        assert torch.equal(made.text, theirs.encode_prompt(prompt, max_sequence_length=8)[0])
    prompt = "squirrel " * 12
    with pytest.warns(UserWarning, match=r"the pooled embedding \(CLIP\) reads 77 tokens"):
        made = ours.encode(ours.request(prompt, max_sequence_length=200))
    assert isinstance(made, Conditioning) and made.pooled is not None
    with torch.no_grad():
        assert torch.equal(made.pooled, theirs.encode_prompt(prompt, max_sequence_length=200)[1])


def test_notes_of_cut_prompts_name_their_samples(saved):
    pipeline = load_pipeline(saved["dev"])
    with pytest.warns(UserWarning, match="reads 8 tokens"):
        made = pipeline.generate(["a", "b" * 20], steps=1, max_sequence_length=8, images_per_prompt=2)
    assert [note.subject for note in made.notes] == [2, 3]
    request = pipeline.request(["a", "b"], "c" * 20, true_cfg_scale=2.0, max_sequence_length=8)
    assert [note.subject for note in pipeline.notes(request)] == [0, 1]


def test_notes_quote_only_the_beginning_of_long_prompts(saved):
    pipeline = load_pipeline(saved["schnell"])
    notes = pipeline.notes(pipeline.request("a" * 5000, max_sequence_length=8))
    assert len(notes) == 2 and all("aaa... (5000 characters)' has" in note.text for note in notes)
    assert all(len(note.text) < 400 for note in notes)


def test_no_warning_where_nothing_is_wrong(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pipeline(saved["schnell"]).generate("a", steps=1, max_sequence_length=8)


def test_a_hub_id_without_connection():
    with pytest.raises(CheckpointError, match=r"no folder 'nobody/nothing', and the Hugging Face hub does not give it"):
        load_pipeline("nobody/nothing")


def test_the_embedded_checkpoint_reads_16_tokens_by_default():
    """Its own description says so; with as many, diffusers makes the same picture."""
    ours = load_pipeline(embedded())
    theirs: Any = FluxPipeline.from_pretrained(embedded())
    theirs.set_progress_bar_config(disable=True)
    assert (ours.defaults.max_sequence_length, ours.defaults.longest) == (16, 512)
    made = ours.generate("a red apple on a blue background", steps=2, seed=1).pixels
    options: Any = {"num_inference_steps": 2, "max_sequence_length": 16, "height": 64, "width": 64, "output_type": "pt"}
    wanted = theirs("a red apple on a blue background", generator=torch.Generator().manual_seed(1), **options).images
    assert torch.allclose(made, wanted, atol=1e-5)
    with pytest.warns(UserWarning, match="reads 16 tokens .*; a larger max_sequence_length reads more"):
        ours.generate("a red apple " * 8, steps=1)


def test_defaults_are_told_from_the_files(saved, tmp_path):
    found = {name: loaded(folder)[0].defaults for name, folder in saved.items()}
    told = {name: (each.steps, each.guidance_scale, each.true_cfg_scale) for name, each in found.items()}
    assert told == {"dev": (50, 3.5, 1.0), "schnell": (4, None, 1.0)}
    tiny.pipeline(guidance_embeds=False, dynamic=True).save_pretrained(tmp_path)
    assert describe(tmp_path).defaults.steps == 28


@pytest.mark.parametrize("length", [0, 513, "16", True, 1.5])
def test_a_default_length_that_is_none(tmp_path, length):
    tiny.pipeline().save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_max_sequence_length": length}))
    with pytest.raises(CheckpointError, match=r"model_index.json: _max_sequence_length is .*, not 1 to 512"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 10**5000}, "steps is out of range: it has 16610 bits"),
        ({"height": 10**400}, "height is out of range"),
        ({"seed": 10**5000}, "seed is out of range"),
        (
            {"guidance_scale": 10**400},
            "guidance_scale should be finite and at most 1000, got a whole number of 1329 bits",
        ),
        ({"guidance_scale": torch.ones(3)}, "guidance_scale should be finite"),
        ({"prompt": "a \ud800"}, "holds a lone surrogate"),
        ({"negative_prompt": "\udcff"}, "negative_prompt .* holds a lone surrogate"),
    ],
)
def test_extreme_arguments(saved, arguments, message):
    pipeline, _ = loaded(saved["dev"])
    with pytest.raises(ValueError, match=message):
        pipeline.generate(**{"prompt": "a cat", **arguments})
