"""Run cache-dit: `python -m tests.parity.peer FOLDER`, in a process of its own.

It replaces `__call__` of pipeline classes and `forward` of modules; none of that must be
seen by other tests, nor by the next case, so every case has a pipeline class and a
transformer of its own. Reads `requests.json` and `noise.safetensors` of the folder, writes
`answers.json` and `latents.safetensors`.
"""

import contextlib
import copy
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import cache_dit
import torch
from cache_dit.caching.cache_contexts.cache_config import ExtraCacheConfig
from diffusers import FluxPipeline
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
from safetensors.torch import load_file, save_file

from tests.parity.cases import HEIGHT, NEGATIVE, PROMPTS, TEXT, WIDTH

Answer = dict[str, Any]
Request = dict[str, Any]
Pipeline = Any  # a `FluxPipeline`; its annotations are not those of what it takes and returns


class Peer:
    """The checkpoint of the folder, and fresh pipelines of it."""

    def __init__(self, folder: Path) -> None:
        self.pristine = FluxPipeline.from_pretrained(folder / "checkpoint")
        self.noise = load_file(folder / "noise.safetensors")["noise"]
        self.latents: dict[str, torch.Tensor] = {}

    def pipeline(self, request: Request) -> Pipeline:
        """Return a pipeline that shares nothing with another that a run changes."""
        parts = dict(self.pristine.components)
        dtype = getattr(torch, request["dtype"])
        changing = [name for name in parts if name in ("transformer", "scheduler") or dtype != torch.float32]
        parts |= {name: copy.deepcopy(parts[name]) for name in changing}
        made = type("FluxPipeline", (FluxPipeline,), {})(**parts)
        made.set_progress_bar_config(disable=True)
        if request["zeroed"]:
            silence(made.transformer)
        return made if dtype == torch.float32 else made.to(dtype)

    def enable(self, pipeline: Pipeline, request: Request) -> None:
        """Put the request's cache on a pipeline."""
        calibrator = request["calibrator"]
        cache_dit.enable_cache(
            pipeline,
            cache_config=config(request),
            calibrator_config=None if calibrator is None else cache_dit.TaylorSeerCalibratorConfig(**calibrator),
        )
        # The one way to these settings: the contexts of every call are made from this dict.
        pipeline._context_kwargs["extra_cache_config"] = ExtraCacheConfig(**request["extra"])

    def call(self, pipeline: Pipeline, request: Request, row: int | None = None, **options: Any) -> torch.Tensor:
        """Run a pipeline on the prompts of the request, or on that of one row; return the latents."""
        first = request["first"] if row is None else row
        rows = slice(first, first + (request["batch"] if row is None else 1))
        prompts = list(PROMPTS[rows])
        if request["scale"] is not None:
            options |= {"negative_prompt": [NEGATIVE] * len(prompts), "true_cfg_scale": request["scale"]}
        with torch.no_grad():
            return pipeline(
                prompts,
                latents=self.noise[rows].to(pipeline.dtype),
                num_inference_steps=request["steps"],
                max_sequence_length=TEXT,
                height=HEIGHT,
                width=WIDTH,
                output_type="latent",
                **options,
            ).images


def config(request: Request) -> cache_dit.DBCacheConfig:
    """Return the cache configuration of a request."""
    settings = dict(request["cache"])
    if request["preset"] is not None:
        settings["steps_computation_mask"] = cache_dit.steps_mask(
            mask_policy=request["preset"], total_steps=request["steps"]
        )
    return cache_dit.DBCacheConfig(**settings)


def silence(transformer: Any) -> None:
    """Make the first block add nothing to the image stream; see `conftest.silenced`."""
    with torch.no_grad():
        for layer in (transformer.transformer_blocks[0].attn.to_out[0], transformer.transformer_blocks[0].ff.net[2]):
            layer.weight.zero_()
            layer.bias.zero_()


def statistics(pipeline: Pipeline) -> Answer:
    """Return what the last call left behind: skipped steps and measured changes per branch, and tensors."""
    found = pipeline.transformer
    (context,) = pipeline._context_manager._cached_context_manager.values()
    return {
        "skipped": [found._cached_steps, found._cfg_cached_steps],
        "changes": [found._residual_diffs, found._cfg_residual_diffs],
        "kept": sorted(context.buffers),
    }


def plain(peer: Peer, request: Request) -> Answer:
    """Run a request."""
    pipeline = peer.pipeline(request)
    peer.enable(pipeline, request)
    peer.latents[request["name"]] = peer.call(pipeline, request).float()
    return statistics(pipeline)


