"""The flags of `puredit generate`, group by group."""

from typing import Any

import click

from pure.cli.parsing import Flag
from pure.cli.values import Json, Value, boolean, number, whole
from pure.configs.kinds import Unchecked

__all__ = ["FLAGS", "apply_flags"]


def _flag(group: str, *names: str, **options: Any) -> Flag:
    return Flag(names, group=group, **options)


def _model() -> tuple[Flag, ...]:
    group = "Model"
    return (
        _flag(
            group,
            "--model-path",
            metavar="FOLDER",
            help="Checkpoint folder or hub id; a local folder takes precedence. "
            "Without it, the small checkpoint that comes with puredit.",
        ),
        _flag(group, "--revision", metavar="NAME", help="Revision of a hub id."),
        _flag(
            group,
            "--variant",
            metavar="NAME",
            help="Variant of the checkpoint's files, such as fp16 for *.fp16.safetensors; without it the files without "
            "a variant, or the only variant there is.",
        ),
        _flag(
            group,
            "--backend",
            type=click.Choice(["auto", "sglang", "diffusers"]),
            default="auto",
            show_default=True,
            help="All three select puredit's own engine.",
        ),
        _flag(group, "--dit-precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Precision of the denoiser."),
        _flag(group, "--attention-backend", metavar="NAME", help="native or torch_sdpa, which are the same."),
        _flag(
            group,
            "--enable-torch-compile",
            type=boolean(),
            default=False,
            help="Compile the denoiser; the first image takes longer.",
        ),
    )


def _image() -> tuple[Flag, ...]:
    group = "Image"
    return (
        _flag(
            group,
            "--prompt",
            multiple=True,
            metavar="TEXT ...",
            help="Description of the image; several give several images.",
        ),
        _flag(
            group,
            "--prompt-file-path",
            "--prompt-path",
            "prompt_file_path",
            metavar="FILE",
            help="File with more prompts, one per line.",
        ),
        _flag(
            group,
            "--negative-prompt",
            metavar="TEXT",
            help="What to avoid; needs classifier-free guidance.",
        ),
        _flag(group, "--num-inference-steps", type=whole(1, 10_000), help="Denoising steps. [the checkpoint's]"),
        _flag(
            group,
            "--guidance-scale",
            type=number(0, 1000),
            help="Guidance scale: an input of models with built-in guidance (FLUX, HunyuanVideo), else the scale of "
            "classifier-free guidance (Wan, Z-Image). [the checkpoint's]",
        ),
        _flag(
            group,
            "--guidance-scale-2",
            type=number(0, 1000),
            help="Guidance scale of the second expert (Wan 2.2). [the checkpoint's]",
        ),
        _flag(
            group,
            "--true-cfg-scale",
            type=number(0, 1000),
            help="Scale of classifier-free guidance for FLUX, Qwen-Image and HunyuanVideo; needs a value above 1 and a "
            "negative prompt.",
        ),
        _flag(group, "--height", type=whole(1), help="Height in pixels. [the checkpoint's]"),
        _flag(group, "--width", type=whole(1), help="Width in pixels. [the checkpoint's]"),
        _flag(group, "--num-frames", type=whole(1), help="Frames of a video. [the checkpoint's]"),
        _flag(group, "--fps", type=whole(1), help="Frames per second of a video. [the checkpoint's]"),
        _flag(
            group,
            "--image-path",
            "--image-paths",
            "image_path",
            multiple=True,
            metavar="FILE ...",
            help="Pictures to edit, or the first frame of a video.",
        ),
        _flag(
            group,
            "--seed",
            multiple=True,
            type=whole(0),
            metavar="NUMBER ...",
            help="Seed of the starting noise; several give several images.  [default: 42]",
        ),
        _flag(
            group,
            "--num-outputs-per-prompt",
            "--num-outputs",
            "num_outputs_per_prompt",
            type=whole(1),
            default=1,
            help="Images per prompt and seed, from seed, seed + 1, ...",
        ),
        _flag(
            group,
            "--batch-size",
            type=whole(1),
            help="Images in one batch; each is the same as alone. [as many as fit into the memory of one large image]",
        ),
        _flag(
            group,
            "--max-sequence-length",
            type=whole(1),
            help="Largest number of prompt tokens. [the checkpoint's]",
        ),
    )


def _cache() -> tuple[Flag, ...]:
    group = "Cache"
    return (
        _flag(
            group,
            "--cache-dit-config",
            metavar="FILE",
            help="File with cache settings, YAML or JSON, or the name of a packaged one.",
        ),
        _flag(
            group,
            "--enable-cache-dit",
            type=boolean(),
            help="Enable the cache, with the settings of the environment and the defaults; false disables it.",
        ),
        _flag(
            group,
            "--cache-dit-params",
            type=Value(Unchecked(), "json"),
            metavar="JSON",
            help="Cache settings for this run, like '{\"residual_diff_threshold\": 0.12}'.",
        ),
        _flag(
            group,
            "--lenient-config",
            type=boolean(),
            default=False,
            help="Unknown keys of cache settings are warnings, not errors.",
        ),
    )


