"""Samples of one recipe under way: begin, step, decode; the command line and the server take their steps here."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import attrs
import torch

from pure import Frame
from pure.engine.engine import Engine, Recipe
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.loop import Observer
from pure.models import NotFiniteError, Pipeline, Request
from pure.models import batch as batches

__all__ = ["Denoising", "batch_size", "begin", "denoise", "join", "keep", "result", "step", "warm_up"]

POSITIONS = 128 * 128
"""Latents of a picture of 1024 x 1024 pixels."""

MOST_ON_CPU, MOST_ON_GPU = 4, 8


@attrs.frozen(kw_only=True, eq=False)
class Denoising:
    """Samples under way.

    Attributes:
        recipe: of all samples.
        batch: the samples between two steps.
        times: seconds of each sample, in the order of the batch: of its prompt, then of every step it took part in.
    """

    recipe: Recipe
    batch: batches.Batch[Sample]
    times: tuple[tuple[float, ...], ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples, in the order of the batch."""
        return tuple(member.key for member in self.batch.members)


def now(device: torch.device) -> float:
    """Return the time in seconds, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def begin(engine: Engine, recipe: Recipe, samples: Sequence[Sample]) -> Denoising:
    """Encode the prompts of samples and draw their noise.

    Raises:
        ValueError: a prompt cannot be read, or the prompts cannot be in one batch.
    """
    began = now(engine.pipeline.device)
    seeds = [sample.seed for sample in samples]
    batch = engine.pipeline.begin(recipe.denoiser, recipe.batch(samples), seeds, samples)
    seconds = now(engine.pipeline.device) - began
    return Denoising(recipe=recipe, batch=batch, times=((seconds,),) * len(samples))


@torch.no_grad()
def step(run: Denoising) -> tuple[Denoising, Frame]:
    """Take one step with every sample; return also what the step was and did."""
    device = run.batch.finite.device
    began = now(device)
    batch, frame = batches.advance(run.batch)
    seconds = now(device) - began
    return attrs.evolve(run, batch=batch, times=tuple((*times, seconds) for times in run.times)), frame


def join(run: Denoising, other: Denoising) -> Denoising:
    """Put the samples of another run of an equal recipe behind those of this one.

    Raises:
        ValueError: no batch can hold both, because their prompts have other lengths, for instance.
    """
    return attrs.evolve(run, batch=batches.join(run.batch, other.batch), times=(*run.times, *other.times))


def keep(run: Denoising, rows: Sequence[int]) -> Denoising:
    """Return the run with the samples at these rows only."""
    if len(rows) == len(run.times):
        return run
    return attrs.evolve(run, batch=batches.keep(run.batch, rows), times=tuple(run.times[row] for row in rows))


@torch.no_grad()
def result(engine: Engine, run: Denoising, row: int, share: int = 1) -> Result:
    """Decode one sample that took its last step, alone, whatever batch it was in.

    Args:
        engine: of the run.
        run: with the sample.
        row: of the sample in the batch.
        share: how many samples the times of encoding and of the steps are shared by.

    Raises:
        NotFiniteError: its latents or pixels are not finite.
    """
    pipeline, batch = engine.pipeline, run.batch
    began, member = now(pipeline.device), batch.members[row]
    request = run.recipe.batch([member.key])
    decoded = pipeline.decoded(pipeline.finished(batches.latents(batch, row), request), request)
    if wrong := batches.faults(batch, decoded, pipeline.dtype, pipeline.cfg, [row]):
        raise NotFiniteError(wrong)
    frames = decoded if decoded.ndim == 5 else decoded[:, None]
    encode, *steps = (seconds / share for seconds in run.times[row])
    return Result(
        sample=member.key,
        frames=frames[0].permute(0, 2, 3, 1).to("cpu", torch.float32).numpy(),
        infos=member.infos,
        step_seconds=tuple(steps),
        encode_seconds=encode,
        decode_seconds=now(pipeline.device) - began,
    )


def denoise(engine: Engine, recipe: Recipe, samples: Sequence[Sample], observe: Observer | None = None) -> Denoising:
    """Take all steps of a batch of samples.

    Args:
        engine: loaded.
        recipe: of all of them.
        samples: one or several.
        observe: called with every `Frame`.

    Raises:
        ValueError: a prompt cannot be read, or the prompts cannot be in one batch.
    """
    run = begin(engine, recipe, samples)
    for _ in run.batch.steps:
        run, frame = step(run)
        if observe is not None:
            observe(frame)
    return attrs.evolve(run, batch=attrs.evolve(run.batch, state={}))  # decoding needs no state


def batch_size(pipeline: Pipeline, request: Request) -> int:
    """Return how many samples are run together by default.

    That is as many as together need no more memory than one picture of 1024 x 1024 pixels, and of larger ones one;
    on a GPU four times as many. At most 4, on a GPU 8: more is hardly faster.
    """
    positions = math.prod(pipeline.shape(request)[1:])  # latents of one sample, whatever their channels
    on_cpu = pipeline.device.type == "cpu"
    room, most = (POSITIONS, MOST_ON_CPU) if on_cpu else (4 * POSITIONS, MOST_ON_GPU)
    return max(1, min(most, room // positions))


@torch.no_grad()
def warm_up(engine: Engine, recipe: Recipe, prompt: str, count: int) -> None:
    """Take the first `count` steps of a sample, decode, and forget it all.

    They are the first steps of the real schedule, so that masks and warm-ups meet the step count
    they were made for.
    """
    run = begin(engine, recipe, [Sample(prompt=prompt, seed=0)])
    for _ in run.batch.steps[:count]:
        run, _ = step(run)
    request = run.recipe.of([prompt])
    engine.pipeline.decoded(engine.pipeline.finished(batches.latents(run.batch, 0), request), request)
