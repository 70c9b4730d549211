"""The report as plain numbers, and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.table import markdown

Numbers = Mapping[str, Any]
SHORT = {"psnr": "PSNR, dB", "worst": "worst tenth, dB", "ssim": "SSIM"}


def spread(row: Numbers) -> str:
    """Return a PSNR with its interval."""
    return f"{row['psnr']:.1f} ({row['low']:.1f} to {row['high']:.1f})"


def tables(report: Numbers) -> str:
    """Return the whole report as Markdown."""
    size = report["size"]
    seeds = "one seed" if size["seeds"] == 1 else f"{size['seeds']} seeds"
    parts = [
        f"{size['prompts']} held-out prompts with {seeds} each; {size['trials']} trials of every peer.",
        "### By computed steps",
        *(_by_steps(most, report) for most in report["steps"]),
        _gains(report),
        f"A picture's mean PSNR over all rows and that of its 28 steps without a cache to the converged picture have a "
        f"correlation of {report['sensitivity']:.2f}.",
    ]
    if report["time"]:
        parts += ["### By time", *(_by_time(most, report) for most in report["time"])]
    if report["converged"]:
        parts += ["### To the converged picture", _converged(report)]
    if report["fewer"]:
        parts += ["### How few steps are as good", _fewer(report)]
    return "\n\n".join([*parts, "### Settings found", _settings(report)])


def _by_steps(most: str, report: Numbers) -> str:
    rows = [
        (
            row["method"],
            f"{row['computed']:.1f}",
            spread(row),
            f"{row['worst']:.1f}",
            f"{row['ssim']:.4f}",
            *((f"{row['recognised']:.1f}",) if "recognised" in row else ()),
        )
        for row in report["steps"][most]
    ]
    known = ("recognised, %",) if "recognised" in report["steps"][most][0] else ()
    return markdown((f"at most {most} computed steps", "computed", *SHORT.values(), *known), rows)


def _gains(report: Numbers) -> str:
    rows = [
        (most, found["peer"], f"{found['gain']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})")
        for most, found in report["gains"].items()
    ]
    return markdown(("computed steps", "best peer", "what the tuned plan is nearer, dB"), rows)


def _by_time(most: str, report: Numbers) -> str:
    rows = [
        (row["method"], f"{row['computed']:.1f}", f"{row['time']:.3f}", spread(row), f"{row['worst']:.1f}")
        for row in report["time"][most]
    ]
    head = (f"in the time of {most} computed steps", "computed", "time / no cache", SHORT["psnr"], SHORT["worst"])
    return markdown(head, rows)


def _converged(report: Numbers) -> str:
    names = dict.fromkeys(row["method"] for rows in report["converged"].values() for row in rows)
    whole = report["whole"]
    lines = [("no cache, 28 steps", *[f"{whole:.1f}"] * len(report["converged"]))]
    for name in names:
        own = [next((r for r in rows if r["method"] == name), None) for rows in report["converged"].values()]
        lines.append((name, *("" if row is None else f"{row['converged']:.1f}" for row in own)))
    return markdown(("PSNR to the converged picture, dB", *report["converged"]), lines)


def _fewer(report: Numbers) -> str:
    rows = [
        (most, f"{found['peer']}: {found['theirs']:.1f}", found["computed"], f"{found['ours']:.1f}")
        for most, found in report["fewer"].items()
    ]
    return markdown(("computed steps", "best peer, dB", "steps of a tuned plan", "dB"), rows)


def _settings(report: Numbers) -> str:
    rows = [
        (most, row["method"], ", ".join(f"{name} {_short(value)}" for name, value in row["setting"].items()))
        for most, several in report["steps"].items()
        for row in several
    ]
    return markdown(("computed steps", "", "setting"), rows)


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def listed(rows: Mapping[int, Sequence[Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return rows as plain numbers."""
    return {str(most): [row.plain() for row in several] for most, several in rows.items()}
