"""A request encodes every picture and every prompt once, however often it is needed on the way."""

from typing import Any

import attrs
import pytest
import torch

import pure
from pure.models import load_pipeline
from tests.support import chat_pipelines, hunyuan_video_pipelines, qwen_image_pipelines, tiny, wan_pipelines

VIDEO = {"steps": 2, "height": 32, "width": 32, "frames": 5, "max_sequence_length": 8}
IMAGE = {"steps": 2, "height": 32, "width": 32}


def _save(name: str, folder: Any) -> dict[str, Any]:
    """Save a tiny checkpoint; return the options that suit it."""
    if name in wan_pipelines.KINDS:
        wan_pipelines.pipeline(name).save_pretrained(folder)
        count = 2 if name.startswith("flf") else 1
        return {**VIDEO, "guidance_scale": 3.0, "images": [wan_pipelines.picture(seed) for seed in range(count)]}
    if name in ("concat", "replace"):
        hunyuan_video_pipelines.pipeline(name).save_pretrained(folder)
        return {**VIDEO, "true_cfg_scale": 3.0, "images": [hunyuan_video_pipelines.picture()]}
    if name == "klein":
        chat_pipelines.flux2_klein().save_pretrained(folder)
        return {**IMAGE, "guidance_scale": 3.0, "images": [chat_pipelines.picture(64, 64, seed) for seed in range(2)]}
    kind, changes, images = qwen_image_pipelines.KINDS[name]
    qwen_image_pipelines.save(folder, kind, **changes)
    return {**IMAGE, "true_cfg_scale": 3.0, "images": images}


def _counted(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, calls: list[str]) -> None:
    original = getattr(owner, method)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, counting)


NAMES = [
    "i2v-2.1",
    "flf2v-2.1",
    "i2v-2.2",
    "ti2v",
    "concat",
    "replace",
    "klein",
    *qwen_image_pipelines.EDITS,
]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_prompts_are_encoded_once(tmp_path, monkeypatch, name):
    options = _save(name, tmp_path)
    pipeline: Any = load_pipeline(tmp_path)
    if name in ("concat", "replace"):
        short = hunyuan_video_pipelines.SHORT_PICTURE
        pipeline = attrs.evolve(pipeline, reader=attrs.evolve(pipeline.reader, template=short))
        options["max_sequence_length"] = 24
    if name in qwen_image_pipelines.EDITS:
        pipeline = attrs.evolve(pipeline, area=qwen_image_pipelines.SMALL, read_area=qwen_image_pipelines.SMALLER)
    pictures: list[str] = []
    texts: list[str] = []
    _counted(monkeypatch, pipeline.codec.vae, "encode", pictures)
    _counted(monkeypatch, type(pipeline), "condition", texts)
    together = name in wan_pipelines.KINDS and name != "ti2v"  # one video, of which the pictures are frames
    wanted = 1 if together else len(options["images"])

    made = pipeline.generate("a dog", "a cat", seed=3, images_per_prompt=2, **options)
    assert (len(pictures), len(texts)) == (wanted, 2)

    pictures.clear()
    texts.clear()
    request = pipeline.request("a dog", "a cat", images_per_prompt=2, **options)
    denoiser, request = pipeline.guide(pipeline.denoiser, request)
    steps, latents = pipeline.schedule(request), pipeline.noise(request, 3)
    pixels = made.pixels.new_zeros(())
    for _ in range(2):  # such as with a cache and without it
        run = pure.sample(denoiser, pipeline.params, pipeline.encode(request), latents, steps, pipeline.solver)
        pixels = pipeline.pixels(pipeline.finished(run.latents, request), request)
    assert (len(pictures), len(texts)) == (wanted, 2)
    assert (pixels == made.pixels).all()


def test_other_pictures_are_encoded_anew(tmp_path):
    """What a request remembers is of its own pictures."""
    options = _save("klein", tmp_path)
    pipeline: Any = load_pipeline(tmp_path)
    one = pipeline.request("a dog", **options)
    other = attrs.evolve(one, images=one.images[::-1])
    first, second = (pipeline.encode(request).conditional.reference for request in (one, other))
    assert (first != second).any()


@pytest.mark.parametrize(("name", "field"), [("i2v-2.2", "beside"), ("ti2v", "first"), ("concat", "image")])
def test_pictures_are_encoded_anew_for_another_size(tmp_path, name, field):
    options = _save(name, tmp_path)
    pipeline: Any = load_pipeline(tmp_path)
    if name == "concat":
        reader = attrs.evolve(pipeline.reader, template=hunyuan_video_pipelines.SHORT_PICTURE)
        pipeline, options = attrs.evolve(pipeline, reader=reader), {**options, "max_sequence_length": 24}
    one = pipeline.request("a dog", "a cat", **options)
    rows = [getattr(pipeline.encode(attrs.evolve(one, height=height)).conditional, field) for height in (32, 64)]
    assert rows[0].shape[-2] * 2 == rows[1].shape[-2] > 0


def test_prompts_are_embedded_anew_for_another_scale(tmp_path):
    """The conditioning holds the scale where the model embeds it."""
    tiny.pipeline().save_pretrained(tmp_path)
    pipeline: Any = load_pipeline(tmp_path)
    one = pipeline.request("a dog", guidance_scale=2.0, max_sequence_length=8)
    scales = [pipeline.encode(attrs.evolve(one, guidance_scale=scale)).guidance.tolist() for scale in (2.0, 5.0, 0.0)]
    assert scales == [[2.0], [5.0], [0.0]]


def test_what_one_pipeline_has_read_of_a_request_is_not_anothers(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    wide: Any = load_pipeline(tmp_path)
    half: Any = load_pipeline(tmp_path, dtype=torch.bfloat16)
    request = wide.request("a dog", max_sequence_length=8)
    assert [each.encode(request).text.dtype for each in (wide, half, wide)] == [wide.dtype, half.dtype, wide.dtype]
