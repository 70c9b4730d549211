"""Runs of the peers' own libraries on the checkpoint in the package: cache-dit and the caches of diffusers.

Every run has a pipeline class and a transformer of its own, because they replace methods of both. They decide once
for a whole batch.

Shapes: B pictures of a batch.
"""

import contextlib
import copy
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cache_dit
import torch
from diffusers import FluxPipeline
from diffusers.hooks import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_mag_cache,
    apply_taylorseer_cache,
)

from benchmarks.quality.samples import STEPS, Batch

Setting = Mapping[str, Any]
Enable = Callable[[Any, Setting], None]

TEXT = 16
SIDE = 64
CALIBRATORS = {
    "taylorseer": lambda s: cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=s["order"], **_calibrated(s)),
    "foca": lambda s: cache_dit.FoCaCalibratorConfig(**_calibrated(s)),
    "dmd": lambda s: cache_dit.DMDCalibratorConfig(dmd_history=s["history"], **_calibrated(s)),
}


class Peers:
    """The checkpoint as diffusers loads it."""

    def __init__(self, folder: str) -> None:
        logging.disable(logging.WARNING)
        self.pristine = FluxPipeline.from_pretrained(folder)

    def run(self, enable: Enable, setting: Setting, batch: Batch) -> tuple[torch.Tensor, int]:
        """Make the pictures of a batch with a cache; return latents and how many steps were computed."""
        pipeline = self.ready(enable, setting)
        with counted(pipeline.transformer) as steps:
            return call(pipeline, batch), len(steps)

    def ready(self, enable: Enable, setting: Setting) -> Any:
        """Return a pipeline with a cache that shares nothing with another that a run changes."""
        parts: dict[str, Any] = dict(self.pristine.components)
        parts |= {name: copy.deepcopy(parts[name]) for name in ("transformer", "scheduler")}
        made: Any = type("FluxPipeline", (FluxPipeline,), {})(**parts)
        made.set_progress_bar_config(disable=True)
        enable(made, setting)
        return made


@torch.no_grad()
def call(pipeline: Any, batch: Batch) -> torch.Tensor:
    """Return the latents of a batch."""
    return pipeline(
        list(batch.prompts),
        latents=batch.noise,
        num_inference_steps=STEPS,
        max_sequence_length=TEXT,
        height=SIDE,
        width=SIDE,
        output_type="latent",
    ).images


@contextlib.contextmanager
def counted(transformer: Any) -> Iterator[list[None]]:
    """Collect an entry for every step in which a middle block computes."""
    found: list[None] = []
    handle = transformer.single_transformer_blocks[3].proj_mlp.register_forward_hook(lambda *_: found.append(None))
    try:
        yield found
    finally:
        handle.remove()


def nothing(pipeline: Any, setting: Setting) -> None:
    """Put no cache on a pipeline."""


def cached(pipeline: Any, setting: Setting) -> None:
    """Put cache-dit on a pipeline; the setting is that of `methods.dual_block`."""
    mask = written_mask(setting["mask"])
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=setting["front"],
        Bn_compute_blocks=setting["back"],
        residual_diff_threshold=setting["threshold"],
        max_warmup_steps=setting["warmup"],
        max_cached_steps=-1,
        max_continuous_cached_steps=-1 if setting["row"] is None else setting["row"],
        steps_computation_mask=None if mask is None else [int(entry) for entry in mask],
        steps_computation_policy=setting["policy"],
    )
    kind = setting.get("calibrator")
    calibrator = None if kind is None else CALIBRATORS[kind](setting)
    cache_dit.enable_cache(pipeline, cache_config=config, calibrator_config=calibrator)


def _calibrated(setting: Setting) -> dict[str, Any]:
    names = {"residual": "residual", "hidden": "hidden_states"}
    return {"calibrator_cache_type": names[setting["on"]], "enable_encoder_calibrator": False}


def written_mask(mask: str | None) -> str | None:
    """Return the entries of a mask: a preset of cache-dit, "w/n" for w first steps and every n-th, or None.

    >>> written_mask("2/4")[:11]
    '11000100010'
    """
    if mask is None:
        return None
    if "/" not in mask:
        return "".join(map(str, cache_dit.steps_mask(mask_policy=mask, total_steps=STEPS)))
    first, every = map(int, mask.split("/"))
    return "".join(str(int(at < first or (at - first + 1) % every == 0)) for at in range(STEPS))


def first_block(pipeline: Any, setting: Setting) -> None:
    """Put the first-block cache of diffusers on a pipeline."""
    apply_first_block_cache(pipeline.transformer, FirstBlockCacheConfig(threshold=setting["threshold"]))


def magnitudes(pipeline: Any, setting: Setting) -> None:
    """Put MagCache of diffusers on a pipeline."""
    config = MagCacheConfig(
        threshold=setting["threshold"],
        max_skip_steps=setting["row"],
        retention_ratio=setting["retained"] / STEPS,
        num_inference_steps=STEPS,
        mag_ratios=list(setting["ratios"]),
    )
    apply_mag_cache(pipeline.transformer, config)


def series(pipeline: Any, setting: Setting) -> None:
    """Put TaylorSeer of diffusers on a pipeline: of the last layer ("lite"), so that no block runs at skipped steps."""
    config = TaylorSeerCacheConfig(
        cache_interval=setting["interval"],
        disable_cache_before_step=setting["before"],
        disable_cache_after_step=setting["after"],
        max_order=setting["order"],
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    )
    apply_taylorseer_cache(pipeline.transformer, config)


@torch.no_grad()
def ratios(peers: Peers, batch: Batch) -> tuple[float, ...]:
    """Return the magnitude ratios of a batch, as diffusers' own calibration measures them."""
    pipeline = peers.ready(nothing, {})
    apply_mag_cache(pipeline.transformer, MagCacheConfig(num_inference_steps=STEPS, calibrate=True))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        call(pipeline, batch)
    (listed,) = re.findall(r"^\[([\d., e-]+)\]$", printed.getvalue(), re.MULTILINE)
    return tuple(float(number) for number in listed.split(","))
