"""One PNG that shows both images, their difference, and why every step was computed or skipped."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pure import Decision, Info
from pure.cli.comparing import Made
from pure.engine.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pure.engine.tuning import TunedPlan

__all__ = ["write_curve", "write_plot"]

INK, FAINT = "#22252a", "#9aa0a8"
COMPUTED = {
    "first step": "#0b3c5d",
    "warm-up": "#1f6f9f",
    "mask": "#4aa3c7",
    "continuous limit": "#7a5195",
    "total limit": "#a05195",
    "accumulated limit": "#5b6abf",
    "threshold": "#2a9d8f",
    "default": "#6c757d",
}
SKIPPED = {"threshold": "#f4a261", "mask": "#f6d186"}


def colour(decision: Decision) -> str:
    """Return the colour of a decision: cool where computed, warm where skipped."""
    return COMPUTED.get(decision.reason, "#6c757d") if decision.computed else SKIPPED.get(decision.reason, "#e9c46a")


def amplification(difference: np.ndarray) -> int:
    """Return the power of two, 1 to 64, that makes the largest differences just visible.

    >>> amplification(np.full((2, 2, 3), 0.1))
    8
    """
    largest = float(np.quantile(difference, 0.999))
    return 1 if largest <= 0 else int(min(64, max(1, 2 ** math.floor(math.log2(1 / largest)))))


def write_plot(path: Path, made: Made, threshold: float | None, recipe: str) -> None:
    """Draw and write the plot of one image that has a run without a cache beside it.

    Args:
        path: a PNG.
        made: with `plain` and `comparison`.
        threshold: of the cache, drawn as a line; None where nothing is measured.
        recipe: the cache in words, printed small.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    infos, decisions = made.result.infos, 0.32 * len(made.result.branches) + 0.25
    measured = bool(_finite_changes(infos)) or (threshold is not None and threshold < 1)
    heights = [3.4, 1.9, decisions] if measured else [3.4, decisions]
    figure = Figure(figsize=(11.5, 8.8 if measured else 6.9), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(heights), 3, height_ratios=heights,
        left=0.09, right=0.97, top=0.845, bottom=0.135 if measured else 0.17, hspace=0.22, wspace=0.08,
    )  # fmt: skip
    _title(figure, made, recipe)
    _images([figure.add_subplot(grid[0, column]) for column in range(3)], made)
    _timeline(figure.add_subplot(grid[-1, :]), infos)
    if measured:
        _changes(figure.add_subplot(grid[1, :]), infos, threshold)
    _legend(figure, made.result.infos)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_whole(path, drawn.getvalue())


def _title(figure: Figure, made: Made, recipe: str) -> None:
    assert made.plain is not None and made.comparison is not None
    found = made.comparison
    psnr = "images equal" if math.isinf(found.psnr) else f"PSNR {found.psnr:.1f} dB"
    numbers = (
        f"{made.plain.seconds:.2f} s without cache, {made.result.seconds:.2f} s with: {found.ratio:.2f}x   |   "
        f"{psnr}   |   SSIM {found.ssim:.3f}   |   seed {made.result.sample.seed}"
    )
    prompt = textwrap.shorten(made.result.sample.prompt, 95, placeholder=" …")
    figure.text(0.09, 0.955, f"“{prompt}”", fontsize=15, weight="bold", color=INK, va="center", parse_math=False)
    figure.text(0.09, 0.922, numbers, fontsize=11, color=INK, va="center")
    small = textwrap.shorten(recipe, 170, placeholder=" …")
    figure.text(0.09, 0.897, small, fontsize=7.5, color=FAINT, va="center", family="monospace", parse_math=False)


def panels(made: Made) -> list[tuple[str, np.ndarray]]:
    """Return title and pixels of the three pictures; of a video the frame where the two differ most."""
    assert made.plain is not None and made.comparison is not None
    at, count = made.comparison.frame, len(made.result.frames)
    where = f", frame {at + 1} of {count}" if count > 1 else ""
    plain, cached = made.plain.frames[at], made.result.frames[at]
    difference = np.abs(plain - cached)
    factor = amplification(difference)
    named = "largest difference" if where else "difference"
    return [
        (f"without cache{where}", plain),
        (f"with cache{where}", cached),
        (f"{named}, amplified {factor}x" if factor > 1 else named, np.clip(difference * factor, 0, 1)),
    ]


def _images(axes: list[Axes], made: Made) -> None:
    for ax, (name, pixels) in zip(axes, panels(made), strict=True):
        ax.imshow(pixels, interpolation="nearest")
        ax.set_title(name, fontsize=11, color=INK)
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_color(FAINT)


def _rows(infos: tuple[Info, ...]) -> dict[str, list[tuple[int, Decision]]]:
    rows: dict[str, list[tuple[int, Decision]]] = {}
    for position, info in enumerate(infos):
        for decision in info.decisions:
            rows.setdefault(decision.branch, []).append((position, decision))
    return rows


