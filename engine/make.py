"""Making one image or video: encode, denoise with every step timed, decode."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import torch

import pure
from pure.engine.result import Result
from pure.loop import Observer
from pure.notes import warn

if TYPE_CHECKING:
    from pure.models import Pipeline, Request
    from pure.models.pipeline import Model

__all__ = ["make", "take_part", "warm_up"]


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


def make(pipeline: Pipeline, denoiser: Model, request: Request, seed: int, observe: Observer | None = None) -> Result:
    """Make what a request of one prompt asks for; `denoiser` is the pipeline's, transformed and guided."""
    latents = pipeline.noise(request, [seed])
    clock = Clock(latents.device)
    conditioning = pipeline.conditioning(request)
    encoded = clock.lap()
    steps = pipeline.schedule(request)
    laps: list[float] = []

    def watch(frame: pure.Frame) -> None:
        laps.append(clock.lap())
        if observe is not None:
            observe(frame)

    run = pure.sample(denoiser, pipeline.params, conditioning, latents, steps, pipeline.solver, watch)
    warn(run.notes)
    clock.lap()
    pixels = pipeline.decoded(pipeline.finished(run.latents, request), request)[0]
    decoded = clock.lap()
    frames = pixels if pixels.ndim == 4 else pixels[None]
    return Result(
        frames=frames.permute(0, 2, 3, 1).to("cpu", torch.float32).numpy(),
        infos=run.infos,
        step_seconds=tuple(laps),
        encode_seconds=encoded,
        decode_seconds=decoded,
    )


def take_part(pipeline: Pipeline, denoiser: Model, request: Request, seed: int) -> None:
    """Take the same steps as `make` in a process that only computes, and leave the pixels to the one that saves."""
    latents, conditioning = pipeline.noise(request, [seed]), pipeline.conditioning(request)
    pure.sample(denoiser, pipeline.params, conditioning, latents, pipeline.schedule(request), pipeline.solver)


def warm_up(pipeline: Pipeline, denoiser: Model, request: Request, count: int) -> None:
    """Take the first `count` steps of such a run, decode, and forget it all.

    They are the first steps of the real schedule, so that masks and warm-ups meet the step count
    they were made for.
    """
    latents = pipeline.noise(request, [0])
    conditioning = pipeline.conditioning(request)
    steps = pipeline.schedule(request)
    with torch.no_grad():
        state = denoiser.init(pipeline.params, conditioning, latents, steps)
    solver, carry = pipeline.solver, pipeline.solver.init(latents)
    for frame in pure.unroll(denoiser, pipeline.params, state, carry, itertools.islice(steps, count), solver):
        latents = frame.latents
    pipeline.decoded(pipeline.finished(latents, request), request)
