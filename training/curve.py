"""Draw the denoiser's loss curve.

Run ``python -m training.curve --work DIR --out docs/emoji-loss.png``.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from training import denoiser
from training.budget import checkpoint


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    steps, seconds, losses = zip(*checkpoint(options.work / denoiser.CHECKPOINT)["curve"], strict=True)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, linewidth=1)
    axes.set(xlabel="step", ylabel="flow-matching loss", yscale="log")
    axes.set_title(f"{steps[-1]} steps, {seconds[-1] / 60:.0f} minutes", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
