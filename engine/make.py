"""Making a batch of images or videos: encode, denoise with every step timed, decode each."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs
import torch

from pure.engine.result import Result
from pure.loop import Observer
from pure.models import NotFiniteError
from pure.models import batch as batches

if TYPE_CHECKING:
    import numpy as np

    from pure.models import Pipeline, Request
    from pure.models.pipeline import Model

__all__ = ["Denoised", "batch_size", "decode", "denoise", "results", "take_part", "warm_up"]

POSITIONS = 128 * 128
"""Latents of a picture of 1024 x 1024 pixels."""

MOST_ON_CPU, MOST_ON_GPU = 4, 8

K = TypeVar("K")


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


@attrs.frozen(kw_only=True, eq=False)
class Denoised:
    """A batch that took its last step.

    Attributes:
        batch: its samples; their keys are their places among the prompts.
        request: of the whole batch.
        encode: seconds of reading the prompts, and
        laps: of every step, each sample's share.
    """

    batch: batches.Batch[int]
    request: Request
    encode: float
    laps: tuple[float, ...]


@torch.no_grad()
def denoise(
    pipeline: Pipeline, denoiser: Model, request: Request, seeds: Sequence[int], observe: Observer | None = None
) -> Denoised:
    """Run a batch: one sample for each prompt of the request and its seed.

    Args:
        pipeline: what was loaded.
        denoiser: the pipeline's, transformed and guided.
        request: of the whole batch.
        seeds: one for each prompt.
        observe: called with every `Frame`.

    Raises:
        ValueError: a prompt cannot be read, or prompts cannot be in one batch.
    """
    clock = Clock(pipeline.device)
    batch = pipeline.begin(denoiser, request, seeds, range(len(seeds)))
    encoded, laps = clock.lap(), []
    for _ in batch.steps:
        batch, frame = batches.advance(batch)
        laps.append(clock.lap() / len(seeds))
        if observe is not None:
            observe(frame)
    return Denoised(batch=attrs.evolve(batch, state={}), request=request, encode=encoded / len(seeds), laps=tuple(laps))


def results(pipeline: Pipeline, done: Denoised) -> Iterator[Result | NotFiniteError]:
    """Yield each sample as it is decoded, in the order of the prompts; or what is wrong with it."""
    clock, batch = Clock(pipeline.device), done.batch
    for row, member in enumerate(batch.members):
        clock.lap()
        try:
            frames = decode(pipeline, batch, row, attrs.evolve(done.request, prompts=(member.prompt,)))
        except NotFiniteError as error:
            yield error
            continue
        yield Result(
            frames=frames,
            infos=member.infos,
            step_seconds=done.laps,
            encode_seconds=done.encode,
            decode_seconds=clock.lap(),
        )


@torch.no_grad()
def decode(pipeline: Pipeline, batch: batches.Batch[K], row: int, request: Request) -> np.ndarray:
    """Return the frames (F, H, W, 3) of one sample that took its last step, decoded alone.

    Raises:
        NotFiniteError: its latents or pixels are not finite.
    """
    decoded = pipeline.decoded(pipeline.finished(batches.latents(batch, row), request), request)
    if wrong := batches.faults(batch, decoded, pipeline.dtype, pipeline.cfg, [row]):
        raise NotFiniteError(wrong)
    frames = decoded if decoded.ndim == 5 else decoded[:, None]
    return frames[0].permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()


def take_part(pipeline: Pipeline, denoiser: Model, request: Request, seeds: Sequence[int]) -> None:
    """Take the same steps as `denoise` in a process that only computes, and leave the pixels to the one that saves."""
    denoise(pipeline, denoiser, request, seeds)


def batch_size(pipeline: Pipeline, request: Request) -> int:
    """Return how many samples of a request are run together by default.

    That is as many as together need no more memory than one picture of 1024 x 1024 pixels, and of larger ones one;
    on a GPU four times as many. At most 4, on a GPU 8: more is hardly faster.

    >>> from pure.models import embedded, load_pipeline
    >>> pipeline = load_pipeline(embedded())
    >>> batch_size(pipeline, pipeline.request("a red apple"))
    4
    """
    positions = math.prod(pipeline.shape(request)[1:])  # latents of one sample, whatever their channels
    room = POSITIONS if pipeline.device.type == "cpu" else 4 * POSITIONS
    most = MOST_ON_CPU if pipeline.device.type == "cpu" else MOST_ON_GPU
    return max(1, min(most, room // positions))


@torch.no_grad()
def warm_up(pipeline: Pipeline, denoiser: Model, request: Request, count: int) -> None:
    """Take the first `count` steps of such a run, decode, and forget it all.

    They are the first steps of the real schedule, so that masks and warm-ups meet the step count
    they were made for.
    """
    batch = pipeline.begin(denoiser, request, [0], (None,))
    for _ in batch.steps[:count]:
        batch, _ = batches.advance(batch)
    pipeline.decoded(pipeline.finished(batches.latents(batch, 0), request), request)
