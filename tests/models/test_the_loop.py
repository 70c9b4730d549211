"""The loop of the README, word for word, on every kind of pipeline: to the bits of `Pipeline.generate`."""

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from PIL import Image

import pure
from pure.models import NotFiniteError, load_pipeline
from pure.models.checkpoint.description import describe
from pure.transforms import dbcache, scm, taylorseer
from tests.structure.source import ROOT
from tests.support import chat_pipelines, hunyuan_video_pipelines, qwen_image_pipelines, tiny, wan_pipelines

PROMPT = "a red apple on a blue background"
CACHE = "dbcache(threshold=9.0, warmup=1)"  # random weights change more from step to step than trained ones
TRANSFORM = pure.compose(dbcache(threshold=9.0, warmup=1), taylorseer(order=1), scm(preset="fast"))
SMALL: dict[str, Any] = {"height": 32, "width": 32}
VIDEO: dict[str, Any] = {"height": 32, "width": 64, "frames": 5}


def _qwen(name: str) -> Callable[[Path], Any]:
    kind, changes, _ = qwen_image_pipelines.KINDS[name]
    return lambda folder: qwen_image_pipelines.save(folder, kind, **changes)


def _chat(make: Callable[..., Any], **options: Any) -> Callable[[Path], Any]:
    return lambda folder: make(**options).save_pretrained(folder)


def _wan(name: str) -> Callable[[Path], Any]:
    return lambda folder: wan_pipelines.pipeline(name).save_pretrained(folder)


PICTURE = {"images": [wan_pipelines.picture()]}
KINDS: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "flux": (lambda folder: tiny.pipeline(dynamic=True).save_pretrained(folder), {"max_sequence_length": 48}),
    "flux, guided by a negative prompt": (
        lambda folder: tiny.pipeline().save_pretrained(folder),
        {"max_sequence_length": 48, "true_cfg_scale": 3.0, "negative_prompt": "a pear"},
    ),
    "flux2 klein": (_chat(chat_pipelines.flux2_klein), SMALL),
    "flux2 dev": (_chat(chat_pipelines.flux2_dev), SMALL),
    "z-image": (_chat(chat_pipelines.z_image_pipeline), SMALL),
    "ovis": (_chat(chat_pipelines.ovis_pipeline), SMALL),
    "qwen": (_qwen("text-to-image"), SMALL),
    "wan, unipc": (_wan("t2v-2.1"), VIDEO),
    "wan, two experts": (_wan("t2v-2.2"), {**VIDEO, "steps": 28}),
    "wan, two experts, from a picture": (_wan("i2v-2.2"), {**VIDEO, **PICTURE, "steps": 28}),
    "wan, a first frame": (_wan("ti2v"), {**VIDEO, **PICTURE}),
    "hunyuan": (_chat(hunyuan_video_pipelines.pipeline, kind="text"), {**VIDEO, "max_sequence_length": 512}),
    "hunyuan, from a picture": (
        _chat(hunyuan_video_pipelines.pipeline, kind="replace"),
        {**VIDEO, **PICTURE, "max_sequence_length": 512},
    ),
}


