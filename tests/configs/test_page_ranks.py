"""What every key of the page changes in what a rank holds, sends and calls: shown on a rank of fake processes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pure
from benchmarks.traced import Product, Recorder, fake_ranks, traced
from pure.configs import attend_by, parallel, quantizations
from pure.distributed import context_parallel
from pure.distributed.tensor_parallel import part_of
from pure.engine.weights import share_modules
from pure.models import embedded, load_pipeline
from pure.models.components import text_encoders
from pure.transforms import nbytes, quantize
from tests.configs.page import PAGE
from tests.configs.test_page_keys import OTHERS, effective
from tests.support.flux import FLUX_DEV
from tests.support.qwen_image import QWEN_IMAGE

# What is written in the place of a key, and what of a rank is then other; nothing, where that is not the default.
WITHOUT: dict[str, tuple[dict[str, Any], str]] = {
    "ulysses_size": ({"ulysses_size": 1, "ring_size": "auto"}, "collectives"),
    "ring_size": ({"ulysses_size": "auto"}, "collectives"),
    "tp_size": ({"ulysses_size": "auto"}, "memory"),
    "attention_backend": ({"attention_backend": "_native_math"}, "kernels"),
    "ulysses_float8": ({}, "bytes"),
    "ulysses_async": ({}, "collectives"),
}
PARALLEL = [(file, key) for file, section, key in OTHERS if section == "parallelism_config" and key in WITHOUT]


def rank(folder: Path, content: dict[str, Any], processes: int) -> dict[str, Any]:
    """Return what the first rank holds of the parameters, and what it sends and calls in a step."""
    found = effective(folder, content, processes)
    shares, model = parallel(found), FLUX_DEV
    shapes = {name: tuple(tensor.shape) for name, tensor in model.params.items()}
    request = lambda: (model.conditioning((1,)), model.latents((1,)))  # noqa: E731
    options: Any = {"float8": shares.float8, "overlap": shares.overlap, "rotate": shares.rotate, "fp32": shares.fp32}
    with fake_ranks(shares.sizes) as mesh:
        divided = pure.compose(attend_by(found), context_parallel(mesh, **options))
        trace = traced(model.first, shapes, request, mesh, divided, torch.float32)
    assert model.first.sharding is not None
    held = part_of(model.params, model.first.sharding, 0, shares.sizes.tp) if shares.sizes.tp > 1 else model.params
    events = [event for _, part in trace.parts for event in part if isinstance(event, Product)]
    return {
        "memory": nbytes(held),
        "collectives": trace.collectives,
        "bytes": trace.bytes,
        "kernels": Counter(event.attention for event in events)[True] > 0,
    }


@pytest.mark.parametrize(("file", "key"), PARALLEL)
def test_a_key_of_parallelism_changes_what_a_rank_does(file: str, key: str, tmp_path: Path) -> None:
    section, processes = yaml.safe_load(PAGE[file])["parallelism_config"], 8 if file == "parallel_3d.yaml" else 4
    section.pop("extra_parallel_modules", None)
    other, what = WITHOUT[key]
    rest = {name: value for name, value in section.items() if name != key}
    with_key, without = (
        rank(tmp_path, {"parallelism_config": each}, processes) for each in (section, {**rest, **other})
    )
    assert with_key[what] != without[what]


def test_every_key_of_parallelism_is_looked_at() -> None:
    """But for the one that has no effect and says so: see `test_page_keys.outcome`."""
    keys = {key for _, section, key in OTHERS if section == "parallelism_config"}
    assert keys == {*WITHOUT, "ulysses_anything", "extra_parallel_modules"}


@pytest.mark.parametrize(("name", "what"), [("text_encoder", "memory"), ("vae", "collectives")])
def test_extra_modules_are_divided_each_by_its_name(name: str, what: str, tmp_path: Path) -> None:
    section = yaml.safe_load(PAGE["parallel_extra.yaml"])["parallelism_config"]
    pipeline, found = load_pipeline(embedded()), []
    for extra in (["text_encoder", "vae"], [each for each in ("text_encoder", "vae") if each != name]):
        content = {"parallelism_config": {**section, "extra_parallel_modules": extra}}
        shares = parallel(effective(tmp_path, content, 4))
        with fake_ranks(shares.sizes) as mesh:
            part = share_modules(pipeline, shares.extra, mesh, lambda text, kind: None)
            held = sum(nbytes(dict(encoder.named_parameters())) for encoder in text_encoders(part).values())
            with torch.no_grad(), Recorder() as recorder:
                part.codec.vae.decode(torch.zeros(1, part.codec.vae.config.latent_channels, 8, 8))
        sent = Counter(type(event).__name__ for event in recorder.events)["Message"]
        found.append({"memory": held, "collectives": sent})
    assert found[0][what] != found[1][what]
    other = "collectives" if what == "memory" else "memory"
    assert found[0][other] == found[1][other], "the other name divides something else"


def test_quantisation_changes_the_memory_of_weights(tmp_path: Path) -> None:
    content = yaml.safe_load(PAGE["quantize.yaml"])["quantize_config"]
    rest = {key: value for key, value in content.items() if key != "exclude_layers"}
    model = QWEN_IMAGE
    settings = [
        quantizations(effective(tmp_path, {"quantize_config": each}))["transformer"] for each in (content, rest)
    ]
    page, default = (nbytes(quantize(model.params, model.first, each)) for each in settings)
    assert page < default < nbytes(model.params), "modulations are left out by default, and not by the page"
