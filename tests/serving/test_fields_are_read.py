"""No field of a request is checked in vain: a route reads every one, but for those that are named here."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from pure.serving.http import fields, images, videos
from tests.cli.test_flags_are_read import Read
from tests.serving.stand_ins import post

NOTHING = {"user"}
"""Of clients that tell their users apart; nothing depends on it."""

GIVEN: dict[str, Any] = {
    "prompt": "a cat", "negative_prompt": "b", "model": "one", "size": (64, 32), "width": 64, "height": 32, "n": 1,
    "seed": (3,), "num_inference_steps": 2, "guidance_scale": 3.0, "guidance_scale_2": 2.0, "true_cfg_scale": 1.0,
    "max_sequence_length": 8, "enable_cache_dit": True, "cache_dit_params": {"Fn_compute_blocks": 2},
    "attention_backend_override": "native", "user": "x", "response_format": "url", "output_format": "jpeg",
    "output_compression": 90, "output_quality": "high", "num_outputs_per_prompt": 1, "num_frames": 5, "fps": 3,
    "seconds": 2.0, "enable_teacache": False,
}  # fmt: skip


def picture() -> str:
    made = io.BytesIO()
    Image.new("RGB", (4, 4)).save(made, format="PNG")
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


@pytest.mark.parametrize(
    ("name", "module", "path", "counts"),
    [("IMAGE", images, "/v1/images/generations", (0, 0)), ("EDIT", images, "/v1/images/edits", (1, 3)),
     ("VIDEO", videos, "/v1/videos", (0, 3))],
)  # fmt: skip
def test_a_route_reads_its_fields(site, monkeypatch, name, module, path, counts):
    route = getattr(fields, name)
    pictures = {"url": (picture(),), "reference_url": picture(), "input_reference": picture()}
    seen: set[str] = set()
    given = Read({field: {**GIVEN, **pictures}[field] for field in route.kinds}, seen)
    monkeypatch.setattr(module, "read_fields", lambda *_: given)
    at = site(video=name == "VIDEO", counts=counts)
    made = post(at, path)
    assert set(given) - seen == NOTHING
    job = at.worker.jobs.get(made["id"], "video" if name == "VIDEO" else "image").job
    order, effective = job.recipe.order, job.recipe.caching.effective
    options = {name: value for name, value in order.options.items() if name != "images"}
    assert options == {
        "width": 64, "height": 32, "steps": 2, "guidance_scale": 3.0, "guidance_scale_2": 2.0, "true_cfg_scale": 1.0,
        "max_sequence_length": 8, **({"frames": 5} if name == "VIDEO" else {}),
    }  # fmt: skip
    assert (job.prompt, job.seeds, order.negative_prompt) == ("a cat", (3,), "b")
    assert (effective.enabled, effective.cache.Fn_compute_blocks, effective.attention_backend) == (True, 2, "native")
    if name == "VIDEO":
        assert (order.seconds, order.fps, job.form.suffix) == (2.0, 3, ".mp4")
    else:
        assert (job.form.encoding, job.form.quality) == ("JPEG", 90)