@functools.cache
def text() -> str:
    """The first example of the README."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_of_the_readme(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, options = KINDS[kind]
    save(tmp_path / "checkpoint")
    options = {"steps": 12, **options}
    source = text().replace("embedded())", "'checkpoint')").replace("steps=28", "**options")
    source = source.replace("dbcache()", CACHE)
    assert source.count("'checkpoint'") == source.count("**options") == source.count(CACHE) == 1
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"options": options}
    with torch.no_grad():
        exec(compile(source, "README.md", "exec"), names)
    pipeline, request = names["pipeline"], names["request"]
    made = load_pipeline("checkpoint").generate(PROMPT, transform=TRANSFORM, seed=42, **options)
    latents = pipeline.solver.latents(names["carry"])
    assert torch.equal(pipeline.finished(latents, request), made.latents)
    assert torch.equal(pipeline.pixels(latents, request), made.pixels)
    assert (request.negative_prompts is not None) == (pipeline.guidance(request) is not None)
    sizes = describe(tmp_path / "checkpoint").sizes
    assert sizes.latents(request.height, request.width, request.frames) == math.prod(pipeline.shape(request))
    skipped = [not flag for info in made.infos for flag in info.computed]
    assert any(skipped) and not all(skipped)
    with Image.open(tmp_path / "apple.png") as picture:
        assert picture.size == (request.width, request.height)
        assert getattr(picture, "n_frames", 1) == (request.frames if made.pixels.ndim == 5 else 1)
    assert embedded_types(pipeline, request) == {torch.float32}


def embedded_types(pipeline: Any, request: Any) -> set[torch.dtype]:
    """Types of the embeddings of prompts where the encoders are of another type than the transformer."""
    for name in ("text_encoder", "text_encoder_2"):
        if hasattr(pipeline.reader, name):
            getattr(pipeline.reader, name).to(torch.bfloat16)
    found: Any = pipeline.encode(attrs.evolve(request, memo={}))
    branches = [found.conditional, found.unconditional] if isinstance(found, pure.Branches) else [found]
    embedded = [getattr(branch, name, None) for branch in branches for name in ("text", "pooled")]
    return {each.dtype for each in embedded if each is not None}


class Spoiled:
    """Embeds, and spoils one row from a noise level on."""

    def __init__(self, embed: Any, row: int, below: float) -> None:
        self.embed, self.row, self.below = embed, row, below

    def __call__(self, params: Any, prepared: Any, latents: torch.Tensor, timestep: torch.Tensor) -> Any:
        rows = torch.arange(len(latents)) == self.row
        bad = (rows & (timestep < self.below) & (timestep > 0)).view(-1, *[1] * (latents.ndim - 1))
        return self.embed(params, prepared, torch.where(bad, float("nan"), latents), timestep)


@pytest.mark.parametrize("transform", [pure.identity, dbcache(threshold=9.0, warmup=1)])
def test_latents_that_are_not_finite_are_no_pictures(tmp_path: Path, transform: pure.Transform) -> None:
    tiny.pipeline().save_pretrained(tmp_path)
    options: dict[str, Any] = {"steps": 8, "seed": [1, 2], "max_sequence_length": 16}
    pipeline = load_pipeline(tmp_path)
    good = pipeline.generate(["a dog", "a cat"], transform=transform, **options)
    levels = [float(step.timestep) for step in pipeline.schedule(pipeline.request("", steps=8))]

    def spoiled(denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(transform(denoiser), embed=Spoiled(denoiser.embed, 1, (levels[2] + levels[3]) / 2))

    with pytest.raises(
        NotFiniteError, match=r"^'a cat' with seed 2 is not finite from step 4 of 8 on \(inf.*damaged"
    ) as e:
        pipeline.generate(["a dog", "a cat"], transform=spoiled, **options)
    assert list(e.value.samples) == [1] and e.value.pixels is not None
    assert torch.equal(e.value.pixels[0], good.pixels[0])


def test_the_likely_cause_of_what_is_not_finite_is_named(tmp_path: Path) -> None:
    tiny.pipeline().save_pretrained(tmp_path)

    def spoiled(denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, embed=Spoiled(denoiser.embed, 0, 2.0))

    half = load_pipeline(tmp_path, dtype=torch.float16)
    with pytest.raises(NotFiniteError, match=r"from step 1 of 2 on .*; float16 overflows beyond 65504: load"):
        half.generate("a", transform=spoiled, steps=2, max_sequence_length=8)
    with pytest.raises(NotFiniteError, match=r"guidance by 900 is far too high: lower true_cfg_scale"):
        load_pipeline(tmp_path).generate(
            "a", "b", transform=spoiled, steps=2, true_cfg_scale=900.0, max_sequence_length=8
        )
