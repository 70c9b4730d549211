"""What a tuned plan skips for every family, guidance mode and solver: nothing is silently left as it was.

    python -m benchmarks.reach --write

Tiny random pipelines of every real class make `STEPS` steps with a mask and weights of its skipped steps, as
`pure.tune` writes them. A number is how many steps each branch of the guidance skips; of two experts a sum.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

import pure
from benchmarks.command import parser, publish
from benchmarks.skips import load, pipelines
from benchmarks.table import markdown
from pure.configs.tuned import TunedFor
from pure.engine.tuning.plan import plan_of
from pure.engine.tuning.rerun import TunedSpan, experts_of, histories
from pure.models import Pipeline

STEPS, DEPTH = 5, 2
SOLVERS = {"Euler": pure.FlowMatchEuler, "UniPC": pure.UniPC}


def modes(pipeline: Pipeline) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the guidance modes of a pipeline with the options that ask for them."""
    if not pipeline.cfg:
        yield "built in", {}
        return
    yield "none", {pipeline.cfg: 0.0}
    yield "classifier-free", {pipeline.cfg: 3.0, "negative_prompt": "blurred"}


def mask_of(steps: tuple[pure.Step, ...]) -> tuple[int, ...]:
    """Return a mask that computes the first step of every expert and every second one after it."""
    names = experts_of(steps)
    return tuple(int((at - names.index(name)) % 2 == 0) for at, name in enumerate(names))


def tuned(steps: tuple[pure.Step, ...]) -> Any:
    """Return the transform of a tuned plan for these steps: their mask, and weights that are not TaylorSeer's."""
    entries = mask_of(steps)
    known = histories(steps, entries, DEPTH)
    weights = {at: torch.tensor([1.5, -0.5] if len(past) > 1 else [1.0, 0.0]) for at, past in known.items()}
    return plan_of(steps, entries, weights, TunedSpan(depth=DEPTH), TunedFor()).transform


def skipped(pipeline: Pipeline, options: Mapping[str, Any]) -> tuple[dict[str, int], int, bool]:
    """Return the skipped steps by branch, how many the mask skips, and whether the result is another one."""
    asked = {"steps": STEPS, **options}
    steps = pipeline.schedule(pipeline.request("a dog", **asked))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a tiny tokenizer cuts long templates of prompts
        plain = pipeline.generate("a dog", seed=0, **asked)
        made = pipeline.generate("a dog", seed=0, transform=tuned(steps), **asked)
    counts: dict[str, int] = {}
    for info in made.infos:
        for decision in info.decisions:
            counts[decision.branch] = counts.get(decision.branch, 0) + (not decision.computed)
    return counts, mask_of(steps).count(0), not torch.equal(plain.latents, made.latents)


def rows(name: str, pipeline: Pipeline, options: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield family, guidance, solver and skipped steps of each branch of a pipeline.

    Raises:
        AssertionError: a branch does not follow the mask, or the result is that of a run without a plan.
    """
    schedule: Any = pipeline.solver
    for mode, more in modes(pipeline):
        for solver, kind in SOLVERS.items():
            other = attrs.evolve(pipeline, solver=kind(schedule=schedule.schedule))
            counts, expected, changed = skipped(other, {**options, **more})
            assert set(counts.values()) == {expected} and changed, f"{name}, {mode}, {solver}: {counts}"
            yield name, mode, solver, f"{' and '.join(map(str, counts.values()))} of {STEPS}"


def measure() -> list[tuple[str, str, str, str]]:
    """Return the rows of every pipeline."""
    found = []
    for name, (save, options) in pipelines():
        with tempfile.TemporaryDirectory() as folder:
            found += rows(name, load(save, Path(folder) / "model"), options)
    return found


def table(found: list[tuple[str, str, str, str]]) -> str:
    """Return the rows as Markdown: a line for a family and guidance, a column for a solver."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for name, mode, solver, counts in found:
        lines.setdefault((name, mode), {})[solver] = counts
    cells = [(*key, *(own[name] for name in SOLVERS)) for key, own in lines.items()]
    return markdown(("tiny pipeline", "guidance", *SOLVERS), cells)


def main() -> None:
    """Print the table, and put it into the document."""
    options = parser(__name__, "quality.md").parse_args()
    publish(options.write, "quality.md", "reach", table(measure()))


if __name__ == "__main__":
    main()
