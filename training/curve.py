"""Draw the denoiser's loss curve.

Run ``python -m training.curve --work DIR --out docs/emoji-loss.png``.
"""

from matplotlib.figure import Figure

from training import command, denoiser
from training.budget import checkpoint


def main() -> None:
    """Read the command line and draw."""
    options = command.read(__doc__, "work", "out")
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