def pruned(peer: Peer, request: Request) -> Answer:
    """Run a request that skips blocks one by one."""
    pipeline = peer.pipeline(request)
    cache_dit.enable_cache(pipeline, cache_config=cache_dit.DBPruneConfig(**request["cache"]))
    peer.latents[request["name"]] = peer.call(pipeline, request).float()
    return {"skipped": [pipeline.transformer._pruned_steps], "pruned": pipeline.transformer._pruned_blocks}


def interleaved(peer: Peer, request: Request) -> Answer:
    """Run a request, and in the middle of it another one on the same pipeline."""
    pipeline = peer.pipeline(request)
    peer.enable(pipeline, request)
    started = []

    def other(pipe: Pipeline, index: int, *_: Any) -> dict:
        if index == request["steps"] // 2 and not started:
            started.append(True)
            # A scheduler of its own: only what the cache remembers is shared.
            ours, pipe.scheduler = pipe.scheduler, copy.deepcopy(pipe.scheduler)
            peer.call(pipe, request, row=1)
            pipe.scheduler = ours
        return {}

    peer.latents[request["name"]] = peer.call(pipeline, request, callback_on_step_end=other)
    return statistics(pipeline)


class Cancelled(Exception):
    """The user went away."""


def interrupted(peer: Peer, request: Request) -> Answer:
    """Break a request off, then run it as if nothing had been; the cache is on the transformer alone."""
    pipeline = peer.pipeline(request)
    settings = request["cache"] | {"num_inference_steps": request["steps"]}
    cache_dit.enable_cache(pipeline.transformer, cache_config=cache_dit.DBCacheConfig(**settings))

    def stop(pipe: Pipeline, index: int, *_: Any) -> dict:
        if index == request["steps"] // 2:
            raise Cancelled
        return {}

    with contextlib.suppress(Cancelled):
        peer.call(pipeline, request, callback_on_step_end=stop)
    peer.latents[request["name"]] = peer.call(pipeline, request)
    return {}


def enabled_twice(peer: Peer, request: Request) -> Answer:
    """Put a cache on a pipeline that has one; also tell what became of the user's configuration."""
    pipeline = peer.pipeline(request)
    peer.enable(pipeline, request)
    second = config(request)
    second.residual_diff_threshold = 1.0
    cache_dit.enable_cache(pipeline, cache_config=second)
    peer.latents[request["name"]] = peer.call(pipeline, request)
    given = config(request)
    separate = given.enable_separate_cfg
    cache_dit.enable_cache(peer.pipeline(request), cache_config=given)
    return statistics(pipeline) | {"separate": [separate, given.enable_separate_cfg]}


def first_block_cache(peer: Peer, request: Request) -> Answer:
    """Run diffusers' own first-block cache instead."""
    pipeline = peer.pipeline(request)
    threshold = request["cache"]["residual_diff_threshold"]
    apply_first_block_cache(pipeline.transformer, FirstBlockCacheConfig(threshold=threshold))
    peer.latents[request["name"]] = peer.call(pipeline, request)
    return {}


def masks() -> Answer:
    """Return every preset's mask for 1 to 150 steps, and some of bins; None where there is none."""

    def mask(**options: Any) -> str | None:
        try:
            return "".join(map(str, cache_dit.steps_mask(**options)))
        except AssertionError:
            return None

    return {
        "presets": {
            preset: [mask(mask_policy=preset, total_steps=count) for count in range(1, 151)]
            for preset in ("slow", "medium", "fast", "ultra")
        },
        "bins": [mask(compute_bins=[3, 1, 1], cache_bins=[2, 3], total_steps=count) for count in (7, 10, 12)],
        "half of the bins": mask(compute_bins=[3, 1, 1], total_steps=12),
    }


def defaults() -> Answer:
    """Return the settings of a cache nobody has configured."""
    settings = dataclasses.asdict(cache_dit.DBCacheConfig())
    return {name: value for name, value in settings.items() if isinstance(value, int | float)}


KINDS: dict[str, Callable[[Peer, Request], Answer]] = {
    kind.__name__: kind for kind in (plain, pruned, interleaved, interrupted, enabled_twice, first_block_cache)
}


def answer(peer: Peer, request: Request) -> Answer:
    """Run one request; a refusal is an answer."""
    try:
        return {"error": None} | KINDS[request["kind"]](peer, request)
    except (AssertionError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(folder: Path) -> None:
    """Answer all requests of a folder."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    peer = Peer(folder)
    requests = json.loads((folder / "requests.json").read_text())
    answers = {request["name"]: answer(peer, request) for request in requests}
    answers |= {"masks": masks(), "defaults": defaults()}
    (folder / "answers.json").write_text(json.dumps(answers))
    save_file({name: tensor.contiguous() for name, tensor in peer.latents.items()}, folder / "latents.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
