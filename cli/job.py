"""From flags to what is to be done, with everything checked that can be checked before loading."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import torch

from pure.cli.caching import Caching, choose, recipe
from pure.cli.comparing import require_plot_extra
from pure.cli.errors import Misuse
from pure.cli.naming import Output, plan, suffix_of
from pure.cli.refusals import refuse
from pure.cli.running import Request
from pure.cli.writing import check_file, check_folder

__all__ = ["Job", "make_job"]

SEED = 42
STEPS, FEW_STEPS, EMBEDDED_STEPS = 50, 4, 28  # FLUX.1-dev, FLUX.1-schnell, the embedded checkpoint
GUIDANCE = 3.5


@attrs.frozen(kw_only=True)
class Job:
    """A checked command: what to make, with which cache, and what to write besides.

    Attributes:
        model: a folder or hub id; None is the embedded checkpoint.
        request: what all images have in common.
        true_cfg_scale: of classifier-free guidance; at most 1 is off.
        outputs: the images, in order.
        caching: the cache.
        compare: whether each image is made without the cache too.
        plot: where the plot goes.
        perf: where the report goes.
        warmup: steps of the warm-up run; 0 for none.
        warmup_sizes: (height, width) of warm-up runs; empty for the request's own.
        compiled: whether the denoiser is compiled.
        precision: name of the denoiser's number type; None for the usual one of the device.
        guidance_given: whether the guidance scale was asked for.
        quiet: whether only files are printed.
        flags: everything as parsed, for the report.
        notes: what a person should be told before work starts.
    """

    model: str | None
    request: Request
    true_cfg_scale: float
    outputs: tuple[Output, ...]
    caching: Caching
    compare: bool
    plot: Path | None
    perf: Path | None
    warmup: int
    warmup_sizes: tuple[tuple[int, int], ...]
    compiled: bool
    precision: str | None
    guidance_given: bool
    quiet: bool
    flags: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def make_job(values: Mapping[str, Any], environ: Mapping[str, str] = os.environ, when: datetime | None = None) -> Job:
    """Check the flags and return what is to be done.

    Raises:
        Misuse: something is wrong or not available.
        Failure: a folder cannot be written into.
    """
    refuse(values)
    model = values["model_path"]
    request = _request(values, model)
    compare = bool(values["compare"] or values["plot"])
    caching, notes = _caching(values, environ, request.steps, compare)
    plot, perf = _plot(values["plot"]), Path(values["perf_dump_path"]) if values["perf_dump_path"] else None
    identity = json.dumps([request.steps, request.height, request.width, request.guidance_scale, model])
    outputs = _outputs(values, when or datetime.now(), identity)
    for path, flag in ((plot, "--plot"), (perf, "--perf-dump-path")):
        if path is not None:
            check_file(path, flag)
    return Job(
        model=model,
        request=request,
        true_cfg_scale=values["true_cfg_scale"] if values["true_cfg_scale"] is not None else 1.0,
        outputs=outputs,
        caching=caching,
        compare=compare,
        plot=plot,
        perf=perf,
        warmup=_warmup(values),
        warmup_sizes=tuple(_size(text) for text in values["warmup_resolutions"]),
        compiled=values["enable_torch_compile"],
        precision=_precision(values),
        guidance_given=values["guidance_scale"] is not None,
        quiet=values["log_level"] in ("warning", "error"),
        flags=values,
        notes=notes,
    )


def _caching(
    values: Mapping[str, Any], environ: Mapping[str, str], steps: int, compare: bool
) -> tuple[Caching, tuple[str, ...]]:
    """Return the cache; a comparison without one asked for takes the default."""
    caching = choose(values, environ, steps)
    if not compare:
        return caching, ()
    flag = "--plot" if values["plot"] else "--compare"
    require_plot_extra(flag)
    if caching.asked:
        return caching, ()
    if values["enable_cache_dit"] is False:
        raise Misuse(f"{flag} compares with and without a cache; --enable-cache-dit false switches it off; drop one")
    caching = choose({**values, "enable_cache_dit": True}, environ, steps)
    return caching, (f"no cache was asked for, so {flag} takes the default one: {recipe(caching.transform)}",)


def _request(values: Mapping[str, Any], model: str | None) -> Request:
    steps = values["num_inference_steps"] or default_steps(model)
    guidance = values["guidance_scale"]
    return Request(
        steps=steps,
        height=values["height"],
        width=values["width"],
        guidance_scale=GUIDANCE if guidance is None else guidance,
        negative_prompt=values["negative_prompt"],
        max_sequence_length=values["max_sequence_length"],
    )


def default_steps(model: str | None) -> int:
    """Return the number of steps where none is asked for.

    >>> default_steps(None), default_steps("black-forest-labs/FLUX.1-dev"), default_steps("FLUX.1-schnell/")
    (28, 50, 4)
    """
    if model is None:
        return EMBEDDED_STEPS
    return FEW_STEPS if "schnell" in Path(model).name.lower() else STEPS


def _outputs(values: Mapping[str, Any], when: datetime, identity: str) -> tuple[Output, ...]:
    prompts = _prompts(values)
    seeds = values["seed"] or (SEED,)
    pairs = [(text, seed + i) for text in prompts for seed in seeds for i in range(values["num_outputs_per_prompt"])]
    folder, fixed = _place(values)
    if not folder or not values["save_output"] or values["no_save_output"]:
        return tuple(Output(text, seed) for text, seed in pairs)
    outputs = plan(pairs, Path(folder), fixed, when, identity)
    check_folder(Path(folder), "--output-file-path" if values["output_file_path"] else "--output-path")
    if fixed is not None and outputs[0].path is not None:
        check_file(outputs[0].path, "--output-file-name")
    return outputs


def _place(values: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the folder of the images and their fixed name, if there is one."""
    path, name = values["output_file_path"], values["output_file_name"]
    if path is None:
        return values["output_path"], name
    if name is not None:
        raise Misuse("--output-file-path and --output-file-name both name the image; give only one of the two")
    if not os.path.basename(path):
        raise Misuse(f"--output-file-path {path!r} ends in a folder; add a file name, or use --output-path {path}")
    suffix_of(os.path.basename(path), "--output-file-path")
    return os.path.dirname(path) or ".", os.path.basename(path)


