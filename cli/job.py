"""From flags to what is to be done, with everything checked that can be checked before loading."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pure.cli.cache_flags import choose
from pure.cli.comparing import require_plot_extra, require_video_extra
from pure.cli.naming import Output, plan, suffix_of
from pure.cli.prompts import read_prompts
from pure.cli.refusals import refuse
from pure.configs import Facts, Parallel, parallel
from pure.engine import opening as models
from pure.engine.caching import Caching, recipe
from pure.engine.errors import Misuse
from pure.engine.ranks import check_shares, count_processes, notes_on
from pure.engine.writing import check_file, check_folder

if TYPE_CHECKING:
    from PIL import Image

    from pure.models import Options, Picture
    from pure.models.family import Description

__all__ = ["Job", "facts_of", "make_job", "read_size", "warmup_mode"]

SEED, LARGEST_SEED = 42, 2**63 - 1
MOST_OUTPUTS = 100_000
SCALES = ("guidance_scale", "guidance_scale_2", "true_cfg_scale")
NUMBERS = {"num_inference_steps": "steps", "num_frames": "frames", "max_sequence_length": "max_sequence_length"}


@attrs.frozen(kw_only=True)
class Job:
    """A checked command: what to make, with which cache, and what to write besides.

    Attributes:
        model: a folder or hub id; None is the embedded checkpoint.
        found: what the checkpoint says of itself.
        options: what all outputs have in common; what nobody asked for is left out.
        negative_prompt: what to avoid.
        steps: denoising steps.
        fps: frames per second; None for images.
        save_frames: whether every frame of a video becomes a file too.
        outputs: the images or videos, in order.
        caching: the cache.
        batch: samples that are run together; None: see `pure.engine.make.batch_size`.
        compare: whether each is made without the cache too.
        plot: where the plot goes.
        perf: where the report goes.
        warmup: steps of the warm-up run; 0 for none.
        warmup_sizes: (height, width) of warm-up runs; empty for the request's own.
        compiled: whether the denoiser is compiled.
        precision: name of the denoiser's number type; None for the usual one of the device.
        quiet: whether only files are printed.
        parallel: how processes share the work.
        flags: everything as parsed, for the report.
        notes: what a person should be told before work starts.
    """

    model: str | None
    found: Description
    options: Options
    negative_prompt: str | None
    steps: int
    fps: int | None
    save_frames: bool
    outputs: tuple[Output, ...]
    caching: Caching
    batch: int | None
    compare: bool
    plot: Path | None
    perf: Path | None
    warmup: int
    warmup_sizes: tuple[tuple[int, int], ...]
    compiled: bool
    precision: str | None
    quiet: bool
    parallel: Parallel
    flags: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def make_job(values: Mapping[str, Any], environ: Mapping[str, str] = os.environ, when: datetime | None = None) -> Job:
    """Check the flags and return what is to be done.

    Raises:
        Misuse: something is wrong or not available.
        Failure: a folder cannot be written into.
    """
    refuse(values)
    when, model = when or datetime.now(), values["model_path"]
    prompts = read_prompts(values)
    warmup, warmup_sizes = _warmup(values), tuple(read_size(text) for text in values["warmup_resolutions"])
    plot, perf = _plot(values["plot"]), Path(values["perf_dump_path"]) if values["perf_dump_path"] else None
    found = models.look(model)
    _fits(values, found)
    pictures = models.pictures(values["image_path"], found)
    options = _options(values, [picture.image for picture in pictures])
    facts = facts_of(values, found, environ)
    compare = bool(values["compare"] or values["plot"])
    caching, notes = _caching(values, environ, facts, compare)
    shares = parallel(caching.effective)
    check_shares(shares.sizes, found)
    outputs = _outputs(values, prompts, when, _identity(options, model), models.video(found))
    for path, flag in ((plot, "--plot"), (perf, "--perf-dump-path")):
        if path is not None:
            check_file(path, flag)
    return Job(
        model=model,
        found=found,
        options=options,
        negative_prompt=values["negative_prompt"],
        steps=values["num_inference_steps"] or found.defaults.steps,
        fps=(values["fps"] or found.defaults.fps) if models.video(found) else None,
        save_frames=bool(values["save_frames"]),
        outputs=outputs,
        caching=caching,
        batch=values["batch_size"],
        compare=compare,
        plot=plot,
        perf=perf,
        warmup=warmup,
        warmup_sizes=warmup_sizes,
        compiled=values["enable_torch_compile"],
        precision=_precision(values),
        quiet=values["log_level"] in ("warning", "error"),
        parallel=shares,
        flags=values,
        notes=(*notes, *_texts(pictures), *notes_on(shares.sizes, facts.device)),
    )


def facts_of(values: Mapping[str, Any], found: Description, environ: Mapping[str, str] | None = None) -> Facts:
    """Return what is known of the run before it starts.

    Raises:
        Misuse: there are other processes, or fewer GPUs, than `--num-gpus` asks for.
    """
    processes = count_processes(values.get("num_gpus"), environ or {})
    return models.facts_of(found, values["num_inference_steps"], processes, values.get("sp_degree"))


def _fits(values: Mapping[str, Any], found: Description) -> None:
    """Refuse what this checkpoint cannot do."""
    kind = found.kind
    if values["guidance_scale_2"] is not None and models.experts(found) == 1:
        raise Misuse("--guidance-scale-2 is for the second expert of a model, and this one has one; leave it out")
    if models.video(found):
        require_video_extra(f"a {kind.pipeline} makes videos")
        return
    for flag, nothing in (("num_frames", 1), ("fps", None), ("save_frames", None)):
        if values[flag] not in (None, False, nothing):
            typed = "--" + flag.replace("_", "-")
            raise Misuse(f"{typed} {values[flag]}: a {kind.pipeline} makes images, not videos; leave it out")


def _texts(pictures: Sequence[Picture]) -> tuple[str, ...]:
    return tuple(note.text for picture in pictures for note in picture.notes)


def _options(values: Mapping[str, Any], images: Sequence[Image.Image]) -> Options:
    """Return what was asked for, by the library's names."""
    asked: dict[str, Any] = {name: values[flag] for flag, name in NUMBERS.items()}
    asked |= {name: values[name] for name in ("height", "width", *SCALES)}
    asked["images"] = tuple(images)
    options: Any = {name: value for name, value in asked.items() if value not in (None, ())}
    return options


