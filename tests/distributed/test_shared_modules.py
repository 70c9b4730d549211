"""Whole pipelines whose text encoders and decoders are shared by two ranks: the pictures of one process."""

from typing import Any

import attrs
import pytest
import torch

from pure.distributed import Sizes, make_mesh
from pure.engine.weights import share_modules, weigh
from pure.models import Pipeline, load_pipeline
from pure.models.components import text_encoders
from tests.support import chat_pipelines, hunyuan_video_pipelines, ranks, wan_pipelines
from tests.support.sharded import difference

VIDEO = {"height": 32, "width": 48, "frames": 5, "max_sequence_length": 24, "steps": 1}
IMAGE = {"height": 32, "width": 48, "steps": 1}


@pytest.fixture(params=["flux2-dev", "z-image", "hunyuan", "wan"])
def case(request, tmp_path) -> tuple[Pipeline, dict[str, Any]]:
    """A pipeline of ours, and the options of a request."""
    made, options = {
        "flux2-dev": (chat_pipelines.flux2_dev, IMAGE),
        "z-image": (lambda: chat_pipelines.z_image_pipeline(whole=True), IMAGE),
        "hunyuan": (lambda: hunyuan_video_pipelines.pipeline("replace"), VIDEO),
        "wan": (lambda: wan_pipelines.pipeline("i2v-2.1"), {**VIDEO, "width": 32}),
    }[request.param]
    made().save_pretrained(tmp_path)
    pipeline = load_pipeline(tmp_path)
    if request.param == "hunyuan":
        reader: Any = pipeline.reader
        short = attrs.evolve(reader, template=hunyuan_video_pipelines.SHORT_PICTURE)
        pipeline = attrs.evolve(pipeline, reader=short)
    if pipeline.image_count[0]:
        options = {**options, "images": [wan_pipelines.picture()]}
    return pipeline, options


def shared(pipeline: Pipeline, options: dict[str, Any]) -> tuple[torch.Tensor, dict[str, int], list[str]]:
    said: list[str] = []
    names = ("text_encoder", "vae")
    pipeline = share_modules(pipeline, names, make_mesh(Sizes(ulysses=2)), lambda text, kind: said.append(text))
    return pipeline.generate("a red apple", seed=1, **options).pixels, weigh(pipeline), said


def test_the_pictures_are_those_of_one_process(case):
    pipeline, options = case
    whole, weights = pipeline.generate("a red apple", seed=1, **options).pixels, weigh(pipeline)
    for pixels, held, said in ranks.run(shared, 2, pipeline, options):
        assert difference(pixels, whole) <= 1e-5
        clip = [name for name, each in text_encoders(pipeline).items() if type(each).__name__.startswith("CLIP")]
        assert [text.split()[1] for text in said] == clip
        assert all(held[name] < 0.7 * weights[name] for name in text_encoders(pipeline) if name not in clip)
        assert held["vae"] == weights["vae"] and held["transformer"] == weights["transformer"]