def _output() -> tuple[Flag, ...]:
    group = "Output"
    return (
        _flag(
            group,
            "--output-path",
            metavar="FOLDER",
            default="outputs/",
            show_default=True,
            help="Folder for the images; '' saves none.",
        ),
        _flag(
            group,
            "--output-file-name",
            metavar="NAME",
            help="File name of a single image (.png, .jpg, .webp) or video (.mp4).",
        ),
        _flag(group, "--output-file-path", metavar="FILE", help="Folder and file name of a single image or video."),
        _flag(group, "--save-output", type=boolean(), default=True, help="Save the images.  [default: true]"),
        _flag(group, "--no-save-output", is_flag=True, help="Do not save the images."),
        _flag(
            group,
            "--save-frames",
            type=boolean(),
            default=False,
            help="Also write every frame of a video as a PNG, into a folder next to it.",
        ),
        _flag(
            group,
            "--compare",
            type=boolean(),
            default=False,
            help="Also run without the cache; print time ratio, PSNR and SSIM.",
        ),
        _flag(
            group,
            "--plot",
            metavar="FILE",
            help="Draw both images and every step's decision into one PNG; implies --compare.",
        ),
        _flag(group, "--perf-dump-path", metavar="FILE", help="Write times, decisions and settings as JSON."),
    )


def _running() -> tuple[Flag, ...]:
    group = "Running"
    return (
        _flag(
            group,
            "--config",
            metavar="FILE",
            help="Flags from a flat .yaml or .json file, with underscores for dashes; the command line wins.",
        ),
        _flag(group, "--warmup", type=boolean(), help="The same as --warmup-mode request."),
        _flag(
            group,
            "--warmup-mode",
            type=click.Choice(["off", "request", "server"]),
            help="request: a run that is not timed comes first.  [default: off]",
        ),
        _flag(group, "--warmup-steps", type=whole(1), default=1, show_default=True, help="Steps of the warm-up."),
        _flag(group, "--warmup-resolutions", multiple=True, metavar="WxH ...", help="Image sizes to warm up with."),
        _flag(
            group,
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
            help="warning and error hide progress and tables; debug shows tracebacks.",
        ),
        _flag(group, "--debug", type=boolean(), default=False, help="Show tracebacks."),
    )


def _processes() -> tuple[Flag, ...]:
    group = "Several processes"
    sizes = {
        "--tp-size": "Processes that share the weights of every block.",
        "--sp-degree": "Processes that share the sequence: ulysses x ring.",
        "--ulysses-degree": "Processes that share the heads during attention.  "
        "[default: number of processes / other sizes]",
        "--ring-degree": "Processes that pass keys and values in a ring during attention.",
    }
    return (
        _flag(
            group,
            "--num-gpus",
            type=whole(1),
            metavar="COUNT",
            help="Number of processes: one for every GPU, or all on the CPU if there is no GPU.  [default: 1]",
        ),
        *(_flag(group, name, type=whole(1), metavar="COUNT", help=text) for name, text in sizes.items()),
    )


def _later() -> tuple[Flag, ...]:
    group = "Known flags that are not supported"
    switches = (
        "enable-teacache enable-cfg-parallel dit-cpu-offload text-encoder-cpu-offload image-encoder-cpu-offload "
        "vae-cpu-offload dit-layerwise-offload pin-cpu-memory vae-tiling vae-slicing trust-remote-code profile "
        "return-frames"
    ).split()
    counts = "cfg-parallel-size dp-size".split()
    return (
        *(_flag(group, f"--{name}", type=boolean()) for name in switches),
        *(_flag(group, f"--{name}", type=whole(1)) for name in counts),
        _flag(group, "--lora-path", metavar="PATH"),
        _flag(group, "--lora-scale", type=number(0)),
        _flag(group, "--vae-precision", type=click.Choice(["fp32", "bf16", "fp16"])),
        _flag(group, "--diffusers-kwargs", type=Json(), metavar="JSON"),
    )


FLAGS: tuple[Flag, ...] = (*_image(), *_cache(), *_output(), *_model(), *_processes(), *_running(), *_later())
"""All of them, in the order of the help text."""


def apply_flags(command: Any) -> Any:
    """Give a command function all of `FLAGS`."""
    known = getattr(command, "__click_params__", [])
    command.__click_params__ = [*FLAGS[::-1], *known]  # click reads the list backwards
    return command