def _changes(ax: Axes, infos: tuple[Info, ...], threshold: float | None) -> None:
    """Draw the measured change of every step against the threshold."""
    rows = _rows(infos)
    for number, decisions in enumerate(rows.values()):
        measured = [(at, d, d.change) for at, d in decisions if d.change is not None and math.isfinite(d.change)]
        # Branches often measure the same: side by side, none hides the other.
        shift = 0.0 if len(rows) == 1 else 0.36 * number / (len(rows) - 1) - 0.18
        steps, changes = [at + shift for at, _, _ in measured], [change for _, _, change in measured]
        ax.vlines(steps, 0, changes, color="#d5d9de", linewidth=1.2, zorder=1)
        ax.scatter(
            steps, changes, c=[colour(decision) for _, decision, _ in measured],
            s=52 if len(rows) == 1 else 34, marker="os"[number % 2], edgecolors=INK, linewidths=0.6, zorder=3,
        )  # fmt: skip
    if threshold is not None and 0 < threshold < 1:
        ax.axhline(threshold, color="#c1121f", linewidth=1.3, linestyle="--", zorder=2)
        ax.annotate(
            f"threshold {threshold:g}", (0.006, threshold), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", ha="left", va="bottom", fontsize=8.5, color="#c1121f",
        )  # fmt: skip
    if not _finite_changes(infos):
        ax.text(0.5, 0.5, "no change was measured", transform=ax.transAxes, ha="center", color=FAINT)
    if len(rows) > 1:
        words = ", ".join(f"{mark} {name}" for mark, name in zip("○□", rows, strict=False))
        ax.text(0.995, 0.97, words, transform=ax.transAxes, ha="right", va="top", fontsize=8.5, color=INK)
    _frame_changes(ax, infos, threshold)


def _frame_changes(ax: Axes, infos: tuple[Info, ...], threshold: float | None) -> None:
    ax.set_xlim(-0.7, len(infos) - 0.3)
    top = max([threshold if threshold is not None and threshold < 1 else 0.0, *_finite_changes(infos)], default=0)
    ax.set_ylim(0, top * 1.22 or 1)
    ax.set_ylabel("relative change of the\nfront residual", fontsize=9, color=INK)
    _bare(ax)
    ax.grid(axis="y", color="#eceef1", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelbottom=False)


def _finite_changes(infos: tuple[Info, ...]) -> list[float]:
    return [c for info in infos for c in info.changes if c is not None and math.isfinite(c)]


def _timeline(ax: Axes, infos: tuple[Info, ...]) -> None:
    """Draw a square for every step, a row for every branch, coloured by the reason."""
    rows = _rows(infos)
    for height, (_, decisions) in enumerate(rows.items()):
        for at, decision in decisions:
            ax.bar(
                at, 0.82, width=0.86, bottom=height + 0.09, color=colour(decision),
                hatch=None if decision.computed else "////", edgecolor="white", linewidth=0,
            )  # fmt: skip
    ax.set_xlim(-0.7, len(infos) - 0.3)
    ax.set_ylim(len(rows), 0)
    ax.set_yticks([0.5 + height for height in range(len(rows))], list(rows) if len(rows) > 1 else ["decision"])
    every = max(1, math.ceil(len(infos) / 30))
    ax.set_xticks(range(0, len(infos), every))
    ax.set_xlabel("step", fontsize=9, color=INK)
    _bare(ax)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _bare(ax: Axes) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.tick_params(colors=INK, labelsize=8.5, length=3)


def _legend(figure: Figure, infos: tuple[Info, ...]) -> None:
    from matplotlib.patches import Patch

    found: dict[tuple[bool, str], int] = {}
    examples: dict[tuple[bool, str], Decision] = {}
    for decision in (decision for info in infos for decision in info.decisions):
        key = (decision.computed, decision.reason)
        found[key] = found.get(key, 0) + 1
        examples.setdefault(key, decision)
    handles: list[Any] = [
        Patch(
            facecolor=colour(examples[key]), edgecolor="white", linewidth=0, hatch=None if key[0] else "////",
            label=f"{'computed' if key[0] else 'skipped'}: {key[1]} ({found[key]})",
        )
        for key in sorted(found, key=lambda key: (not key[0], key[1]))
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.52, 0.015), ncols=min(4, len(handles)), frameon=False,
        fontsize=9, handlelength=1.4, labelcolor=INK,
    )  # fmt: skip


def write_curve(path: Path, plans: Sequence[TunedPlan], others: Sequence[TunedPlan]) -> None:
    """Draw and write the PSNR of tuned plans against their computed steps.

    Args:
        path: a PNG.
        plans: refined, drawn large.
        others: of the same recording, not refined; drawn as a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 4.8), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
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
    _bare(ax)
    ax.grid(color="#eceef1", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    write_whole(path, drawn.getvalue())
