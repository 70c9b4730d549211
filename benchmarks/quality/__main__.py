"""Run the benchmark; what it is stands in `benchmarks.quality`."""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import benchmarks.quality
from benchmarks.command import parser, publish
from benchmarks.quality import extras, stages, tables
from benchmarks.quality.rows import Row
from pure.cli.memory import keep_memory


def say(text: str) -> None:
    """Say what is done."""
    print(text, file=sys.stderr, flush=True)


STAGES = ("time", "converged", "fewer")


def report(size: stages.Size, work: Path, emoji: Path | None, parts: Sequence[str]) -> dict[str, Any]:
    """Measure everything; return plain numbers."""
    field = stages.prepare(size, work, say)
    steps = stages.by_steps(field, say)
    found: dict[str, Any] = {
        "size": {"tuning": size.tuning, "trials": size.trials, "prompts": size.prompts, "seeds": size.seeds},
        "steps": tables.listed(steps),
        "gains": {str(most): stages.gain(rows) for most, rows in steps.items()},
        "whole": statistics.mean(stages.bent(field)),
        "sensitivity": stages.sensitivity(field, steps),
        "apart": stages.checked(field, steps),
        "converged": tables.listed(stages.by_convergence(field, steps, say)) if "converged" in parts else {},
        "time": timed_rows(field, steps) if "time" in parts else {},
        "fewer": extras.fewer(field, steps, say) if "fewer" in parts else {},
    }
    if emoji is not None:
        say("recognising")
        extras.recognise(field, steps, found["steps"], emoji)
    return found


def timed_rows(field: stages.Field, steps: Mapping[int, Sequence[Row]]) -> dict[str, Any]:
    """Return the rows by time as plain numbers, each with its time as a part of that without a cache."""
    seconds = stages.times(field, [row for rows in steps.values() for row in rows])
    found = stages.by_time(field, steps, seconds, say)
    again = stages.times(field, [row for rows in found.values() for row in rows])
    numbers = tables.listed(found)
    for most, rows in found.items():
        for row, own in zip(rows, numbers[str(most)], strict=True):
            own["time"] = again[stages.label(row)] / again["puredit"]
    return numbers


def add_size(found: argparse.ArgumentParser) -> None:
    """Add the options that say how much is measured, and where results are kept."""
    found.add_argument("--quick", action="store_true", help="a handful of pictures and trials; under a minute")
    found.add_argument("--prompts", type=int, default=stages.Size().prompts, help="held-out prompts (default 64)")
    found.add_argument("--trials", type=int, default=stages.Size().trials, help="of every contestant (default 40)")
    found.add_argument("--seeds", type=int, choices=(1, 2), default=2, help="of every prompt (default 2)")
    where = Path(tempfile.gettempdir()) / "puredit-quality"
    found.add_argument("--work", type=Path, default=where, help=f"where results are kept (default {where})")


def size_of(options: argparse.Namespace) -> stages.Size:
    """Return how much is measured."""
    if options.quick:
        return stages.QUICK
    return stages.Size(prompts=options.prompts, trials=options.trials, seeds=options.seeds)


def main() -> None:
    """Read the command line, measure, print and write."""
    found = parser(benchmarks.quality.__name__, "quality.md")
    add_size(found)
    found.add_argument("--emoji", type=Path, help="unpacked npm package, to recognise the emoji of pictures with")
    usual = ",".join(STAGES)
    found.add_argument("--stages", default=usual, help=f"beside the rows by steps (default {usual})")
    options = found.parse_args()
    keep_memory(os.environ)
    torch.set_num_threads(1)
    result = report(size_of(options), options.work, options.emoji, options.stages.split(","))
    publish(options.write, "quality.md", "quality", tables.tables(result), result)


if __name__ == "__main__":
    main()
