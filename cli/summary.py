"""The table at the end: what was computed and skipped, why, and what it brought."""

import functools
import math
import operator
from collections import Counter
from collections.abc import Sequence

from pure.cli.made import Made
from pure.engine.weights import ComponentWeights, described
from pure.statistics import Tally, quantiles

__all__ = ["never_skipped", "summary"]


def summary(
    made: Sequence[Made], threshold: float | None = None, weights: Sequence[ComponentWeights] = ()
) -> list[tuple[str, str]]:
    """Return the rows of the table, added up over all images; of several processes also who holds what."""
    rows = []
    branches = _merge([entry.result.branches for entry in made])
    for name, counts in branches.items():
        remark = f" ({name})" if len(branches) > 1 else ""
        rows += _steps(counts, remark, threshold)
    rows += _times(made)
    total: Tally = functools.reduce(operator.add, branches.values())
    rows.append(("speed-up limit of the plan", f"{total.limit:.2f}x (all blocks / blocks run)"))
    rows += _comparison(made)
    if any(each.held < each.loaded for each in weights):
        rows.append(("weights of process 0", described(weights)))
    return rows


def _merge(runs: Sequence[dict[str, Tally]]) -> dict[str, Tally]:
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: functools.reduce(operator.add, (run[name] for run in runs if name in run)) for name in names}


def _steps(counts: Tally, remark: str, threshold: float | None) -> list[tuple[str, str]]:
    rows = [
        (f"steps computed{remark}", f"{len(counts.computed)} of {counts.steps}{_because(counts.computed_because)}"),
        (f"steps skipped{remark}", f"{len(counts.skipped)} of {counts.steps}{_because(counts.skipped_because)}"),
        (f"blocks run{remark}", f"{counts.blocks_run} of {counts.blocks}"),
    ]
    finite = [change for change in counts.changes if math.isfinite(change)]
    others = len(counts.changes) - len(finite)  # of residuals that were zero, or of a model that returns NaN
    found = quantiles(finite)
    if found is not None:
        words = zip(("least", "25 %", "median", "75 %", "most"), found, strict=True)
        text = ", ".join(f"{word} {value:.3f}" for word, value in words)
        text += f", and {others} not finite" if others else ""
        aim = f"; threshold {threshold:g}" if threshold is not None else ""
        rows.append((f"measured change{remark}", f"{text}{aim}"))
    return rows


def _because(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return f" ({listed})" if listed else ""


def _times(made: Sequence[Made]) -> list[tuple[str, str]]:
    loop = sum(entry.result.seconds for entry in made)
    total = sum(entry.result.total_seconds for entry in made)
    images = f", {len(made)} images" if len(made) > 1 else ""
    return [("seconds", f"{loop:.2f} denoising, {total:.2f} with text and decoding{images}")]


def _comparison(made: Sequence[Made]) -> list[tuple[str, str]]:
    pairs = [(entry.plain, entry.comparison) for entry in made if entry.plain and entry.comparison]
    if not pairs:
        return []
    plain = sum(before.seconds for before, _ in pairs)
    cached = sum(entry.result.seconds for entry in made)
    psnr = [f"{found.psnr:.2f} dB" for _, found in pairs]
    ssim = [f"{found.ssim:.4f}" for _, found in pairs]
    return [
        ("seconds without cache", f"{plain:.2f} denoising"),
        ("time ratio", f"{plain / cached:.2f}x"),
        ("PSNR", ", ".join(psnr).replace("inf dB", "infinite: the images are equal")),
        ("SSIM", ", ".join(ssim)),
    ]


def never_skipped(made: Sequence[Made]) -> bool:
    """Whether no step of any image was skipped."""
    return not any(counts.skipped for entry in made for counts in entry.result.branches.values())
