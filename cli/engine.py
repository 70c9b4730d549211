"""Loading: from a job to a pipeline and its denoiser, with the cache and without."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import attrs
import torch

import pure
from pure.cli.errors import Misuse
from pure.cli.job import Job
from pure.cli.screen import Screen
from pure.transforms import compiled

if TYPE_CHECKING:
    from pure.models import Pipeline

__all__ = ["Engine", "load"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@attrs.frozen(kw_only=True, eq=False)
class Engine:
    """A loaded pipeline and its denoiser, with the cache and without; both are guided alike."""

    pipeline: Pipeline
    cached: pure.Denoiser
    plain: pure.Denoiser


def load(job: Job, screen: Screen) -> Engine:
    """Load the checkpoint and build both denoisers.

    Raises:
        Misuse: checkpoint, sizes or settings do not fit together.
    """
    from pure.models.pipeline import GUIDANCE_WEIGHT, guide

    pipeline = _pipeline(job, screen)
    if job.guidance_given and GUIDANCE_WEIGHT not in pipeline.params:
        screen.note(
            f"--guidance-scale {job.request.guidance_scale:g} has no effect: this checkpoint takes no guidance as an "
            "input; --true-cfg-scale with --negative-prompt guides every checkpoint",
            "warning",
        )
    base = compiled()(pipeline.denoiser) if job.compiled else pipeline.denoiser
    plain = guide(base, job.true_cfg_scale, job.request.negative_prompt is not None)
    try:
        return Engine(pipeline=pipeline, plain=plain, cached=job.caching.transform(plain))
    except (ValueError, TypeError) as error:
        raise Misuse(f"the cache does not fit the model: {error}") from error


def _pipeline(job: Job, screen: Screen) -> Pipeline:
    """Load the checkpoint, and check that it makes images of the sizes asked for."""
    _quiet_libraries()
    from pure.models import CheckpointError, embedded, load_pipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES[job.precision] if job.precision else torch.float32 if device == "cpu" else None
    waiting = screen.notes.status("loading the checkpoint ...") if screen.notes.is_terminal else None
    try:
        with waiting or contextlib.nullcontext():
            pipeline = load_pipeline(embedded() if job.model is None else job.model, dtype=dtype, device=device)
        for height, width in (*job.warmup_sizes, (job.request.height, job.request.width)):
            pipeline.schedule(job.request.steps, height=height, width=width)
    except (CheckpointError, ValueError) as error:
        raise Misuse(str(error)) from error
    return pipeline


def _quiet_libraries() -> None:
    """Keep progress bars and advice of the libraries off the screen."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