def _identity(options: Options, model: str | None) -> str:
    """Return what tells runs of one prompt and seed from each other."""
    words = {name: value for name, value in options.items() if name != "images"}
    return json.dumps([words, model], sort_keys=True, default=str)


def _caching(
    values: Mapping[str, Any], environ: Mapping[str, str], facts: Facts, compare: bool
) -> tuple[Caching, tuple[str, ...]]:
    """Return the cache; a comparison without one asked for takes the default."""
    caching = choose(values, environ, facts)
    if not compare:
        return caching, ()
    flag = "--plot" if values["plot"] else "--compare"
    require_plot_extra(flag)
    if caching.asked:
        return caching, ()
    if values["enable_cache_dit"] is False:
        raise Misuse(f"{flag} compares with and without a cache; --enable-cache-dit false switches it off; drop one")
    caching = choose({**values, "enable_cache_dit": True}, environ, facts)
    return caching, (f"no cache was asked for, so {flag} takes the default one: {recipe(caching.transform)}",)


def _outputs(
    values: Mapping[str, Any], prompts: Sequence[str], when: datetime, identity: str, video: bool
) -> tuple[Output, ...]:
    seeds = values["seed"] or (SEED,)
    for seed in seeds:
        if seed + values["num_outputs_per_prompt"] - 1 > LARGEST_SEED:
            count = values["num_outputs_per_prompt"]
            several = f" with --num-outputs-per-prompt {count}" if count > 1 else ""
            raise Misuse(f"--seed {seed}{several}: seeds go up to {LARGEST_SEED} (2**63 - 1)")
    total = len(prompts) * len(seeds) * values["num_outputs_per_prompt"]
    if total > MOST_OUTPUTS:
        raise Misuse(f"--num-outputs-per-prompt: {total} results were asked for, the most are {MOST_OUTPUTS}")
    pairs = [(text, seed + i) for text in prompts for seed in seeds for i in range(values["num_outputs_per_prompt"])]
    folder, fixed = _place(values, video)
    if not folder or not values["save_output"] or values["no_save_output"]:
        return tuple(Output(text, seed) for text, seed in pairs)
    outputs = plan(pairs, Path(folder), fixed, when, identity, video=video)
    check_folder(Path(folder), "--output-file-path" if values["output_file_path"] else "--output-path")
    if fixed is not None and outputs[0].path is not None:
        check_file(outputs[0].path, "--output-file-name")
    return outputs


def _place(values: Mapping[str, Any], video: bool) -> tuple[str, str | None]:
    """Return the folder of the images and their fixed name, if there is one."""
    path, name = values["output_file_path"], values["output_file_name"]
    if path is None:
        return values["output_path"], name
    if name is not None:
        raise Misuse("--output-file-path and --output-file-name both name the image; give only one of the two")
    if not os.path.basename(path):
        raise Misuse(f"--output-file-path {path!r} ends in a folder; add a file name, or use --output-path {path}")
    suffix_of(os.path.basename(path), "--output-file-path", video)
    return os.path.dirname(path) or ".", os.path.basename(path)


def _plot(path: str | None) -> Path | None:
    if path is None:
        return None
    if Path(path).suffix.lower() != ".png":
        raise Misuse(f"--plot {path}: the plot is a PNG; let the name end in .png")
    return Path(path)


def warmup_mode(values: Mapping[str, Any]) -> str | None:
    """Return what `--warmup-mode`, or `--warmup` of old, asks for; None if neither does.

    Raises:
        Misuse: they contradict each other.
    """
    mode = values["warmup_mode"]
    if values["warmup"] is None:
        return mode
    legacy = "request" if values["warmup"] else "off"
    if mode not in (None, legacy):
        raise Misuse(f"--warmup means --warmup-mode {legacy} and contradicts --warmup-mode {mode}; give only one")
    return legacy


def _warmup(values: Mapping[str, Any]) -> int:
    mode = warmup_mode(values)
    if values["warmup_resolutions"] and mode != "request":
        raise Misuse("--warmup-resolutions says how to warm up, and nothing does; add --warmup-mode request")
    return values["warmup_steps"] if mode == "request" else 0


def read_size(text: str) -> tuple[int, int]:
    """Return (height, width) of `WIDTHxHEIGHT`.

    Raises:
        Misuse: it is nothing of the kind.
    """
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
