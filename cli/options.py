"""The flags of `puredit generate`, group by group."""

from typing import Any

import click

from pure.cli.parsing import Flag
from pure.cli.values import Json, Value, boolean, count, number, whole
from pure.configs.kinds import Unchecked

__all__ = ["FLAGS", "LARGEST_SIDE", "flag", "group", "of_run"]

LARGEST_SIDE = 16384
"""Of a picture, in pixels."""


def flag(
    names: str, value: Any, help: str | None = None, *, default: Any = None, shown: Any = None, many: bool = False
) -> Flag:
    """Return a flag.

    Args:
        names: its spellings, and perhaps its name in Python.
        value: what it takes: a type, words to choose from, a word for a text (`NAME`, of several texts `NAME ...`),
            or None where it takes nothing.
        help: for the help text.
        default: not shown in the help text, or
        shown: shown there.
        many: whether it takes several values of a type.
    """
    options: dict[str, Any] = {"help": help}
    if value is None:
        options["is_flag"] = True
    elif isinstance(value, str):
        options |= {"metavar": None if value == "TEXT" and shown else value, "multiple": value.endswith("...")}
    else:
        options["type"] = click.Choice(value) if isinstance(value, tuple) else value
    if many:
        options |= {"multiple": True, "metavar": f"{options['type'].name.upper()} ..."}
    if default is not None or shown is not None:
        options |= {"default": default if shown is None else shown, "show_default": shown is not None}
    return Flag(names.split(), **options)


def group(name: str, *flags: Flag) -> tuple[Flag, ...]:
    """Return flags of one group of the help text."""
    for each in flags:
        each.group = name
    return flags


