"""The flags of `puredit tune`: those of the run that it shares with `puredit generate`, and its own."""

from pure.cli.options import flag, group, of_run
from pure.cli.parsing import Flag
from pure.cli.values import whole

__all__ = ["TUNE_FLAGS"]

PLAN = group(
    "Plan",
    flag(
        "--budget",
        "BUDGET ...",
        "Computed steps (11), time ratio (2.5x) or least PSNR (50dB); several give several plans. Needed.",
    ),
    flag(
        "--refine",
        ("none", "swaps", "gradient"),
        "What is refined on real runs: nothing, which steps compute, or the weights, too (fp32 only).",
        shown="gradient",
    ),
    flag(
        "--prompts",
        "FILE",
        "File with one prompt a line, or a built-in list: images, videos, edits, emoji. [by the model]",
    ),
    flag("--fit", whole(1, 1000), "Prompts to fit.", shown=12),
    flag("--held-out", whole(1, 1000), "Other prompts, on which the plan is checked.", shown=12),
    flag(
        "--front",
        whole(0),
        "First blocks that always run; of several numbers the best is kept.  [default: 0]",
        many=True,
    ),
    flag("--back", whole(0), "Last blocks that always run, likewise.  [default: 0]", many=True),
    flag(
        "--depth",
        whole(1, 8),
        "Computed steps that a skipped one looks back to; each is a residual in memory.",
        shown=3,
    ),
)
OUTPUT = group(
    "Output",
    flag(
        "--output",
        "FILE",
        "File of the plan; of several budgets each has a file with its number of computed steps.",
        shown="plan.yaml",
    ),
    flag(
        "--recording",
        "FOLDER",
        "Where recordings are kept: another budget, or a run that was interrupted, starts from them. [beside the plan]",
    ),
    flag("--plot", "FILE", "Draw PSNR against computed steps into a PNG."),
)
TUNE_FLAGS: tuple[Flag, ...] = (*PLAN, *OUTPUT, *of_run("--num-inference-steps"))
"""All of them, in the order of the help text."""
