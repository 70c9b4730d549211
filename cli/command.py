"""The command `puredit generate`, with everything checked that can be checked before loading."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import torch

from pure.checks import cut
from pure.cli.cache_flags import planned, settle
from pure.cli.naming import plan, suffix_of
from pure.cli.options import LARGEST_SIDE
from pure.cli.prompts import read_prompts
from pure.cli.refusals import refuse
from pure.configs import Facts, Parallel, parallel
from pure.distributed.hosts import Hosts
from pure.engine.caching import Caching, recipe
from pure.engine.checkpoint import Checkpoint, look, pictures
from pure.engine.engine import OPTIONS, Order
from pure.engine.errors import Misuse
from pure.engine.extras import require
from pure.engine.hosts import agreeing, hosts_of
from pure.engine.ranks import check_shares, count_processes, notes_on
from pure.engine.sample import Sample
from pure.engine.writing import check_files, check_folder
from pure.noise import consecutive_seeds
from pure.notes import Note

__all__ = ["Command", "checkpoint_of", "facts_of", "make_command", "order_of", "plot_path", "read_size", "warmup_mode"]

SEED = 42
MOST_OUTPUTS = 100_000


@attrs.frozen(kw_only=True)
class Command:
    """A checked command: what to make, with which cache, and what to write besides.

    Attributes:
        checkpoint: which one, and how it is loaded.
        order: what all samples have in common.
        samples: the images or videos, in order.
        steps: denoising steps.
        save_frames: whether every frame of a video becomes a file too.
        caching: the cache.
        batch: samples that are run together; None: see `pure.engine.denoising.batch_size`.
        compare: whether each is made without the cache too.
        plot: where the plot goes.
        perf: where the report goes.
        warmup: steps of the warm-up run; 0 for none.
        warmup_sizes: (height, width) of warm-up runs; empty for the order's own.
        quiet: whether only files are printed.
        parallel: how processes share the work.
        hosts: on which they are; None: on this one.
        flags: everything as parsed, for the report.
        notes: printed before work starts.
    """

    checkpoint: Checkpoint
    order: Order
    samples: tuple[Sample, ...]
    steps: int
    save_frames: bool
    caching: Caching
    batch: int | None
    compare: bool
    plot: Path | None
    perf: Path | None
    warmup: int
    warmup_sizes: tuple[tuple[int, int], ...]
    quiet: bool
    parallel: Parallel
    hosts: Hosts | None
    flags: Mapping[str, Any]
    notes: tuple[Note, ...] = ()


def make_command(
    values: Mapping[str, Any], environ: Mapping[str, str] = os.environ, when: datetime | None = None
) -> Command:
    """Check the flags and return what is to be done.

    Raises:
        Misuse: something is wrong or not available.
        ConfigError: likewise, in the settings of the cache.
        Failure: a folder cannot be written into.
    """
    refuse(values)
    prompts = read_prompts(values)
    warmup, warmup_sizes = _warmup(values), tuple(read_size(text) for text in values["warmup_resolutions"])
    plot, perf = plot_path(values["plot"]), Path(values["perf_dump_path"]) if values["perf_dump_path"] else None
    checkpoint = checkpoint_of(values)
    _check_video(values, checkpoint)
    _check_sizes(values, checkpoint, warmup_sizes)
    values = planned(values, checkpoint)
    order = order_of(values, checkpoint)
    hosts = hosts_of(values, environ)
    facts = facts_of(values, checkpoint, environ)
    compare = bool(values["compare"] or values["plot"])
    caching, notes = _caching(values, environ, facts, compare)
    shares = parallel(caching.effective)
    check_shares(shares.sizes, checkpoint.found)
    samples = _samples(values, prompts, when or datetime.now(), _identity(order, checkpoint), checkpoint.video)
    _check_files(values, samples[0].path, plot, perf)
    return Command(
        checkpoint=checkpoint,
        order=order,
        samples=samples,
        steps=values["num_inference_steps"] or checkpoint.found.defaults.steps,
        save_frames=bool(values["save_frames"]),
        caching=caching,
        batch=values["batch_size"],
        compare=compare,
        plot=plot,
        perf=perf,
        warmup=warmup,
        warmup_sizes=warmup_sizes,
        quiet=values["log_level"] in ("warning", "error"),
        parallel=shares,
        hosts=agreeing(hosts, values, checkpoint, **_compared(order, caching, samples)),
        flags=values,
        notes=(
            *caching.notes,
            *notes,
            *_idle(values, warmup, samples[0].path is not None),
            *order.notes,
            *notes_on(shares.sizes, facts.device),
        ),
    )


def checkpoint_of(values: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint that the flags name, described.

    Raises:
        Misuse: it is not there, or not supported, or its parts are to have several precisions.
    """
    return look(
        values["model_path"],
        precision=_precision(values),
        variant=values["variant"],
        compiled=values.get("enable_torch_compile", False),
    )


