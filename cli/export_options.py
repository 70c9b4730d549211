"""The flags of `puredit export`: those of the run that it shares with `puredit generate`, and its own."""

from pure.checks import LARGEST_SEED
from pure.cli.options import flag, group, of_run
from pure.cli.parsing import Flag
from pure.cli.values import whole

__all__ = ["EXPORT_FLAGS"]

CACHE = ("--cache-dit-config", "--plan", "--enable-cache-dit", "--cache-dit-params", "--lenient-config")

RUN = group(
    "Run",
    flag("--num-inference-steps --steps num_inference_steps", whole(1, 10_000), "Denoising steps. [the checkpoint's]"),
    flag("--prompt", "TEXT", "Prompt whose start is written. [an empty one]", default=""),
    flag("--seed", whole(0, LARGEST_SEED), "Seed of the noise of the start.", shown=42),
)
OUTPUT = group(
    "Output",
    flag("--output", "FILE", "File of the package; .json and .safetensors of the same name are beside it. Required."),
    flag("--weights", ("inside", "beside"), "Where the weights go: into the package, or into a file.", shown="inside"),
    flag(
        "--weights-file",
        "FILE",
        "File of the weights; if it holds those of this model already, it is used as it is. [beside the package]",
    ),
    flag("--start", "FILE", "File of the start: the prompt's conditioning and the noise. [beside the package]"),
    flag("--decoder", None, "Also compile the decoder of latents, into a package beside the other."),
    flag("--only-start", None, "Only write the start, for a package that was made before; nothing is compiled."),
)
EXPORT_FLAGS: tuple[Flag, ...] = (*RUN, *OUTPUT, *of_run("--attention-backend", *CACHE))
"""All of them, in the order of the help text."""
