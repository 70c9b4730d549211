"""What Qwen-Image pipelines read, schedule, assume and refuse."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import attrs
import diffusers
import numpy
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pure
from pure.models import CheckpointError, load_pipeline
from pure.models.qwen_image.pipeline import AREA, FAMILY, READ_AREA
from pure.models.qwen_image.vae import fitted
from pure.tree import map_samples, signature
from tests.support import qwen_image_pipelines as support
from tests.support.qwen_image_pipelines import EDITS, KINDS, ONE, SIZE, SMALL, SMALLER, TWO, loaded, made

saved, small_pictures = support.saved, support.small_pictures


@given(st.integers(100, 5000), st.integers(100, 5000), st.sampled_from([AREA, READ_AREA]))
def test_pictures_are_resized_as_diffusers_does(width, height, area):
    expected = pipeline_qwenimage_edit_plus.calculate_dimensions(area, width / height)
    assert fitted(Image.new("1", (width, height)), area) == expected[::-1]


def test_pictures_of_other_modes_are_those_of_their_colours(saved):
    ours, _ = loaded(saved["edit"])
    found = [made(ours, "a dog", images=[ONE[0].convert(mode)], steps=1).latents for mode in ("RGB", "RGBA")]
    assert torch.equal(*found)
    assert made(ours, "a dog", images=[ONE[0].convert("L")], steps=1).latents.isfinite().all()


@pytest.mark.parametrize("prompt", [["a squirrel"], ["a dog", "", "a squirrel in a tree"]])
def test_embeddings_are_those_of_diffusers(saved, prompt):
    ours, theirs = loaded(saved["text-to-image"])
    with torch.no_grad():
        text, mask = theirs.encode_prompt(prompt, max_sequence_length=512)
    found: Any = ours.encode(ours.request(prompt, true_cfg_scale=1.0, **SIZE))
    assert torch.equal(found.text, text)
    assert (found.mask is None) == (mask is None) == (len(prompt) == 1)
    assert mask is None or torch.equal(found.mask, mask.bool())


@pytest.mark.parametrize("name", EDITS)
def test_embeddings_of_pictures_are_those_of_diffusers(saved, name):
    ours, theirs = loaded(saved[name])
    images = KINDS[name][2]
    area = SMALLER if "plus" in name or "2511" in name else SMALL
    resized = [theirs.image_processor.resize(each, *fitted(each, area)) for each in images]
    given = resized[0] if name == "edit" else resized
    with torch.no_grad():
        text, mask = theirs.encode_prompt("a dog", image=given)
        theirs.text_encoder, typed = theirs.text_encoder.encoder, theirs.text_encoder
        row, _ = theirs.encode_prompt("a dog", image=given)
        theirs.text_encoder = typed
    found: Any = ours.encode(ours.request("a dog", images=images, true_cfg_scale=1.0, **SIZE))
    assert mask is None and found.mask is None
    assert torch.equal(found.text, text)
    assert not torch.equal(found.text, row), "diffusers reads pictures as rows of words; we do not"


def test_truncated_prompts_warn_and_equal_diffusers(saved):
    ours, theirs = loaded(saved["text-to-image"])
    prompts = ["a squirrel", "a dog in a tree"]
    with torch.no_grad():
        text, mask = theirs.encode_prompt(prompts, max_sequence_length=40)
    with pytest.warns(
        UserWarning, match=r"reads 40 tokens and the prompt 'a .* has 1\d\d, with the end.*see 'uantity, "
    ):
        found: Any = ours.encode(ours.request(prompts, max_sequence_length=40, true_cfg_scale=1.0, **SIZE))
    assert mask is None and found.mask is None and torch.equal(found.text, text)


@pytest.mark.parametrize("count", [2, 8, 40, 50])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (512, 512), (1328, 1328), (1664, 928), (4096, 4096)])
def test_the_schedule_is_that_of_diffusers(saved, count, height, width):
    ours, theirs = loaded(saved["text-to-image"])
    steps = ours.schedule(ours.request("", steps=count, height=height, width=width))
    tokens = (height // ours.codec.patch) * (width // ours.codec.patch)
    config = theirs.scheduler.config
    mu = pipeline_qwenimage_edit.calculate_shift(
        tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )
    theirs.scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / count, count), mu=mu)
    sigmas = torch.stack([step.sigma for step in steps if step.sigma is not None])
    assert torch.equal(sigmas, theirs.scheduler.sigmas[:-1])
    assert torch.equal(torch.stack([step.timestep for step in steps]), theirs.scheduler.timesteps / 1000)


def test_one_step_goes_from_noise_to_picture(saved):
    """Where diffusers divides 0 by 0."""
    ours, _ = loaded(saved["text-to-image"])
    (step,) = ours.schedule(ours.request("", steps=1, **SIZE))
    assert step.sigma == step.timestep == 1 and step.sigma_next == 0
    assert made(ours, "a squirrel", steps=1).pixels.isfinite().all()


def test_branches_are_built_alike(saved):
    ours, _ = loaded(saved["edit-plus-two"])
    found: Any = ours.encode(ours.request("a dog", "an ugly squirrel", images=TWO, images_per_prompt=2, **SIZE))
    assert isinstance(found, pure.Branches)
    assert signature(found.conditional) == signature(found.unconditional)
    assert found.conditional.mask.sum(1).tolist() == [found.conditional.text.shape[1] - len("an ugly squirrel") + 5] * 2
    assert found.unconditional.mask.all()
    assert torch.equal(found.conditional.reference, found.unconditional.reference)
    assert all(leaf.shape[0] == 2 for leaf in pure_leaves(found.conditional))


def pure_leaves(tree: Any) -> list[torch.Tensor]:
    leaves: list[torch.Tensor] = []
    map_samples(lambda leaf: leaves.append(leaf) or leaf, tree)
    return leaves


@pytest.mark.parametrize(
    ("name", "steps", "size"), [("text-to-image", 50, 512), ("edit", 50, None), ("edit-2511", 40, None)]
)
def test_defaults(saved, name, steps, size):
    ours, _ = loaded(saved[name])
    found = ours.defaults
    assert (found.steps, found.true_cfg_scale, found.guidance_scale, found.negative_prompt) == (steps, 4.0, None, " ")
    assert (found.height, found.width, found.max_sequence_length, found.longest) == (size, size, 512, 1024)
    images = KINDS[name][2]
    usual = ours.generate("a dog", steps=1, images=images, **SIZE)
    assert len(usual.infos[0].computed) == 2, "guided"
    assert torch.equal(
        usual.pixels, ours.generate("a dog", " ", steps=1, images=images, true_cfg_scale=4.0, **SIZE).pixels
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("text-to-image", {"height": 33}, "height=33 is not a positive multiple of 8 pixels; the nearest size is 32"),
        ("text-to-image", {"width": 45}, "width=45 is not a positive multiple of 8 pixels; the nearest size is 48"),
        ("text-to-image", {"images": ONE}, "this model takes no input pictures, got 1"),
        ("text-to-image", {"max_sequence_length": 1025}, "max_sequence_length=1025 should be in 1 to 1024"),
        ("edit", {}, "this model takes 1 input picture, got 0; see images="),
        ("edit", {"height": None}, "the size of an edit is that of its picture: give images=, or height and width"),
        ("edit", {"images": TWO}, "this model takes 1 input picture, got 2"),
        ("edit-2511", {"images": ONE * 17}, "this model takes 1 to 16 input pictures, got 17"),
        ("edit", {"images": [Image.new("RGB", (4000, 2))]}, "a picture of 4000 x 2 pixels is too long and narrow"),
        ("edit", {"images": ONE, "prompt": "a <|image_pad|>"}, r"holds <\|image_pad\|>, which stands for a picture"),
    ],
)
def test_wrong_arguments(saved, name, arguments, message):
    ours, _ = loaded(saved[name])
    arguments = dict(arguments)
    with pytest.raises(ValueError, match=message):
        made(ours, arguments.pop("prompt", "a"), **{"steps": 1, **arguments})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("text-to-image", {"guidance_scale": 3.5}, "guidance_scale=3.5 has no effect: .* set true_cfg_scale"),
        ("edit", {"images": ONE, "max_sequence_length": 99}, "max_sequence_length has no effect: an edit's prompt is"),
    ],
)
def test_what_has_no_effect_warns(saved, name, arguments, message):
    ours, _ = loaded(saved[name])
    with pytest.warns(UserWarning, match=message):
        found = made(ours, "a", steps=1, **arguments)
    arguments = {key: value for key, value in arguments.items() if key == "images"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(found.pixels, made(ours, "a", steps=1, **arguments).pixels)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("text-to-image", "transformer/config.json", {"guidance_embeds": True}, "guidance_embeds is set, which is not"),
        ("text-to-image", "transformer/config.json", {"use_layer3d_rope": True}, "belongs to Qwen-Image-Layered"),
        ("text-to-image", "transformer/config.json", {"out_channels": 8}, "16 channels in, 8 out, patch_size 2 and 4"),
        ("text-to-image", "vae/config.json", {"z_dim": 8}, "16 channels in, 4 out, patch_size 2 and 8 channels of"),
        (
            "text-to-image",
            "scheduler/scheduler_config.json",
            {"_class_name": "UniPCMultistepScheduler"},
            "describes a UniPCMultistepScheduler; supported: FlowMatchEuler",
        ),
        ("text-to-image", "model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "vae is a AutoencoderKL; supp"),
        (
            "text-to-image",
            "model_index.json",
            {"_class_name": "QwenImageLayeredPipeline"},
            "describes a QwenImageLayered",
        ),
        ("edit", "model_index.json", {"processor": [None, None]}, "processor is a None; supported: Qwen2VLProcessor"),
        (
            "edit",
            "processor/preprocessor_config.json",
            {"image_processor_type": "NoSuch"},
            "processor cannot be loaded",
        ),
    ],
)
def test_unsupported_folders_are_refused(saved, tmp_path, name, file, changes, message):
    folder = tmp_path / "copy"
    shutil.copytree(saved[name], folder)
    edit_json(folder / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder)


def test_the_processor_may_be_of_the_fast_kind(saved, tmp_path):
    folder = tmp_path / "edit"
    shutil.copytree(saved["edit"], folder)
    edit_json(folder / "processor" / "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessorFast")
    edit_json(folder / "model_index.json", processor=["transformers", "Qwen2_5_VLProcessor"])
    ours = attrs.evolve(load_pipeline(folder), area=SMALL)
    usual, _ = loaded(saved["edit"])
    found = [made(each, "a", images=ONE, steps=1).pixels for each in (ours, usual)]
    assert torch.equal(*found)


def test_every_kind_names_its_class():
    for kind in FAMILY.kinds:
        assert hasattr(diffusers, kind.pipeline) and kind.checkpoints
        assert kind.task == ("text-to-image" if kind.pipeline == "QwenImagePipeline" else "image-editing")
