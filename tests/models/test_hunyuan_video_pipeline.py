"""Whole pipelines against diffusers' HunyuanVideo pipelines: the same frames."""

import functools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoPipeline
from PIL import Image

import pure
from pure.models import CheckpointError, load_pipeline
from pure.models.hunyuan_video.denoiser import Conditioning
from pure.transforms import dbcache, scm, taylorseer
from tests.support import hunyuan_video_pipelines as tiny
from tests.support.half import rounding_once

SIZE: dict[str, Any] = {"height": 32, "width": 48, "frames": 9, "max_sequence_length": 24}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    for kind in ("text", "concat", "replace"):
        tiny.pipeline(kind).save_pretrained(folder / kind)
    return {kind: folder / kind for kind in ("text", "concat", "replace")}


@functools.cache
def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Our pipeline, with a short template, and diffusers', whose annotations refuse what it takes."""
    ours: Any = load_pipeline(folder, dtype=dtype)
    image = ours.image_count == (1, 1)
    theirs = (HunyuanVideoImageToVideoPipeline if image else HunyuanVideoPipeline).from_pretrained(folder, dtype=dtype)
    theirs.set_progress_bar_config(disable=True)
    template = tiny.SHORT_PICTURE if image else tiny.SHORT
    return attrs.evolve(ours, reader=attrs.evolve(ours.reader, template=template)), theirs


def diffusers(theirs: Any, template: Any, prompt, negative=None, *, seed, output="pt", **options) -> torch.Tensor:
    """Frames or latents of diffusers' pipeline, told what ours is told."""
    words = {"steps": "num_inference_steps", "frames": "num_frames", "images_per_prompt": "num_videos_per_prompt"}
    call = {words.get(name, name): value for name, value in options.items() if name != "images"}
    if "images" in options:
        call["image"] = options["images"][0]
    seeds = [seed] if isinstance(seed, int) else seed
    made = [torch.Generator().manual_seed(s) for s in seeds]
    return theirs(
        prompt=prompt,
        negative_prompt=negative,
        generator=made[0] if isinstance(seed, int) else made,
        prompt_template=tiny.as_diffusers(template),
        output_type=output,
        return_dict=False,
        **call,
    )[0]


def both(folder: Path, prompt, negative=None, *, steps=3, **options) -> None:
    """Compare frames and latents of both libraries."""
    ours, theirs = loaded(folder)
    if ours.image_count == (1, 1):
        options = {"images": [tiny.picture()], **options}
    options = {**SIZE, "steps": steps, "seed": 0, **options}
    if ours.params.get("time_text_embed.guidance_embedder.linear_1.weight") is None:
        options.pop("guidance_scale", None)
    made = ours.generate(prompt, negative, **options)
    guided = {"guidance_scale": 6.0, **options}
    latents = diffusers(theirs, ours.reader.template, prompt, negative, output="latent", **guided)
    wanted = diffusers(theirs, ours.reader.template, prompt, negative, **guided)
    assert made.pixels.std() > 0.05
    torch.testing.assert_close(made.latents[:, :, -latents.shape[2] :], latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.pixels, wanted, atol=2e-5, rtol=0)


