"""Whole Qwen-Image pipelines against diffusers': the same pixels."""

from typing import Any

import pytest
import torch

import pure
from pure.models.qwen_image.vae import fitted
from pure.transforms import dbcache, scm, taylorseer
from tests.support import qwen_image_pipelines as support
from tests.support.half import assert_as_near, rounding_once
from tests.support.qwen_image_pipelines import EDITS, KINDS, SMALL, loaded, made, wanted

saved, pytestmark = support.saved, pytest.mark.usefixtures("small_pictures")
small_pictures = support.small_pictures

CALLS: dict[str, tuple[tuple, dict[str, Any]]] = {
    "plain": (("a squirrel",), {}),
    "guided, longer negative": (("a dog", "an ugly squirrel in a tree"), {"true_cfg_scale": 4.0}),
    "guided, shorter negative": (("a squirrel in a tree", " "), {"true_cfg_scale": 2.5}),
    "guided, negative as long": (("a dog", "a cat"), {"true_cfg_scale": 4.0}),
    "two images, guided": (("a dog", "ugly"), {"images_per_prompt": 2, "true_cfg_scale": 2.0}),
    "a generator per image": (("a squirrel",), {"images_per_prompt": 2, "seed": [3, 4]}),
    "high": (("a squirrel",), {"height": 72, "width": 16}),
    "two steps": (("a squirrel",), {"steps": 2}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_those_of_diffusers(saved, name, call):
    ours, theirs = loaded(saved[name])
    arguments, options = CALLS[call]
    options = {**options, "images": KINDS[name][2]}
    found, expected = made(ours, *arguments, **options), wanted(theirs, *arguments, **options)
    assert expected.std() > 0.05
    torch.testing.assert_close(found.pixels, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_latents_are_those_of_diffusers(saved, name):
    """Bit for bit without guidance; with it prompts of unequal length are padded and masked, which rounds otherwise."""
    ours, theirs = loaded(saved[name])
    images = KINDS[name][2]
    for arguments, options, tolerance in (
        (("a squirrel",), {}, 0.0),
        (("a dog", "a cat"), {"true_cfg_scale": 4.0}, 2e-5),
        (("a dog", "an ugly cat"), {"true_cfg_scale": 4.0}, 2e-5),
    ):
        found = made(ours, *arguments, steps=5, images=images, **options).latents
        expected = wanted(theirs, *arguments, steps=5, images=images, output="latent", **options)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        (["a squirrel", "a dog in a tree"], None),
        (["a dog", "a cat"], ["an ugly one", "bad"]),
        (["a squirrel", "a dog"], ["", "a long negative prompt"]),
    ],
)
def test_prompts_of_unequal_length_in_one_batch(saved, prompt, negative):
    ours, theirs = loaded(saved["text-to-image"])
    options = {"true_cfg_scale": 1.0 if negative is None else 3.0}
    found, expected = made(ours, prompt, negative, **options), wanted(theirs, prompt, negative, **options)
    torch.testing.assert_close(found.pixels, expected, atol=1e-5, rtol=0)


def test_several_images_of_prompts_of_unequal_length(saved):
    """Which diffusers is asked one at a time: several at once get each other's masks there."""
    ours, theirs = loaded(saved["text-to-image"])
    prompts, options = ["a squirrel", "a dog in a tree"], {"images_per_prompt": 2, "true_cfg_scale": 3.0}
    found = made(ours, prompts, "ugly", seed=[1, 2, 3, 4], **options)
    each = [wanted(theirs, p, "ugly", seed=s, **options) for p, s in zip(prompts, ([1, 2], [3, 4]), strict=True)]
    torch.testing.assert_close(found.pixels, torch.cat(each), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["edit", "edit-2511"])
def test_several_prompts_edit_the_same_pictures(saved, name):
    """Which diffusers does one at a time only."""
    ours, theirs = loaded(saved[name])
    images, prompts, negatives = KINDS[name][2], ["a dog", "a red squirrel"], ["ugly", ""]
    found = made(ours, prompts, negatives, images=images, seed=[3, 4], true_cfg_scale=3.0)
    each = [
        wanted(theirs, prompt, negative, images=images, seed=seed, true_cfg_scale=3.0)
        for prompt, negative, seed in zip(prompts, negatives, [3, 4], strict=True)
    ]
    torch.testing.assert_close(found.pixels, torch.cat(each), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_prompts_and_pictures_matter(saved, name):
    """The comparisons would say little of a model that ignores what it is told."""
    ours, _ = loaded(saved[name])
    images = KINDS[name][2]

    def latents(prompt: str, pictures: list, negative: str = "ugly") -> torch.Tensor:
        return made(ours, prompt, negative, images=pictures, true_cfg_scale=4.0).latents

    usual = latents("a dog", images)
    others = [latents("a cat", images), latents("a dog", images, "bad")]
    others += [latents("a dog", [*images[:-1], support.picture(30, 50, seed=7)])] if images else []
    others += [latents("a dog", images[::-1])] if len(images) > 1 else []
    assert all((usual - other).abs().max() > 1e-3 for other in others)


@pytest.mark.parametrize("name", EDITS)
def test_the_size_is_that_of_the_last_picture(saved, name):
    ours, theirs = loaded(saved[name])
    images = KINDS[name][2]
    found = made(ours, "a dog", images=images, height=None, width=None).pixels
    expected = wanted(theirs, "a dog", images=images, height=None, width=None)
    assert found.shape[2:] == fitted(images[-1], SMALL)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    wide = made(ours, "a dog", images=images, height=None, width=24).pixels
    assert wide.shape[2:] == (fitted(images[-1], SMALL)[0], 24)


def test_another_scheduler_config(saved, tmp_path):
    """Lightning checkpoints shift by a constant."""
    config = {**support.SCHEDULER, "max_shift": 1.0986, "base_shift": 1.0986, "shift_terminal": None}
    support.save(tmp_path / "text-to-image", "QwenImagePipeline", config)
    ours, theirs = loaded(tmp_path / "text-to-image")
    torch.testing.assert_close(made(ours, "a").pixels, wanted(theirs, "a"), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("text-to-image", torch.bfloat16), ("text-to-image", torch.float16), ("edit-2511", torch.bfloat16)],
)
def test_latents_in_half_precision(saved, name, dtype):
    ours, theirs = loaded(saved[name], dtype)
    images = KINDS[name][2]
    found = made(ours, "a fox", images=images)
    with rounding_once(theirs):
        expected = wanted(theirs, "a fox", images=images, output="latent")
    assert found.latents.dtype == found.pixels.dtype == dtype and found.pixels.isfinite().all()
    torch.testing.assert_close(found.latents, expected, rtol=0, atol=0)


def test_guidance_in_half_precision(saved):
    ours, theirs = loaded(saved["text-to-image"], torch.bfloat16)
    arguments: Any = ("a fox", "a cat")
    found = made(ours, *arguments, true_cfg_scale=3.0).latents
    pipes = (theirs, loaded(saved["text-to-image"])[1])
    expected, exact = (wanted(pipe, *arguments, true_cfg_scale=3.0, output="latent") for pipe in pipes)
    # Both branches in one batch: sums are split otherwise than in diffusers.
    assert_as_near(found, expected, exact)


@pytest.mark.parametrize("name", ["text-to-image", "edit-2511"])
def test_caches_skip(saved, name):
    ours, _ = loaded(saved[name])
    options = {"images": KINDS[name][2], "steps": 8, "true_cfg_scale": 3.0}
    plain = made(ours, "a dog", "ugly", **options)
    assert all(all(info.computed) for info in plain.infos)
    for transform in (
        pure.compose(dbcache(front=1, threshold=1.2, warmup=2), taylorseer(order=1)),
        scm(mask="11010101", policy="static"),
    ):
        cached = made(ours, "a dog", "ugly", transform=transform, **options)
        assert any(not all(info.computed) for info in cached.infos)
        assert {decision.branch for info in cached.infos for decision in info.decisions} == {
            "conditional",
            "unconditional",
        }
        assert 1e-5 < (cached.pixels - plain.pixels).abs().max() < 0.9


def test_requests_in_one_batch_are_those_alone(saved):
    ours, _ = loaded(saved["text-to-image"])
    both = made(ours, ["a squirrel in a tree", "a dog"], seed=[1, 2])
    alone = [made(ours, prompt, seed=seed) for prompt, seed in (("a squirrel in a tree", 1), ("a dog", 2))]
    torch.testing.assert_close(both.pixels, torch.cat([each.pixels for each in alone]), atol=1e-5, rtol=0)
