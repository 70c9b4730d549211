"""What `--plot` writes: a finished sample beside the one without a cache, and the curve of tuned plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pure.cli.made import Made
from pure.engine.comparing import panels
from pure.engine.plotting import INK, Heading, bare, draw, png
from pure.engine.writing import write_whole

if TYPE_CHECKING:
    from pure.engine.tuning import TunedPlan

__all__ = ["write_curve", "write_plot"]


def write_plot(path: Path, made: Made, threshold: float | None, recipe: str) -> None:
    """Draw and write the plot of one image that has a run without a cache beside it.

    Args:
        path: a PNG.
        made: with `plain` and `comparison`.
        threshold: of the cache, drawn as a line; None where nothing is measured.
        recipe: the cache in words, printed small.
    """
    result, plain, found = made.result, made.plain, made.comparison
    assert plain is not None and found is not None
    numbers = (
        f"{plain.seconds:.2f} s without cache, {result.seconds:.2f} s with: {found.ratio:.2f}x   |   "
        f"{found.line}   |   seed {result.sample.seed}"
    )
    heading = Heading(title=f"“{result.sample.prompt}”", numbers=numbers, small=recipe)
    pictures = panels(plain.frames, result.frames, found.frame)
    write_whole(path, png(draw(result.infos, threshold, pictures, heading)))


def write_curve(path: Path, plans: Sequence[TunedPlan], others: Sequence[TunedPlan]) -> None:
    """Draw and write the PSNR of tuned plans against their computed steps.

    Args:
        path: a PNG.
        plans: refined, drawn large.
        others: of the same recording, not refined; drawn as a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 4.8), dpi=130, facecolor="white")
    ax = figure.add_subplot()
    made = [plan.made_for for plan in sorted(others, key=lambda plan: plan.made_for.computed or 0)]
    best = [plan.made_for for plan in plans]
    for name, style, label in (("psnr", "o-", "mean"), ("worst_psnr", "s--", "worst tenth")):
        strong = "#1f6f9f" if name == "psnr" else "#c1121f"
        x, y = [one.computed or 0 for one in made], [getattr(one, name) for one in made]
        ax.plot(x, y, style, color=strong, alpha=0.45, markersize=4, linewidth=1.2, label=f"{label}, not refined")
        x, y = [one.computed or 0 for one in best], [getattr(one, name) for one in best]
        ax.plot(x, y, style[0], color=strong, markersize=9, markeredgecolor=INK, label=f"{label}, refined")
    steps, prompts = best[0].steps or 0, best[0].prompts
    ax.set_xlim(0, steps + 0.5)
    ax.set_xlabel(f"computed steps of {steps}", fontsize=9, color=INK)
    ax.set_ylabel(f"PSNR against no cache,\n{prompts} held-out prompts, dB", fontsize=9, color=INK)
    bare(ax)
    ax.grid(color="#eceef1", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    write_whole(path, png(figure, bbox_inches="tight"))