def _prompts(values: Mapping[str, Any]) -> Sequence[str]:
    prompts = list(values["prompt"])
    file = values["prompt_file_path"]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Misuse(f"--prompt-file-path {file} cannot be read: {reason}") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise Misuse(f"--prompt-file-path {file} holds no prompt; write one per line")
        prompts += found
    if not prompts:
        raise Misuse('there is nothing to draw; give --prompt "a red apple" or --prompt-file-path FILE')
    return prompts


def _plot(path: str | None) -> Path | None:
    if path is None:
        return None
    if Path(path).suffix.lower() != ".png":
        raise Misuse(f"--plot {path}: the plot is a PNG; let the name end in .png")
    return Path(path)


def _warmup(values: Mapping[str, Any]) -> int:
    mode = values["warmup_mode"]
    if values["warmup"] is not None:
        legacy = "request" if values["warmup"] else "off"
        if mode is not None and mode != legacy:
            raise Misuse(f"--warmup means --warmup-mode {legacy} and contradicts --warmup-mode {mode}; give only one")
        mode = legacy
    if values["warmup_resolutions"] and mode != "request":
        raise Misuse("--warmup-resolutions says how to warm up, and nothing does; add --warmup-mode request")
    return values["warmup_steps"] if mode == "request" else 0


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise Misuse(f"--warmup-resolutions {text}: write WIDTHxHEIGHT, like 64x64")
    return int(height), int(width)


def _precision(values: Mapping[str, Any]) -> str | None:
    dit, vae = values["dit_precision"], values["vae_precision"]
    usual = None if torch.cuda.is_available() else "fp32"
    if vae is not None and vae != (dit or usual):
        raise Misuse(
            f"--vae-precision {vae}: all parts have one precision in this version; leave it out, or choose "
            f"--dit-precision {vae} for all"
        )
    return dit
