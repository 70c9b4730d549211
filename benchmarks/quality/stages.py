"""The stages of the benchmark: search, rows by computed steps, by time, and by the distance to convergence."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

import pure
from benchmarks.quality import peers
from benchmarks.quality.measure import interval, psnr
from benchmarks.quality.methods import Method, Setting, contestants, ours
from benchmarks.quality.rows import Bench, Row, apart, first, judge, timed
from benchmarks.quality.samples import (
    STEPS,
    TEST_SEEDS,
    TUNING_SEED,
    Batch,
    batches,
    held_out_pairs,
    tuning_prompts,
)
from benchmarks.quality.search import BUDGETS, Trial, best, search
from pure.engine.tuned import fingerprint
from pure.models import Pipeline, embedded, load_pipeline

Say = Callable[[str], None]
ROUNDS = 5
SLACK = 1.02
"""How much longer a peer may take than what it is compared with: times are estimated before they are measured."""

CLOSE = 1e-3
"""How far latents may be apart where our equal of a peer is checked with the peer's own library."""


@attrs.frozen(kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        tuning: pictures that settings are searched with.
        trials: of every contestant.
        prompts: that rows are made of, each with `seeds` seeds.
        seeds: of every prompt.
    """

    tuning: int = 8
    trials: int = 40
    prompts: int = 64
    seeds: int = 2


QUICK = Size(tuning=2, trials=5, prompts=2, seeds=1)


@attrs.frozen(kw_only=True, eq=False)
class Field:
    """Everything that is compared, searched.

    Attributes:
        size: how much was measured.
        methods: by name, ours first.
        trials: of those that are searched, by name.
        bench: to make rows with.
        single: one picture, to measure times with.
        theirs: the peers' libraries.
    """

    size: Size
    methods: Mapping[str, Method]
    trials: Mapping[str, Sequence[Trial]]
    bench: Bench
    single: Batch
    theirs: peers.Peers

    def setting(self, name: str, most: float) -> Setting | None:
        """Return a contestant's setting of at most so many computed steps; None: it has none."""
        method = self.methods[name]
        if method.budgets:
            return method.budgets[max(count for count in method.budgets if count <= most)]
        trial = best(self.trials[name], most)
        return None if trial is None else trial.setting

    def row(self, name: str, setting: Setting) -> Row:
        """Return a row."""
        return self.bench.row(self.methods[name], setting)


def prepare(size: Size, work: Path, say: Say) -> Field:
    """Load the checkpoint, make the pictures that others are held against, and search."""
    folder = embedded()
    pipeline = load_pipeline(folder)
    work = work / f"{fingerprint(pipeline)}-{size.tuning}-{size.prompts}"
    work.mkdir(parents=True, exist_ok=True)
    say(f"results are kept in {work}")
    texts = tuning_prompts(size.tuning)
    seeds = [TUNING_SEED + number for number in range(size.tuning)]
    (tuning,) = batches(pipeline, texts, seeds, work, "tuning")
    methods = {method.name: method for method in contestants(pipeline, folder, tuning)}
    trials = {}
    for name, method in methods.items():
        if not method.budgets:
            say(f"searching {name}, {size.trials} trials")
            trials[name] = search(method, size.trials, _judged(pipeline, method, tuning), work)
    prompts = [pair.prompt for pair in held_out_pairs(size.prompts)]
    several = [(prompt, seed) for seed in TEST_SEEDS[: size.seeds] for prompt in prompts]
    made = list(batches(pipeline, [p for p, _ in several], _seeds(several), work, "test"))
    bench = Bench(pipeline=pipeline, batches=made, folder=work)
    theirs = peers.Peers(str(folder))
    return Field(size=size, methods=methods, trials=trials, bench=bench, single=first(made[0]), theirs=theirs)


def _judged(pipeline: Pipeline, method: Method, tuning: Batch) -> Callable[[Setting], tuple[float, float, float]]:
    return lambda setting: judge(pipeline, method, tuning, setting)


def _seeds(several: Sequence[tuple[str, int]]) -> list[int]:
    """Return the seed of each prompt's noise: no two pictures have the same."""
    return [1_000_000 * seed + number for number, (_, seed) in enumerate(several)]


def by_steps(field: Field, say: Say) -> dict[int, list[Row]]:
    """Return the rows of every number of computed steps, ours first."""
    found: dict[int, list[Row]] = {}
    for most in BUDGETS:
        found[most] = []
        for name in field.methods:
            setting = field.setting(name, most)
            if setting is not None:
                say(f"{most} computed steps: {name}")
                found[most].append(field.row(name, setting))
    return found


def checked(field: Field, rows: Mapping[int, Sequence[Row]]) -> dict[str, float]:
    """Return how far our equals of peers are from the peers' own libraries, over their settings in some rows.

    Raises:
        AssertionError: further than rounding explains.
    """
    found: dict[str, float] = {}
    for row in (row for several in rows.values() for row in several):
        method = field.methods[row.method]
        if method.equal:
            off = apart(field.theirs, method, row.setting, field.single)
            found[row.method] = max(found.get(row.method, 0.0), off)
    assert all(difference < CLOSE for difference in found.values()), f"not what the peers make: {found}"
    return found


def gain(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how much nearer the first row comes than the best of the others, with its interval."""
    mine, *others = rows
    nearest = max(others, key=lambda row: row.mean("psnr"))
    both = zip(mine.values["psnr"], nearest.values["psnr"], strict=True)
    off = [one - other for one, other in both]
    low, high = interval(off, mine.prompts)
    return {"peer": nearest.method, "gain": float(np.mean(off)), "low": low, "high": high}


# ------------------------------------------------------------------------------ times


def times(field: Field, rows: Sequence[Row]) -> dict[str, float]:
    """Return the seconds of one picture for every row, and of those without a cache, each by its own library."""
    pipeline, one = field.bench.pipeline, field.single
    runs: dict[str, Any] = {
        "puredit": lambda: ours(pipeline, pure.identity, one),
        "diffusers": functools.partial(peers.call, field.theirs.ready(peers.nothing, {}), one),
    }
    for row in rows:
        method = field.methods[row.method]
        if method.enable is None:
            runs[label(row)] = functools.partial(method.run, row.setting, one)
        else:
            runs[label(row)] = functools.partial(peers.call, field.theirs.ready(method.enable, row.setting), one)
    return timed(runs, ROUNDS if field.size.trials > QUICK.trials else 1)


def label(row: Row) -> str:
    """Return a name for a row."""
    return f"{row.method} {dict(row.setting)}"


def by_time(field: Field, steps: Mapping[int, Sequence[Row]], seconds: Mapping[str, float], say: Say) -> dict[int, Any]:
    """Return for the time of each of our plans what peers do in it, ours first: the best cache of every library."""
    whole = seconds["puredit"] / STEPS
    brief = {name: _skip(name, steps, seconds, whole) for name in field.trials}
    found: dict[int, Any] = {}
    for most, rows in steps.items():
        limit = SLACK * seconds[label(rows[0])]
        found[most], nearest = [rows[0]], dict[str, tuple[float, str, Setting]]()
        for name, trials in field.trials.items():
            trial = best(trials, limit, lambda one, name=name: _estimated(one, whole, brief[name]))
            library = name if "steps" in trials[0].setting else name.partition(",")[0]
            if trial is not None:
                nearest[library] = max(
                    nearest.get(library, (0.0, "", {})), (trial.psnr, name, trial.setting), key=_first
                )
        for _, name, setting in nearest.values():
            say(f"the time of {most} computed steps: {name}")
            found[most].append(field.row(name, setting))
    return found


def _first(found: tuple[float, str, Setting]) -> float:
    return found[0]


def _skip(name: str, steps: Mapping[int, Sequence[Row]], seconds: Mapping[str, float], whole: float) -> float | None:
    """Return the seconds of a skipped step of a contestant; None: it has none."""
    rows = [row for several in steps.values() for row in several if row.method == name]
    if not rows or "steps" in rows[0].setting:
        return None
    costs = [(seconds[label(row)] - row.mean("computed") * whole) / (STEPS - row.mean("computed")) for row in rows]
    return max(0.0, float(np.median(costs)))


def _estimated(trial: Trial, whole: float, brief: float | None) -> float:
    return trial.computed * whole + (0.0 if brief is None else (STEPS - trial.computed) * brief)


# ------------------------------------------------------------------------------ convergence


def by_convergence(field: Field, steps: Mapping[int, Sequence[Row]], say: Say) -> dict[int, list[Row]]:
    """Return rows by computed steps, with the settings of solvers that come nearest to the converged pictures."""
    found: dict[int, list[Row]] = {}
    for most, rows in steps.items():
        found[most] = [row for row in rows if "steps" not in row.setting]
        for name, trials in field.trials.items():
            trial = best(trials, most, to="converged") if "steps" in trials[0].setting else None
            if trial is not None:
                say(f"{most} steps, to the converged pictures: {name}")
                found[most].append(field.row(name, trial.setting))
    return found


def bent(field: Field) -> list[float]:
    """Return the PSNR of every picture without a cache to the converged one."""
    return [value for batch in field.bench.batches for value in psnr(batch.plain, batch.converged)]


def sensitivity(field: Field, steps: Mapping[int, Sequence[Row]]) -> float:
    """Return how the mean PSNR of a picture over all rows is correlated with that of `bent`."""
    means = np.mean([row.values["psnr"] for rows in steps.values() for row in rows], axis=0)
    return float(np.corrcoef(means, bent(field))[0, 1])
