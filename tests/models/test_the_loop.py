"""The loop of the README, word for word, on every kind of pipeline: to the bits of `Pipeline.generate`."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import pure
from pure.models import load_pipeline
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
    skipped = [not flag for info in made.infos for flag in info.computed]
    assert any(skipped) and not all(skipped)
    with Image.open(tmp_path / "apple.png") as picture:
        assert picture.size == (request.width, request.height)
        assert getattr(picture, "n_frames", 1) == (request.frames if made.pixels.ndim == 5 else 1)