MODEL = group(
    "Model",
    flag(
        "--model-path",
        "FOLDER",
        "Checkpoint folder or hub id; a local folder takes precedence. "
        "Without it, the small checkpoint that comes with puredit.",
    ),
    flag("--revision", "NAME", "Revision of a hub id."),
    flag(
        "--variant",
        "NAME",
        "Variant of the checkpoint's files, such as fp16 for *.fp16.safetensors; without it the files without "
        "a variant, or the only variant there is.",
    ),
    flag("--backend", ("auto", "sglang", "diffusers"), "All three select puredit's own engine.", shown="auto"),
    flag("--dit-precision", ("fp32", "bf16", "fp16"), "Precision of the denoiser."),
    flag(
        "--attention-backend --diffusers-attention-backend attention_backend",
        "NAME",
        "Attention kernel: native (torch's choice), flex, flash, _flash_3, sage, xformers and others; if it does "
        "not run here, the error lists those that do.",
    ),
    flag("--enable-torch-compile", boolean(), "Compile the denoiser; the first image takes longer.", default=False),
)
IMAGE = group(
    "Image",
    flag("--prompt", "TEXT ...", "Description of the image; several give several images."),
    flag("--prompt-file-path --prompt-path prompt_file_path", "FILE", "File with more prompts, one per line."),
    flag("--negative-prompt", "TEXT", "What to avoid; needs classifier-free guidance."),
    flag("--num-inference-steps", whole(1, 10_000), "Denoising steps. [the checkpoint's]"),
    flag(
        "--guidance-scale",
        number(0, 1000),
        "Guidance scale: an input of models with built-in guidance (FLUX, HunyuanVideo), else the scale of "
        "classifier-free guidance (Wan, Z-Image). [the checkpoint's]",
    ),
    flag("--guidance-scale-2", number(0, 1000), "Guidance scale of the second expert (Wan 2.2). [the checkpoint's]"),
    flag(
        "--true-cfg-scale",
        number(0, 1000),
        "Scale of classifier-free guidance for FLUX, Qwen-Image and HunyuanVideo; needs a value above 1 and a "
        "negative prompt.",
    ),
    flag("--height", whole(1, LARGEST_SIDE), "Height in pixels. [the checkpoint's]"),
    flag("--width", whole(1, LARGEST_SIDE), "Width in pixels. [the checkpoint's]"),
    flag("--num-frames", whole(1, 10_000), "Frames of a video. [the checkpoint's]"),
    flag("--fps", whole(1, 1000), "Frames per second of a video. [the checkpoint's]"),
    flag("--image-path --image-paths image_path", "FILE ...", "Pictures to edit, or the first frame of a video."),
    flag("--seed", whole(0), "Seed of the starting noise; several give several images.  [default: 42]", many=True),
    flag(
        "--num-outputs-per-prompt --num-outputs num_outputs_per_prompt",
        whole(1),
        "Images per prompt and seed, with the seeds seed, seed + 1, ...",
        default=1,
    ),
    flag(
        "--batch-size",
        whole(1, 1024),
        "Images in one batch; each is as if made alone. [as many as fit into the memory of one large image]",
    ),
    flag("--max-sequence-length", whole(1), "Largest number of prompt tokens. [the checkpoint's]"),
)
CACHE = group(
    "Cache",
    flag("--cache-dit-config", "FILE", "File with cache settings, YAML or JSON, or the name of a packaged one."),
    flag(
        "--plan",
        "FILE",
        "Plan that `puredit tune` made, or the name of one that comes with the checkpoint: slow, medium, fast or ultra "
        "for the one in the package.",
    ),
    flag(
        "--enable-cache-dit",
        boolean(),
        "Enable the cache, with the settings of the environment and the defaults; false disables it.",
    ),
    flag(
        "--enable-teacache",
        boolean(),
        "Enable TeaCache, as it was published for the model: FLUX.1, HunyuanVideo, Wan 2.1 from text.",
    ),
    flag(
        "--cache-dit-params",
        Value(Unchecked(), "json"),
        "Cache settings for this run, like '{\"residual_diff_threshold\": 0.12}'.",
    ),
    flag("--lenient-config", boolean(), "Unknown keys of cache settings are warnings, not errors.", default=False),
)
OUTPUT = group(
    "Output",
    flag("--output-path", "FOLDER", "Folder for the images; '' saves none.", shown="outputs/"),
    flag("--output-file-name", "NAME", "File name of a single image (.png, .jpg, .webp) or video (.mp4)."),
    flag("--output-file-path", "FILE", "Folder and file name of a single image or video."),
    flag("--save-output", boolean(), "Save the images.  [default: true]", default=True),
    flag("--no-save-output", None, "Do not save the images."),
    flag(
        "--save-frames",
        boolean(),
        "Also write every frame of a video as a PNG, into a folder next to it.",
        default=False,
    ),
    flag("--compare", boolean(), "Also run without the cache; print time ratio, PSNR and SSIM.", default=False),
    flag("--plot", "FILE", "Draw both images and every step's decision into one PNG; implies --compare."),
    flag("--perf-dump-path", "FILE", "Write times, decisions and settings as JSON."),
)
RUNNING = group(
    "Running",
    flag(
        "--config",
        "FILE",
        "Flags from a flat .yaml or .json file, with underscores for dashes; the command line wins.",
    ),
    flag("--warmup", boolean(), "The same as --warmup-mode request."),
    flag(
        "--warmup-mode",
        ("off", "request", "server"),
        "request: first run a few steps that are not timed.  [default: off]",
    ),
    flag("--warmup-steps", whole(1, 10_000), "Steps of the warm-up.", shown=1),
    flag("--warmup-resolutions", "WxH ...", "Image sizes to warm up with."),
    flag(
        "--log-level",
        ("debug", "info", "warning", "error"),
        "warning and error hide progress and tables; debug shows tracebacks.",
        shown="info",
    ),
    flag("--debug", boolean(), "Show tracebacks.", default=False),
)
PROCESSES = group(
    "Several processes",
    flag(
        "--num-gpus",
        count(),
        "Number of processes: one for every GPU, or all on the CPU if there is no GPU.  [default: 1]",
    ),
    flag("--tp-size", count(), "Processes that share the weights of every block."),
    flag("--sp-degree", count(), "Processes that share the sequence: ulysses x ring."),
    flag(
        "--ulysses-degree",
        count(),
        "Processes that share the heads during attention.  [default: number of processes / other sizes]",
    ),
    flag("--enable-cfg-parallel", boolean(), "Run each branch of classifier-free guidance on half of the processes."),
    flag("--cfg-parallel-size", count(), "The same with 2; 1 runs both branches in every process."),
    flag("--ring-degree", count(), "Processes that pass keys and values in a ring during attention."),
    flag(
        "--extra-parallel-modules",
        "NAME ...",
        "What else the processes share: text_encoder (weights), vae (rows of encoded and decoded pictures).",
    ),
    flag(
        "--dp-size --data-parallel-size --dp dp_size",
        count(),
        "Groups of processes, each with prompts of its own; the other sizes are those of one group.  [default: 1]",
    ),
    flag("--nnodes", count(), "Hosts that share the processes; each runs the same command.  [default: 1]"),
    flag("--node-rank", whole(0, 255), "Number of this host, from 0; host 0 prints and saves.  [default: 0]"),
    flag("--dist-init-addr", "HOST:PORT", "Address of host 0, the same on all hosts."),
    flag(
        "--dist-timeout",
        number(1),
        "Seconds that hosts wait for each other to start, and processes in one exchange.  [default: 300 and 1800]",
    ),
)
SWITCHES = (
    "dit-cpu-offload text-encoder-cpu-offload image-encoder-cpu-offload "
    "vae-cpu-offload dit-layerwise-offload pin-cpu-memory vae-tiling vae-slicing trust-remote-code profile "
    "return-frames"
)
UNSUPPORTED = group(
    "Known flags that are not supported",
    *(flag(f"--{name}", boolean()) for name in SWITCHES.split()),
    flag("--lora-path", "PATH"),
    flag("--lora-scale", number(0)),
    flag("--vae-precision", ("fp32", "bf16", "fp16")),
    flag("--diffusers-kwargs", Json()),
)
FLAGS: tuple[Flag, ...] = (*IMAGE, *CACHE, *OUTPUT, *MODEL, *PROCESSES, *RUNNING, *UNSUPPORTED)
"""All of them, in the order of the help text."""

RUN = (
    *("--model-path", "--variant", "--dit-precision", "--height", "--width", "--num-frames", "--image-path"),
    *("--negative-prompt", "--guidance-scale", "--guidance-scale-2", "--true-cfg-scale", "--max-sequence-length"),
    *("--config", "--log-level", "--debug"),
)


def of_run(*more: str) -> tuple[Flag, ...]:
    """Return the flags of one run, which other commands share with `puredit generate`, and those named besides."""
    return tuple(each for each in FLAGS if set(each.opts) & {*RUN, *more})