CALLS: dict[str, tuple[tuple, dict[str, Any]]] = {
    "plain": (("a squirrel runs",), {}),
    "other guidance": (("a squirrel runs",), {"guidance_scale": 2.5}),
    "true cfg": (("a squirrel runs", "ugly"), {"true_cfg_scale": 4.0}),
    "high, one step": (("a squirrel runs",), {"height": 48, "width": 16, "steps": 1}),
    "one latent frame more": (("a squirrel runs",), {"frames": 13}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["text", "concat", "replace"])
def test_frames_are_those_of_diffusers(saved, kind, call):
    arguments, options = CALLS[call]
    both(saved[kind], *arguments, **options)


@pytest.mark.parametrize("seed", [7, [1, 2, 3, 4]])
def test_several_prompts_and_videos(saved, seed):
    arguments = ["a squirrel", "a much longer dog"], ["ugly", "cat"]
    both(saved["text"], *arguments, true_cfg_scale=3.0, images_per_prompt=2, seed=seed)


@pytest.mark.parametrize("kind", ["concat", "replace"])
def test_several_videos_from_a_picture(saved, kind):
    """Of several prompts or videos diffusers' pipeline makes none from one picture: each is compared alone."""
    ours, theirs = loaded(saved[kind])
    prompts, negatives, seeds = ["a squirrel", "a much longer dog"], ["ugly", "cat"], [1, 2, 3, 4]
    options = {**SIZE, "images": [tiny.picture()], "true_cfg_scale": 2.0}
    made = ours.generate(prompts, negatives, steps=2, images_per_prompt=2, seed=seeds, **options).pixels
    for row, seed in enumerate(seeds):
        pair = prompts[row // 2], negatives[row // 2]
        scale = ours.defaults.guidance_scale or 1.0
        wanted = diffusers(theirs, ours.reader.template, *pair, seed=seed, steps=2, guidance_scale=scale, **options)
        torch.testing.assert_close(made[row], wanted[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["text", "concat", "replace"])
def test_the_real_templates(tmp_path, kind):
    """With a picture of 576 tokens; of the words every letter is a token, so that they need more room."""
    tiny.pipeline(kind, side=24).save_pretrained(tmp_path)
    _, theirs = loaded(tmp_path)
    ours: Any = load_pipeline(tmp_path)
    options = {**SIZE, "max_sequence_length": 640, "steps": 2, "seed": 0, "true_cfg_scale": 2.0}
    if kind != "text":
        options["images"] = [tiny.picture()]
    scale = ours.defaults.guidance_scale or 1.0
    call = {name: value for name, value in options.items() if name not in ("seed", "steps", "images")}
    wanted = theirs(
        prompt="a squirrel",
        negative_prompt="ugly",
        num_inference_steps=2,
        num_frames=call.pop("frames"),
        generator=torch.Generator().manual_seed(0),
        guidance_scale=scale,
        output_type="pt",
        return_dict=False,
        **call,
        **({"image": tiny.picture()} if kind != "text" else {}),
    )[0]
    made = ours.generate("a squirrel", "ugly", **options).pixels
    torch.testing.assert_close(made, wanted, atol=2e-5, rtol=0)
    other = ours.generate("a dog that barks", "ugly", **options).pixels
    assert (other - made).abs().max() > 1e-4, "the prompt was read"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["text", "concat", "replace"])
def test_latents_in_half_precision(saved, kind, dtype):
    ours, theirs = loaded(saved[kind], dtype)
    options = {**SIZE, "steps": 12, **({} if kind == "text" else {"images": [tiny.picture()]})}
    scale = ours.defaults.guidance_scale or 1.0
    made = ours.generate("a fox", seed=0, **options)
    options |= {"output": "latent", "guidance_scale": scale}
    with rounding_once(theirs):
        wanted = diffusers(theirs, ours.reader.template, "a fox", seed=0, **options)
    assert made.pixels.isfinite().all() and made.latents.dtype == dtype
    # The picture itself stays in fp32 with diffusers.
    start = {"text": 0, "concat": 1, "replace": 1}[kind]
    found = made.latents[:, :, start:]
    torch.testing.assert_close(found, wanted[:, :, wanted.shape[2] - found.shape[2] :].to(dtype), rtol=0, atol=0)


def test_what_a_user_writes_step_by_step(saved):
    ours, _ = loaded(saved["replace"])
    options = {**SIZE, "images": [tiny.picture()]}
    request = ours.request("a squirrel", steps=4, **options)
    conditioning, latents, steps = ours.encode(request), ours.noise(request, seed=42), ours.schedule(request)
    assert isinstance(conditioning, Conditioning) and conditioning.image is not None
    assert torch.equal(latents[:, :, :1], conditioning.image)
    state = ours.denoiser.init(ours.params, conditioning, latents, steps)
    for step in steps:
        with torch.no_grad():
            prediction, state, _ = ours.denoiser.apply(ours.params, state, pure.Inputs(latents, step))
        latents = ours.solver.step(latents, prediction, step)
    assert torch.equal(latents[:, :, :1], conditioning.image)
    run = ours.generate("a squirrel", steps=4, seed=42, **options)
    assert torch.equal(run.latents, latents)
    assert torch.equal(ours.pixels(latents, request), run.pixels)
    frames = ours.decode(latents, request)
    assert len(frames) == 1 and [frame.size for frame in frames[0]] == [(48, 32)] * 9


@pytest.mark.parametrize("kind", ["text", "concat", "replace"])
def test_skipping_skips(saved, kind):
    ours, _ = loaded(saved[kind])
    options = {**SIZE, "steps": 6, "true_cfg_scale": 2.0, **({} if kind == "text" else {"images": [tiny.picture()]})}
    plain = ours.generate("a squirrel", "ugly", **options)
    never = ours.generate("a squirrel", "ugly", transform=dbcache(front=1, threshold=1e-9), **options)
    assert torch.equal(never.pixels, plain.pixels)
    recipe = pure.compose(dbcache(front=1, back=1, threshold=0.9), scm(mask="110101", policy="static"), taylorseer())
    cached = ours.generate("a squirrel", "ugly", transform=recipe, **options)
    assert [info.computed for info in cached.infos] == [(bool(int(bit)),) * 2 for bit in "110101"]
    assert not torch.equal(cached.pixels, plain.pixels)
    if kind == "replace":
        assert torch.equal(cached.latents[:, :, 0], plain.latents[:, :, 0])


@pytest.mark.parametrize("kind", ["text", "concat", "replace"])
def test_padding_can_be_left_out(saved, kind):
    ours, _ = loaded(saved[kind])
    short = attrs.evolve(ours, trim=True)
    options = {**SIZE, "steps": 3, "seed": [0, 1], **({} if kind == "text" else {"images": [tiny.picture()]})}
    prompts = ["a squirrel", "a dog"]
    one, two = (pipeline.generate(prompts, **options).pixels for pipeline in (ours, short))
    torch.testing.assert_close(two, one, atol=1e-4, rtol=0)
    guided = {**options, "true_cfg_scale": 2.0}
    one, two = (pipeline.generate(prompts, "ugly", **guided).pixels for pipeline in (ours, short))
    assert torch.equal(two, one)
    picture = {name: value for name, value in options.items() if name not in ("steps", "seed")}
    for texts, masked in ((["a dog"], False), (["a dog", "a fox"], False), (prompts, True)):
        found, padded = (pipeline.encode(pipeline.request(texts, **picture)) for pipeline in (short, ours))
        assert padded.mask is not None and (found.mask is not None) == masked
        assert found.text.shape[1] == int(padded.mask.sum(dim=1).max()) < padded.text.shape[1]


def test_defaults_are_read_from_the_files(saved, tmp_path):
    text, _ = loaded(saved["text"])
    assert attrs.asdict(text.defaults) | {"longest": 0} == {
        "steps": 50,
        "guidance_scale": 6.0,
        "guidance_scale_2": None,
        "true_cfg_scale": 1.0,
        "negative_prompt": None,
        "height": 720,
        "width": 1280,
        "frames": 125,
        "fps": 24,
        "max_sequence_length": 256,
        "longest": 0,
    }
    concat, _ = loaded(saved["concat"])
    assert (concat.defaults.guidance_scale, concat.defaults.frames) == (None, 129)
    fast = copied(saved["text"], tmp_path / "fast", scheduler={"shift": 17.0})
    assert load_pipeline(fast).defaults.steps == 6


def test_a_video_has_the_proportions_of_its_picture(saved):
    ours, _ = loaded(saved["concat"])
    sizes = []
    for picture in (tiny.picture(160, 90), tiny.picture(90, 160), tiny.picture(64, 64)):
        request = ours.request("a", images=[picture])
        sizes.append((request.height, request.width))
    assert sizes == [(720, 1280), (1280, 720), (960, 960)]
    asked = ours.request("a", images=[tiny.picture()], width=64)
    assert (asked.height, asked.width) == (720, 64)


def copied(folder: Path, target: Path, **changes: dict) -> Path:
    """A copy of a checkpoint with changed settings, by component; of its index under `index`."""
    shutil.copytree(folder, target)
    names = {"index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
    for component, settings in changes.items():
        file = target / names.get(component, f"{component}/config.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return target


def test_both_branches_are_as_long_as_the_longer_one(saved):
    """The negative prompt sees every second token of the picture, the prompt every fourth."""
    ours, _ = loaded(saved["replace"])
    reader = ours.reader
    for stride in (1, 2, 3, 4):
        found = reader.look(["a dog"], tiny.picture(), 24, stride)
        assert found.text.shape[1] == found.mask.shape[1] == reader.length(24, stride)
    assert reader.length(24, 2) > reader.length(24, 4)
    request = ours.request("a dog", "a cat", images=[tiny.picture()], true_cfg_scale=2.0, **SIZE)
    found = ours.encode(request)
    assert found.conditional.text.shape[1] == found.unconditional.text.shape[1] == reader.length(24, 2)


def test_the_tokenizer_is_read_as_its_file_says(saved, tmp_path):
    """The class that published checkpoints name would take the spaces out."""
    named = {"tokenizer": ["transformers", "LlamaTokenizerFast"]}
    pipeline: Any = load_pipeline(copied(saved["text"], tmp_path / "named", index=named))
    found = pipeline.reader.tokenizer("a b\n\n<|eot_id|>").input_ids
    assert found == tiny.tokenizer()("a b\n\n<|eot_id|>").input_ids
    assert pipeline.reader.tokenizer.decode(found[1:]) == "a b\n\n<|eot_id|>"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("text", {"scheduler": {"use_dynamic_shifting": True}}, "sets use_dynamic_shifting, which HunyuanVideo has no"),
        ("text", {"scheduler": {"_class_name": "UniPCMultistepScheduler"}}, "describes a UniPCMultistepScheduler"),
        ("text", {"vae": {"latent_channels": 8}}, "out_channels is 4 and the vae's latents have 8"),
        ("replace", {"transformer": {"image_condition_type": None}}, "takes no image, and a HunyuanVideoImageToVideoP"),
        ("text", {"transformer": {"image_condition_type": "token_replace"}}, "takes an image, .* HunyuanVideoImageTo"),
        ("text", {"transformer": {"qk_norm": None}}, "transformer/config.json: qk_norm is None; it must be a text"),
        ("text", {"index": {"text_encoder": ["transformers", "T5EncoderModel"]}}, "text_encoder is a T5EncoderModel"),
    ],
)
def test_checkpoints_that_are_refused(saved, tmp_path, kind, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(copied(saved[kind], tmp_path / "changed", **changes))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("text", {"height": 40}, "height=40 is not a positive multiple of 16 pixels; the nearest size is 32"),
        ("text", {"width": 8}, "width=8 is not a positive multiple of 16 pixels; the nearest size is 16"),
        ("text", {"frames": 10}, "frames=10 is not 1 plus a multiple of 4; the nearest number is 9"),
        ("text", {"images": [Image.new("RGB", (8, 8))]}, "takes no input pictures, got 1"),
        ("replace", {}, "takes 1 input picture, got 0"),
        ("concat", {"images": [Image.new("RGB", (8, 8))] * 2}, "takes 1 input picture, got 2"),
    ],
)
def test_requests_that_are_refused(saved, kind, options, message):
    ours, _ = loaded(saved[kind])
    with pytest.raises(ValueError, match=message):
        ours.generate("a", steps=1, **{**SIZE, **options})


def test_a_prompt_with_the_token_of_the_picture_is_refused(saved):
    ours, _ = loaded(saved["concat"])
    with pytest.raises(ValueError, match=r"puts the picture's token at \[5, 12\], the template at 5; take it out"):
        ours.encode(ours.request("<image> a", images=[tiny.picture()], **SIZE))


def test_noise_needs_the_picture(saved):
    ours, _ = loaded(saved["concat"])
    with pytest.raises(ValueError, match="takes 1 input picture, got 0; see images="):
        ours.noise(ours.request("", **SIZE), 0)


def test_what_has_no_effect_is_said(saved):
    concat, _ = loaded(saved["concat"])
    with pytest.warns(UserWarning, match="guidance_scale=3.0 has no effect: this checkpoint embeds none"):
        concat.generate("a", steps=1, guidance_scale=3.0, images=[tiny.picture()], **SIZE)
    text, _ = loaded(saved["text"])
    with pytest.warns(
        UserWarning, match="the language model reads 24 tokens and the prompt 'x.* has 41; it does not see"
    ):
        text.encode(text.request("x" * 40, **SIZE))
    with pytest.warns(UserWarning) as found:
        text.encode(text.request("x" * 90, **{**SIZE, "max_sequence_length": 128}))
    assert len(found) == 1 and "(CLIP) reads 77 tokens and the prompt" in str(found[0].message)


def test_a_truncated_prompt_is_read_as_diffusers_does(saved):
    """Of one prompt with a picture: the end of the template is lost then."""
    ours, theirs = loaded(saved["replace"])
    prompt, options = "x" * 60, {**SIZE, "images": [tiny.picture()], "steps": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = ours.generate(prompt, seed=0, **options).pixels
    wanted = diffusers(theirs, ours.reader.template, prompt, seed=0, guidance_scale=6.0, **options)
    torch.testing.assert_close(made, wanted, atol=2e-5, rtol=0)
