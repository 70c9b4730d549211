"""A drawing of a run: pictures with and without a cache, and why every step was computed or skipped."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from pure import Decision, Info

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FAINT", "INK", "Heading", "bare", "draw", "png"]

Panel = tuple[str, np.ndarray]

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


@attrs.frozen(kw_only=True)
class Heading:
    """The three lines above the drawing; the last one is small."""

    title: str = ""
    numbers: str = ""
    small: str = ""


def draw(infos: Sequence[Info], threshold: float | None, pictures: Sequence[Panel], heading: Heading) -> Figure:
    """Draw the decisions of one sample, the changes where some were measured, and above them pictures if there are any.

    Args:
        infos: one per step, of one sample: a decision for each branch.
        threshold: of the cache, drawn as a line; None where nothing is measured.
        pictures: none, or three with their titles.
        heading: above all.
    """
    from matplotlib.figure import Figure

    measured = bool(_finite_changes(infos)) or (threshold is not None and threshold < 1)
    heights = [*[3.4] * bool(pictures), *[1.9] * measured, 0.32 * len(_rows(infos)) + 0.25]
    above, below = 1.35 if heading != Heading() else 0.3, 1.17
    tall = above + below + 1.1 * sum(heights)
    figure = Figure(figsize=(11.5, tall), dpi=130, facecolor="white")
    grid = figure.add_gridspec(
        len(heights), 3, height_ratios=heights, left=0.09, right=0.97, top=1 - above / tall, bottom=below / tall,
        hspace=0.22, wspace=0.08,
    )  # fmt: skip
    _head(figure, heading, tall)
    if pictures:
        _images([figure.add_subplot(grid[0, column]) for column in range(3)], pictures)
    _timeline(figure.add_subplot(grid[-1, :]), infos)
    if measured:
        _changes(figure.add_subplot(grid[-2, :]), infos, threshold)
    _legend(figure, infos)
    return figure


def png(figure: Figure, **options: Any) -> bytes:
    """Return a figure as the bytes of a PNG."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", **options)
    return drawn.getvalue()


def _head(figure: Figure, heading: Heading, tall: float) -> None:
    title = textwrap.shorten(heading.title, 97, placeholder=" …")
    figure.text(0.09, 1 - 0.4 / tall, title, fontsize=15, weight="bold", color=INK, va="center", parse_math=False)
    figure.text(0.09, 1 - 0.69 / tall, heading.numbers, fontsize=11, color=INK, va="center", parse_math=False)
    small = textwrap.shorten(heading.small, 170, placeholder=" …")
    figure.text(
        0.09, 1 - 0.91 / tall, small, fontsize=7.5, color=FAINT, va="center", family="monospace", parse_math=False
    )


def _images(axes: Sequence[Axes], pictures: Sequence[Panel]) -> None:
    for ax, (name, pixels) in zip(axes, pictures, strict=True):
        ax.imshow(pixels, interpolation="nearest")
        ax.set_title(name, fontsize=11, color=INK)
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_color(FAINT)


def _rows(infos: Sequence[Info]) -> dict[str, list[tuple[int, Decision]]]:
    rows: dict[str, list[tuple[int, Decision]]] = {}
    for position, info in enumerate(infos):
        for decision in info.decisions:
            rows.setdefault(decision.branch, []).append((position, decision))
    return rows


def _changes(ax: Axes, infos: Sequence[Info], threshold: float | None) -> None:
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


def _frame_changes(ax: Axes, infos: Sequence[Info], threshold: float | None) -> None:
    ax.set_xlim(-0.7, len(infos) - 0.3)
    top = max([threshold if threshold is not None and threshold < 1 else 0.0, *_finite_changes(infos)], default=0)
    ax.set_ylim(0, top * 1.22 or 1)
    ax.set_ylabel("relative change of the\nfront residual", fontsize=9, color=INK)
    bare(ax)
    ax.grid(axis="y", color="#eceef1", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelbottom=False)


def _finite_changes(infos: Sequence[Info]) -> list[float]:
    return [c for info in infos for c in info.changes if c is not None and math.isfinite(c)]


def _timeline(ax: Axes, infos: Sequence[Info]) -> None:
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
    bare(ax)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def bare(ax: Axes) -> None:
    """Leave out what frames an axis, but for two thin lines."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.tick_params(colors=INK, labelsize=8.5, length=3)


def _legend(figure: Figure, infos: Sequence[Info]) -> None:
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
