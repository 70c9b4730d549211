"""A bench: recorded prompts of one span, some to fit and others to check on, with all that plans are tried with."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pure.engine.denoising import batch_size
from pure.engine.tuned import made_for
from pure.engine.tuning.keeping import recorded
from pure.engine.tuning.recording import Observe, Recorded, make_case
from pure.engine.tuning.refining import Trial
from pure.engine.tuning.rerun import Case, TunedSpan, begin, experts_of, run
from pure.engine.tuning.searching import KINDS, Errors, errors_of, masks, start_weights
from pure.shortest import BestMask

if TYPE_CHECKING:
    from pure.models import Pipeline

__all__ = ["Bench", "make_bench"]

FIRST_SEED = 1000
RecordedCase = tuple[Case, tuple[Recorded, ...]]


@attrs.frozen(kw_only=True, eq=False)
class Bench:
    """Recorded runs of one span.

    Attributes:
        span: the blocks that always run, and how many residuals are remembered.
        errors: what the runs to fit say of predictions.
        masks: the best one of every number of computed steps.
        fit: prompts that plans are fitted to.
        check: prompts that nothing is fitted to.
        pace: seconds of a computed and of a skipped step.
    """

    span: TunedSpan
    errors: Errors
    masks: Mapping[int, BestMask]
    fit: Trial
    check: Trial
    pace: tuple[float, float]

    @property
    def steps(self) -> int:
        """The number of steps of a run."""
        return len(self.errors.steps)

    def ratio(self, computed: int) -> float:
        """Return how many times faster than a run without a cache one with so many computed steps is."""
        full, brief = self.pace
        return self.steps * full / (computed * full + (self.steps - computed) * brief)


def make_bench(
    pipeline: Pipeline,
    texts: Sequence[str],
    fit: int,
    span: TunedSpan,
    options: Mapping[str, Any],
    folder: Path | None = None,
    observe: Observe | None = None,
) -> Bench:
    """Record prompts, and search the best masks of the recording.

    Args:
        pipeline: what was loaded.
        texts: prompts.
        fit: how many of them, from the first on, are fitted; the others are checked on.
        span: the blocks that always run.
        options: of the request.
        folder: of recordings; see `recorded`.
        observe: called with "recording", the steps that were recorded and their number.
    """
    size = batch_size(pipeline, pipeline.request("", **options))
    cuts = [*range(0, fit, size), *range(fit, len(texts), size), len(texts)]
    groups: list[RecordedCase] = []
    for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
        seeds = list(range(FIRST_SEED + start, FIRST_SEED + stop))
        case = make_case(pipeline, texts[start:stop], seeds, options)
        told = None if observe is None else _share(observe, number, len(cuts) - 1)
        groups.append((case, recorded(case, seeds, span, _facts(case, options), folder, told)))
    split = sum(start < fit for start in cuts[:-1])
    errors = errors_of([one for _, some in groups[:split] for one in some], groups[0][0].steps)
    trial = _trial(groups[:split], span)
    return Bench(
        span=span,
        errors=errors,
        masks=masks(errors, span.depth),
        fit=trial,
        check=_trial(groups[split:], span),
        pace=_pace(trial, errors),
    )


def _trial(groups: Sequence[RecordedCase], span: TunedSpan) -> Trial:
    latents = [torch.cat([one.latents for one in some]) for _, some in groups]
    return Trial.of([case for case, _ in groups], latents, span)


def _share(observe: Observe, number: int, of: int) -> Observe:
    return lambda what, done, total: observe(what, number * total + done, of * total)


def _facts(case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recording depends on beside prompt, seed and span."""
    plain = {name: value for name, value in options.items() if name != "images"}
    images = [hashlib.sha256(image.tobytes()).hexdigest() for image in options.get("images", ())]
    sigmas = [None if step.sigma is None else float(step.sigma) for step in case.steps]
    return {
        **made_for(case.pipeline, case.plain, case.request).plain(),
        "options": plain,
        "images": images,
        "sigmas": sigmas,
    }


@torch.no_grad()
def _pace(trial: Trial, errors: Errors) -> tuple[float, float]:
    """Return the least seconds of a computed and of a skipped step in a run of both in turn."""
    case, names, span = trial.cases[0], experts_of(errors.steps), trial.span
    entries = tuple(int(errors.own(name).index(at) % 2 == 0) for at, name in enumerate(names))
    weights = start_weights(errors, entries, span.depth, KINDS[1])
    laps: tuple[list[float], list[float]] = ([], [])
    before = time.perf_counter()
    for place, _ in run(case, trial.bound, begin(case, trial.bound, entries, span), entries, weights, span):
        if case.noise.device.type == "cuda":
            torch.cuda.synchronize(case.noise.device)
        now = time.perf_counter()
        laps[entries[place.at]].append(now - before)
        before = now
    return min(laps[1]), min(laps[0] or laps[1])
