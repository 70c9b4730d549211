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
        "Computed steps (11), time ratio (2.5x) or least PSNR (50dB); several give several plans. Required.",
    ),
    flag(
        "--refine",
        ("none", "swaps", "gradient"),
        "What is refined on real runs: nothing, which steps compute (swaps), or the weights, too (fp32 only).",
        shown="gradient",
    ),
    flag(
        "--prompts",
        "FILE",
        "File with one prompt a line, or a built-in list: images, videos, edits, emoji. [the one for the model]",
    ),
    flag("--fit", whole(1, 1000), "Number of prompts that the plan is fitted to.", shown=12),
    flag("--held-out", whole(1, 1000), "Number of other prompts, on which it is checked.", shown=12),
    flag(
        "--front",
        whole(0),
        "Number of first blocks that always run; of several numbers the best is kept.  [default: 0]",
        many=True,
    ),
    flag("--back", whole(0), "Number of last blocks that always run, likewise.  [default: 0]", many=True),
    flag(
        "--depth",
        whole(1, 8),
        "Computed steps that a skipped one is predicted from; each keeps a residual in memory.",
        shown=3,
    ),
)
OUTPUT = group(
    "Output",
    flag(
        "--output",
        "FILE",
        "File of the plan; with several budgets, the number of computed steps is added to each name.",
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