def facts_of(values: Mapping[str, Any], checkpoint: Checkpoint, environ: Mapping[str, str]) -> Facts:
    """Return what is known of the run before it starts.

    Raises:
        Misuse: there are other processes, or fewer GPUs, than `--num-gpus` sets, or `--dp-size` does not divide them.
    """
    groups = values.get("dp_size") or 1
    processes = count_processes(values.get("num_gpus"), environ, groups, values.get("nnodes") or 1) // groups
    return checkpoint.facts(values.get("num_inference_steps"), processes, values.get("sp_degree"), groups)


def _compared(order: Order, caching: Caching, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what must be the same on all hosts beside the flags."""
    images = [hashlib.sha256(image.tobytes()).hexdigest() for image in order.options.get("images", ())]
    return {
        "the settings of the cache": {name: each["value"] for name, each in caching.settings.items()},
        "the prompts and seeds": [(sample.prompt, sample.seed) for sample in samples],
        "the input pictures": images,
    }


def _check_video(values: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse flags of videos where the model makes images, and models of videos where ffmpeg is missing."""
    checkpoint.check_expert_scale(values["guidance_scale_2"], "--guidance-scale-2")
    if checkpoint.video:
        require("video", f"a {checkpoint.name} makes videos, and that")
        return
    for flag, nothing in (("num_frames", 1), ("fps", None), ("save_frames", None)):
        if values[flag] not in (None, False, nothing):
            typed = "--" + flag.replace("_", "-")
            raise Misuse(f"{typed} {values[flag]}: a {checkpoint.name} makes images, not videos; leave it out")


def _check_sizes(values: Mapping[str, Any], checkpoint: Checkpoint, warmup: Sequence[tuple[int, int]]) -> None:
    """Refuse what the checkpoint cannot do, before it is loaded."""
    most = checkpoint.found.defaults.longest
    if (length := values["max_sequence_length"] or 1) > most:
        raise Misuse(f"--max-sequence-length {length}: this model reads at most {most} tokens of a prompt")
    checkpoint.check_pixels(values["height"], values["width"], values["num_frames"])
    for size in warmup:
        checkpoint.check_pixels(*size, values["num_frames"], flag="--warmup-resolutions")


def order_of(values: Mapping[str, Any], checkpoint: Checkpoint) -> Order:
    """Return what the flags say of all samples, by the library's names.

    Raises:
        Misuse: a picture cannot be read, or the model takes another number.
    """
    opened = pictures(values["image_path"], checkpoint.found)
    given = {name: values[flag] for flag, name in OPTIONS.items()} | {"images": tuple(one.image for one in opened)}
    return Order(
        negative_prompt=values["negative_prompt"],
        options={name: value for name, value in given.items() if value not in (None, ())},
        notes=tuple(note for picture in opened for note in picture.notes),
        fps=values.get("fps"),
    )


def _identity(order: Order, checkpoint: Checkpoint) -> str:
    """Return what tells runs of one prompt and seed from each other."""
    words = {name: value for name, value in order.options.items() if name != "images"}
    return json.dumps([words, checkpoint.path], sort_keys=True, default=str)


def _caching(
    values: Mapping[str, Any], environ: Mapping[str, str], facts: Facts, compare: bool
) -> tuple[Caching, tuple[Note, ...]]:
    """Return the cache; a comparison takes the default one where none is set."""
    caching = Caching.of(settle(values, environ, facts))
    if not compare:
        return caching, ()
    flag = "--plot" if values["plot"] else "--compare"
    require("plot", flag)
    if caching.enabled:
        return caching, ()
    if values["enable_cache_dit"] is False:
        raise Misuse(f"{flag} compares with and without a cache; --enable-cache-dit false switches it off; drop one")
    caching = Caching.of(settle({**values, "enable_cache_dit": True}, environ, facts))
    text = f"no cache is set, so {flag} takes the default one: {recipe(caching.transform)}"
    return caching, (Note(text, "note"),)


def _samples(
    values: Mapping[str, Any], prompts: Sequence[str], when: datetime, identity: str, video: bool
) -> tuple[Sample, ...]:
    seeds = values["seed"] or (SEED,)
    count = values["num_outputs_per_prompt"]
    total = len(prompts) * len(seeds) * count
    if total > MOST_OUTPUTS:
        raise Misuse(f"--num-outputs-per-prompt: {total} results; at most {MOST_OUTPUTS}")
    try:
        runs = [consecutive_seeds(seed, count) for seed in seeds]
    except ValueError as error:
        raise Misuse(f"--seed, --num-outputs-per-prompt: {error}") from error
    pairs = [(text, each) for text in prompts for run in runs for each in run]
    folder, fixed = _place(values, video)
    if not folder or not values["save_output"] or values["no_save_output"]:
        return tuple(Sample(prompt=text, seed=seed) for text, seed in pairs)
    flag = "--output-file-path" if values["output_file_path"] else "--output-path"
    check_folder(Path(folder), flag)
    return plan(pairs, Path(folder), fixed, when, identity, video=video)


def _check_files(values: Mapping[str, Any], first: Path | None, plot: Path | None, perf: Path | None) -> None:
    """Refuse files that would replace each other or a file of settings, or that cannot be written.

    Raises:
        Misuse: two are one file.
        Failure: one cannot be written.
    """
    named = next((name for name in ("output_file_path", "output_file_name") if values[name]), None)
    files = {"--output-file-name" if named == "output_file_name" else "--output-file-path": first if named else None}
    read = {
        "--" + name.replace("_", "-"): Path(values[name]) if values.get(name) else None
        for name in ("config", "cache_dit_config", "plan", "prompt_file_path")
    }
    check_files({**files, "--plot": plot, "--perf-dump-path": perf}, read)


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


def plot_path(path: str | None) -> Path | None:
    """Return the file of a plot.

    Raises:
        Misuse: its name has another ending than a PNG's.
    """
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
        raise Misuse("--warmup-resolutions sets the sizes of a warm-up, and there is none; add --warmup-mode request")
    return values["warmup_steps"] if mode == "request" else 0


def _idle(values: Mapping[str, Any], warmup: int, saved: bool) -> tuple[Note, ...]:
    """Return a note on every flag that has no effect because of another."""
    found = []
    if values["warmup_steps"] > 1 and not warmup:
        found.append(f"--warmup-steps {values['warmup_steps']} has no effect: add --warmup-mode request")
    for name in ("output_file_path", "output_file_name", "save_frames"):
        if values[name] and not saved:
            found.append(f"--{name.replace('_', '-')} has no effect: nothing is saved")
    return tuple(map(Note, found))


def read_size(text: str) -> tuple[int, int]:
    """Return (height, width) of `WIDTHxHEIGHT`.

    Raises:
        Misuse: it is nothing of the kind.
    """
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.lower())
    width, height = map(int, found.groups()) if found else (0, 0)
    if not 1 <= min(width, height) <= max(width, height) <= LARGEST_SIDE:
        typed = cut(text)
        raise Misuse(f"--warmup-resolutions {typed}: write WIDTHxHEIGHT, like 64x64, each side at most {LARGEST_SIDE}")
    return height, width


def _precision(values: Mapping[str, Any]) -> str | None:
    dit, vae = values["dit_precision"], values.get("vae_precision")
    default = None if torch.cuda.is_available() else "fp32"
    if vae is not None and vae != (dit or default):
        raise Misuse(
            f"--vae-precision {vae}: all parts have one precision in this version; leave it out, or choose "
            f"--dit-precision {vae} for all"
        )
    return dit
