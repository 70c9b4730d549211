"""Making one image: encode, denoise with every step timed, decode."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import torch

import pure
from pure import Frame
from pure.cli.results import Result

if TYPE_CHECKING:
    from pure.models import Pipeline

__all__ = ["Request", "make", "warm_up"]


@attrs.frozen(kw_only=True)
class Request:
    """What all images of a run have in common; None leaves a choice to the model."""

    steps: int
    height: int | None = None
    width: int | None = None
    guidance_scale: float = 3.5
    negative_prompt: str | None = None
    max_sequence_length: int = 512


class Clock:
    """Notes the time after every step, once the device has finished it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: list[float] = []
        self._last = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        now = self._now()
        self.laps.append(now - self._last)
        self._last = now
        return self.laps[-1]


def make(
    pipeline: Pipeline,
    denoiser: pure.Denoiser,
    request: Request,
    prompt: str,
    seed: int,
    observe: Callable[[Frame], None] | None = None,
) -> Result:
    """Make the image of one prompt and seed; `denoiser` is the pipeline's, transformed."""
    latents = pipeline.noise([seed], height=request.height, width=request.width)
    clock = Clock(latents.device)
    conditioning = _encode(pipeline, request, prompt)
    encoded = clock.lap()
    steps = pipeline.schedule(request.steps, height=request.height, width=request.width)
    laps: list[float] = []

    def watch(frame: Frame) -> None:
        laps.append(clock.lap())
        if observe is not None:
            observe(frame)

    run = pure.sample(denoiser, pipeline.params, conditioning, latents, steps, pipeline.solver, watch)
    clock.lap()
    pixels = pipeline.pixels(run.latents, height=request.height, width=request.width)
    decoded = clock.lap()
    array = pixels[0].permute(1, 2, 0).to("cpu", torch.float32).numpy()
    return Result(
        pixels=array, infos=run.infos, step_seconds=tuple(laps), encode_seconds=encoded, decode_seconds=decoded
    )


def warm_up(
    pipeline: Pipeline, denoiser: pure.Denoiser, request: Request, prompt: str, count: int, decode: bool = True
) -> None:
    """Take the first `count` steps of such a run and forget them.

    They are the first steps of the real schedule, so that masks and warm-ups meet the step count
    they were made for.
    """
    latents = pipeline.noise([0], height=request.height, width=request.width)
    conditioning = _encode(pipeline, request, prompt)
    steps = pipeline.schedule(request.steps, height=request.height, width=request.width)
    with torch.no_grad():
        state = denoiser.init(pipeline.params, conditioning, latents, len(steps))
    solver, carry = pipeline.solver, pipeline.solver.init(latents)
    for frame in pure.unroll(denoiser, pipeline.params, state, carry, itertools.islice(steps, count), solver):
        latents = frame.latents
    if decode:
        pipeline.pixels(latents, height=request.height, width=request.width)


def _encode(pipeline: Pipeline, request: Request, prompt: str) -> object:
    return pipeline.encode(
        prompt,
        request.negative_prompt,
        guidance_scale=request.guidance_scale,
        images_per_prompt=1,
        max_sequence_length=request.max_sequence_length,
        height=request.height,
        width=request.width,
    )
