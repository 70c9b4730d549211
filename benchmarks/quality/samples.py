"""What pictures are made of: prompts, seeds, starting noise, and the pictures that others are held against.

Shapes: B pictures of a batch, H x W pixels.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file, save_file

import pure
from benchmarks.quality.measure import decoded
from pure.engine.tuning.prompts import read
from pure.models import Pipeline
from training import data

STEPS = 28
TUNED = read("emoji", 97)
"""Prompts that plans and settings are tuned and checked with, elsewhere."""
BATCH = 16
TUNING_SEED, TEST_SEEDS = 1000, (7, 8)
CONVERGED = 100
"""Steps of UniPC after which pictures no longer change; `docs/quality.md` says by how much."""


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """Some pictures, ready to be made again and again.

    Attributes:
        prompts: B prompts.
        request: of them.
        conditioning: of them.
        noise: (B, ...) before the first step.
        plain: (B, 3, H, W) in 0 to 1, made by `STEPS` steps without a cache.
        converged: (B, 3, H, W), of `CONVERGED` steps of UniPC.
    """

    prompts: tuple[str, ...]
    request: Any
    conditioning: Any
    noise: torch.Tensor
    plain: torch.Tensor
    converged: torch.Tensor


def tuning_prompts(count: int) -> tuple[str, ...]:
    """Return prompts that settings are searched with: the first ones that the shipped plans were fitted to."""
    return TUNED[:count]


def held_out_pairs(count: int) -> list[data.Pair]:
    """Return emoji and backgrounds that nothing was tuned or checked with, every emoji at most once.

    Raises:
        ValueError: there are fewer.
    """
    if not 1 <= count <= len(data.EMOJI):
        raise ValueError(f"{count} prompts: choose 1 to {len(data.EMOJI)}, each has an emoji of its own")
    draw, places = random.Random(0), range(len(data.BACKGROUNDS))
    found = []
    for emoji in range(len(data.EMOJI)):
        pairs = [data.Pair(emoji=emoji, background=at) for at in draw.sample(places, len(places))]
        found.append(next(pair for pair in pairs if pair.prompt not in TUNED))
    return draw.sample(found, count)


def batches(
    pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int], folder: Path, name: str
) -> Iterator[Batch]:
    """Yield the pictures of all prompts and their seeds; references are made once and kept in a folder."""
    for number, start in enumerate(range(0, len(prompts), BATCH)):
        rows = slice(start, start + BATCH)
        request = pipeline.request(list(prompts[rows]), steps=STEPS)
        with torch.no_grad():
            conditioning = pipeline.conditioning(request)
        noise = pipeline.noise(request, list(seeds[rows]))
        path = folder / f"{name}-{number}.safetensors"
        if not path.exists():
            save_file(_references(pipeline, request, conditioning, noise), path)
        kept = {key: decoded(pipeline, request, latents) for key, latents in load_file(path).items()}
        yield Batch(prompts=request.prompts, request=request, conditioning=conditioning, noise=noise, **kept)


@torch.no_grad()
def _references(pipeline: Pipeline, request: Any, conditioning: Any, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the latents of the two pictures that every other one is held against."""
    solver: Any = pipeline.solver
    fine = solver.schedule(CONVERGED, noise.shape[1])
    runs = {"plain": (pipeline.schedule(request), solver), "converged": (fine, pure.UniPC(schedule=solver.schedule))}
    return {
        name: pure.sample(pipeline.denoiser, pipeline.params, conditioning, noise, *run).latents.contiguous()
        for name, run in runs.items()
    }
