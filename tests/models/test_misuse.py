"""A pipeline that is called with the wrong thing says what it takes."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import pure
from pure.models import CheckpointError, convert_pickles, load_pipeline, open_picture, register
from tests.support import tiny

SHORT: dict[str, Any] = {"steps": 1, "max_sequence_length": 8}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines") / "dev"
    tiny.pipeline(dynamic=True).save_pretrained(folder)
    return {"dev": folder}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_not_decoded(saved, number):
    pipeline = load_pipeline(saved["dev"])
    request = pipeline.request(["a", "b"], **SHORT)
    latents = pipeline.noise(request, [1, 2])
    latents[1, 0, 0] = number
    for decode in (pipeline.decode, pipeline.pixels):
        with pytest.raises(ValueError, match=r"latents of samples \[1\] are infinite or NaN"):
            decode(latents, request)


def test_what_is_no_request_is_named(saved):
    pipeline = load_pipeline(saved["dev"])
    request = pipeline.request("a", **SHORT)
    latents = pipeline.noise(request)
    calls: list[Any] = [
        lambda: pipeline.encode("a red apple"),  # pyright: ignore[reportArgumentType]
        lambda: pipeline.noise(42),  # pyright: ignore[reportArgumentType]
        lambda: pipeline.schedule(28),  # pyright: ignore[reportArgumentType]
        lambda: pipeline.decode(latents, "a"),  # pyright: ignore[reportArgumentType]
        lambda: pipeline.guide(pipeline.denoiser, None),  # pyright: ignore[reportArgumentType]
        lambda: pipeline.decode(request, latents),  # pyright: ignore[reportArgumentType]
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"a request is wanted, as pipeline\.request\(prompt, \.\.\.\) returns it"):
            call()
    with pytest.raises(TypeError, match=r"the order is \(latents, request\)"):
        pipeline.pixels([1], request)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="observe is called with every Frame, got 3"):
        pipeline.generate("a", observe=3, **SHORT)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="10001 are too many for prompt: at most 10000"):
        pipeline.request(["a"] * 10_001)


def test_what_does_not_fit_the_parameters_names_the_parameter_and_both_shapes(saved):
    pipeline = load_pipeline(saved["dev"])
    request = pipeline.request("a", **SHORT)
    conditioning: Any = pipeline.encode(request)
    latents = pipeline.noise(request)
    steps, params, others = pipeline.schedule(request), dict(pipeline.params), []

    def run(latents=latents, conditioning=conditioning, params=params):
        pure.sample(pipeline.denoiser, params, conditioning, latents, steps, pipeline.solver)

    wrong: list[tuple[dict, type[Exception], str]] = [
        (
            {"latents": latents[..., :3]},
            ValueError,
            r"latents of shape \(1, 64, 3\) of float32 cannot be of this denoiser: the parameter x_embedder\.weight is "
            r"\(64, 4\) of float32, and is applied to \(1, 64, 3\) of float32; make them with pipeline\.noise",
        ),
        ({"latents": latents.double()}, ValueError, r"\(1, 64, 4\) of float64 cannot be .* applied to .* of float64"),
        (
            {"conditioning": attrs.evolve(conditioning, text=conditioning.text[..., :31])},
            ValueError,
            r"the conditioning cannot be of this denoiser: the parameter context_embedder\.weight is \(64, 32\) of "
            r"float32, and is applied to \(1, 8, 31\)",
        ),
        ({"params": {n: t for n, t in params.items() if n != "x_embedder.weight"}}, KeyError, "there is no parameter"),
    ]
    for given, error, message in wrong:
        with pytest.raises(error, match=message):
            run(**given)

    def exhausted(*_: Any):
        others.append(1)
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        attrs.evolve(pipeline.denoiser, embed=exhausted).init(pipeline.params, conditioning, latents, steps)
    assert others == [1]  # not tried twice


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: open_picture(3), "a picture is opened from a path, bytes or a binary file, got 3"),  # pyright: ignore
        (lambda: open_picture(None), "a picture is opened from a path, bytes or a binary file, got None"),  # pyright: ignore
        (lambda: convert_pickles(3), "a checkpoint is the path of its folder, got 3"),  # pyright: ignore
        (lambda: register(3), r"a family is a pure\.models\.family\.Family\(\.\.\.\), got 3"),  # pyright: ignore
    ],
)
def test_arguments_of_functions(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": 3}, TypeError, "source is a folder or a hub id, got 3"),
        ({"dtype": "float32"}, TypeError, r"dtype is a torch\.dtype such as torch\.bfloat16, or None, got 'float32'"),
        ({"variant": 3}, TypeError, "variant is the name of one, such as 'fp16', or None, got 3"),
        ({"device": 10**30}, ValueError, "there is no device 10000"),
        ({"device": "gpu"}, ValueError, "there is no device 'gpu'; write 'cpu', 'cuda' or 'cuda:1'"),
        ({"source": "a" * 5000}, CheckpointError, r"'\.\.\. is no path; pass a folder that exists"),
    ],
)
def test_arguments_of_loading(saved, arguments, error, message):
    with pytest.raises(error, match=message):
        load_pipeline(**{"source": saved["dev"], **arguments})


@pytest.mark.parametrize("frames", [2, 10**9])
def test_frames_of_a_picture_are_refused(saved, frames):
    pipeline = load_pipeline(saved["dev"])
    assert pipeline.request("a", frames=1).frames == 1
    with pytest.raises(ValueError, match=f"frames={frames}: this model makes pictures, not videos; leave it out"):
        pipeline.request("a", frames=frames)
