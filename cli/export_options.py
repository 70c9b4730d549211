"""The flags of `puredit export`: those of the run that it shares with `puredit generate`, and its own."""

from pure.checks import LARGEST_SEED
from pure.cli.options import FLAGS, flag, group
from pure.cli.parsing import Flag
from pure.cli.values import whole

__all__ = ["EXPORT_FLAGS"]

SHARED = (
    *("--model-path", "--variant", "--dit-precision", "--attention-backend", "--height", "--width", "--num-frames"),
    *("--image-path", "--negative-prompt", "--guidance-scale", "--guidance-scale-2", "--true-cfg-scale"),
    *("--max-sequence-length", "--cache-dit-config", "--plan", "--enable-cache-dit", "--cache-dit-params"),
    *("--lenient-config", "--config", "--log-level", "--debug"),
)

RUN = group(
    "Run",
    flag("--num-inference-steps --steps num_inference_steps", whole(1, 10_000), "Denoising steps. [the checkpoint's]"),
    flag("--prompt", "TEXT", "Prompt of the start that is written. [an empty one]", default=""),
    flag("--seed", whole(0, LARGEST_SEED), "Seed of its noise.", shown=42),
)
OUTPUT = group(
    "Output",
    flag("--output", "FILE", "File of the package; .json and .safetensors of the same name are beside it. Needed."),
    flag("--weights", ("inside", "beside"), "Where the weights go: into the package, or a file.", shown="inside"),
    flag(
        "--weights-file",
        "FILE",
        "That file; one that holds the weights of this model already is left as it is. [beside the package]",
    ),
    flag("--start", "FILE", "File of the start: the prompt's conditioning and the noise. [beside the package]"),
    flag("--decoder", None, "Also compile the decoder of latents, into a package beside the other."),
    flag("--only-start", None, "Only write a start, for a package that is there; nothing is compiled."),
)
EXPORT_FLAGS: tuple[Flag, ...] = (*RUN, *OUTPUT, *(each for each in FLAGS if set(each.opts) & set(SHARED)))
"""All of them, in the order of the help text."""
