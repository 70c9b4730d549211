"""Beside the rows: how few steps of a tuned plan are as good as a peer, and whether emoji are recognised."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.methods import Method, Outcome, Setting, ours
from benchmarks.quality.rows import Row
from benchmarks.quality.samples import Batch, held_out_pairs, tuning_prompts
from benchmarks.quality.stages import QUICK, Field
from pure.configs import build, configure
from pure.engine.tuning import tune
from training import data
from training import recognise as naming

SHARE = 0.6
FIT, CHECK = 16, 1
"""Prompts that a plan is fitted to, as the shipped ones are; its own check is not used here."""


def fewer(field: Field, steps: Mapping[int, Sequence[Row]], say: Callable[[str], None]) -> dict[str, Any]:
    """Return for every number of computed steps a tuned plan of 0.6 as many, held against the best peer."""
    if field.size.trials <= QUICK.trials:
        return {}
    found = {}
    for most, (_, *others) in steps.items():
        nearest, count = max(others, key=lambda row: row.mean("psnr")), int(SHARE * most)
        say(f"a tuned plan of {count} steps")
        plan = _plan(field, count)

        def run(setting: Setting, batch: Batch, plan: Path = plan) -> Outcome:
            return ours(field.bench.pipeline, build(configure(file=plan)), batch)

        own = field.bench.row(Method(name="puredit, tuned plan", run=run), {"plan": plan.read_text()})
        numbers = {"peer": nearest.method, "theirs": nearest.mean("psnr"), "computed": count, "ours": own.mean("psnr")}
        found[str(most)] = numbers
    return found


def _plan(field: Field, count: int) -> Path:
    """Return the file of a plan that is tuned once."""
    path = field.bench.folder / f"plan-{count}.yaml"
    if not path.exists():
        prompts = tuning_prompts(FIT + CHECK)
        kept = field.bench.folder / "recording"
        made = tune(field.bench.pipeline, prompts, budget=count, fit=FIT, held_out=CHECK, points=0, recording=kept)
        made.plan.save(path)
    return path


def recognise(
    field: Field, rows: Mapping[int, Sequence[Row]], numbers: Mapping[str, Sequence[dict[str, Any]]], package: Path
) -> None:
    """Put into the numbers of rows of how many pictures of the first seed the emoji is recognised, in per cent."""
    sprites = data.load_emoji(package)
    pairs = held_out_pairs(field.size.prompts)
    asked = torch.tensor([pair.emoji for pair in pairs])
    flat = [(most, at) for most, several in rows.items() for at in range(len(several))]
    pictures = [_pictures(field, rows[most][at], len(pairs)) for most, at in flat]
    named = naming.emoji(torch.cat(pictures), sprites).split(len(pairs))
    for (most, at), names in zip(flat, named, strict=True):
        numbers[str(most)][at]["recognised"] = 100 * (names == asked).float().mean().item()


def _pictures(field: Field, row: Row, count: int) -> torch.Tensor:
    method, found = field.methods[row.method], []
    for number in range(len(field.bench.batches)):
        found.append(field.bench.pictures(method, row.setting, number))
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]
