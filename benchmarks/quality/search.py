"""Search: for every contestant the same number of trials on the same pictures.

A trial is one setting on all of them. The first trials are the settings that its users are given, then come random
ones, and from the half on neighbours of the best so far, of one budget after the other. Every trial counts for every
budget.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

if TYPE_CHECKING:
    from benchmarks.quality.methods import Method

Setting = Mapping[str, Any]
BUDGETS = (18, 15, 11, 8)
Judge = Callable[[Setting], tuple[float, float, float]]
"""Of a setting the mean PSNR to the pictures without a cache and to the converged ones, and the mean computed steps."""


@attrs.frozen(kw_only=True)
class Trial:
    """A setting that was tried.

    Attributes:
        setting: of the method.
        psnr: mean over the tuning pictures, to those without a cache.
        converged: the same, to the converged ones.
        computed: mean number of computed steps.
    """

    setting: Setting
    psnr: float
    converged: float
    computed: float


def search(method: Method, count: int, judge: Judge, folder: Path) -> list[Trial]:
    """Return `count` trials; what is in the folder already is not run again."""
    draw = random.Random(f"{method.name}")
    found: list[Trial] = []
    for number in range(count):
        setting = _next(method, found, number, count, draw)
        path = folder / f"trial-{key_of(method, setting)}.json"
        if not path.exists():
            path.write_text(json.dumps(judge(setting)))
        psnr, converged, computed = json.loads(path.read_text())
        found.append(Trial(setting=setting, psnr=psnr, converged=converged, computed=computed))
    return found


def key_of(method: Method, setting: Setting) -> str:
    """Return a name for files of a method's setting."""
    text = json.dumps([method.name, dict(setting)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _next(method: Method, found: Sequence[Trial], number: int, count: int, draw: random.Random) -> Setting:
    """Return a setting that was not tried, if a few draws find one."""
    tried = [dict(trial.setting) for trial in found]
    if number < min(len(method.first), count):
        return method.first[number]
    setting: Setting = {}
    for attempt in range(100):  # where all neighbours were tried, any other
        base = best(found, BUDGETS[number % len(BUDGETS)]) if number >= count // 2 and attempt < 50 else None
        setting = _drawn(method.knobs, draw) if base is None else _neighbour(method.knobs, base.setting, draw)
        if dict(setting) not in tried:
            break
    return setting


def _drawn(knobs: Mapping[str, Sequence[Any]], draw: random.Random) -> Setting:
    return {name: draw.choice(values) for name, values in knobs.items()}


def _neighbour(knobs: Mapping[str, Sequence[Any]], setting: Setting, draw: random.Random) -> Setting:
    """Return a setting with one or two values moved by up to three places; of masks and kinds any other."""
    found = dict(setting)
    movable = [name for name, values in knobs.items() if len(values) > 1]
    for name in draw.sample(movable, min(len(movable), draw.choice((1, 1, 2)))):
        values = knobs[name]
        if name == "mask" or any(isinstance(value, str) for value in values):
            found[name] = draw.choice(values)
            continue
        at = values.index(found[name]) if found[name] in values else _nearest(values, found[name])
        found[name] = values[min(len(values) - 1, max(0, at + draw.choice((-3, -2, -1, 1, 2, 3))))]
    return found


def _nearest(values: Sequence[Any], value: float) -> int:
    return int(np.argmin([abs(other - value) for other in values if other is not None]))


def best(
    trials: Sequence[Trial], most: float, cost: Callable[[Trial], float] | None = None, to: str = "psnr"
) -> Trial | None:
    """Return the trial that comes nearest of those that cost at most so much; None: there are none.

    Args:
        trials: of one method.
        most: computed steps on average, or what `cost` counts.
        cost: of a trial; None: its computed steps.
        to: "psnr" for the pictures without a cache, "converged" for those.
    """
    fits = [trial for trial in trials if (trial.computed if cost is None else cost(trial)) <= most + 1e-9]
    return max(fits, key=lambda trial: getattr(trial, to), default=None)
