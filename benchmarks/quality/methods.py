"""The contestants: what can be set of each, and how it makes a batch of pictures with a setting.

A setting is a mapping of plain values. Numbers lie on a grid, so that a search has neighbours to try.

Shapes: B pictures of a batch.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from diffusers import UniPCMultistepScheduler

import pure
from benchmarks.quality import peers
from benchmarks.quality.samples import Batch
from pure.configs import build, configure
from pure.models import Pipeline
from pure.transforms import dbcache, scm, taylorseer

Setting = Mapping[str, Any]
Outcome = tuple[torch.Tensor, list[int]]
"""Latents (B, ...), and of every picture how many steps were computed."""

Run = Callable[[Setting, Batch], Outcome]


@attrs.frozen(kw_only=True, eq=False)
class Method:
    """A contestant.

    Attributes:
        name: in the tables.
        knobs: the values of everything that can be set, each in order; a setting has one of each.
        run: makes a batch of pictures.
        first: settings that are tried before others: what its users are given.
        budgets: settings that nobody searches, by their number of computed steps; empty where there are knobs.
        enable: puts the peer's own cache on a pipeline of diffusers; None of what has none.
        equal: whether `run` is our equal of the peer's cache.
    """

    name: str
    knobs: Mapping[str, Sequence[Any]] = attrs.field(factory=dict)
    run: Run
    first: Sequence[Setting] = ()
    budgets: Mapping[int, Setting] = attrs.field(factory=dict)
    enable: peers.Enable | None = None
    equal: bool = False


def grid(first: float, last: float, count: int) -> tuple[float, ...]:
    """Return numbers of equal ratios, with three digits.

    >>> grid(0.1, 0.4, 3)
    (0.1, 0.2, 0.4)
    """
    return tuple(float(f"{first * (last / first) ** (at / (count - 1)):.3g}") for at in range(count))


PRESETS = ("slow", "medium", "fast", "ultra")
REGULAR = tuple(f"{first}/{every}" for first in (1, 2, 3, 4, 6) for every in (2, 3, 4, 5))
BLOCKS: dict[str, Sequence[Any]] = {
    "front": (1, 2, 4),
    "back": (0, 1),
    "threshold": grid(0.02, 0.9, 24),
    "warmup": (1, 2, 3, 4, 6, 8),
    "row": (1, 2, 3, 4, 5, None),
    "mask": (None, *PRESETS, *REGULAR),
    "policy": ("dynamic", "static"),
}
USUAL = {"front": 1, "back": 0, "threshold": 0.24, "warmup": 4, "row": 3, "policy": "static"}
ON = ("residual", "hidden")
CALIBRATED: dict[str, dict[str, Sequence[Any]]] = {
    "cache-dit": {},
    "cache-dit, TaylorSeer": {"calibrator": ("taylorseer",), "order": (1, 2, 3), "on": ON},
    "cache-dit, FoCa": {"calibrator": ("foca",), "on": ON},
    "cache-dit, DMD": {"calibrator": ("dmd",), "history": (4, 5, 6, 8), "on": ON},
}


def contestants(pipeline: Pipeline, folder: Path, tuning: Batch) -> list[Method]:
    """Return everything that is compared.

    Args:
        pipeline: the checkpoint.
        folder: where it is.
        tuning: pictures that MagCache is calibrated with.
    """
    theirs = peers.Peers(str(folder))
    found = [_plans(pipeline, folder)]
    found += [_blocks(pipeline, theirs, name, knobs) for name, knobs in CALIBRATED.items()]
    found += _of_diffusers(pipeline, theirs, tuning)
    return [*found, _fewer_euler(pipeline), _fewer_unipc(pipeline)]


def _plans(pipeline: Pipeline, folder: Path) -> Method:
    plans = {}
    for path in sorted((folder / "plans").glob("*.yaml")):
        effective = configure(file=path)
        assert effective.tuned is not None and effective.tuned.computed is not None
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]  # another plan is another row
        plans[effective.tuned.computed] = {"plan": path.stem, "digest": digest}

    def run(setting: Setting, batch: Batch) -> Outcome:
        return ours(pipeline, build(configure(file=folder / "plans" / f"{setting['plan']}.yaml")), batch)

    return Method(name="puredit, tuned plan", run=run, budgets=plans)


@torch.no_grad()
def ours(pipeline: Pipeline, transform: Any, batch: Batch, steps: Any = None) -> Outcome:
    """Make a batch with a transform."""
    steps = pipeline.schedule(batch.request) if steps is None else steps
    inputs = (batch.conditioning, batch.noise, steps, pipeline.solver)
    made = pure.sample(transform(pipeline.denoiser), pipeline.params, *inputs)
    rows = zip(*(info.decisions for info in made.infos), strict=True)
    return made.latents, [sum(decision.computed for decision in row) for row in rows]


def blocks_of(setting: Setting) -> pure.Transform:
    """Return our equal of a setting of cache-dit."""
    names = {"threshold": "threshold", "warmup": "warmup", "row": "max_continuous", "front": "front", "back": "back"}
    parts: list[pure.Transform] = [dbcache(**{name: setting[key] for key, name in names.items()})]
    if (mask := peers.written_mask(setting["mask"])) is not None:
        parts.append(scm(mask=mask, policy=setting["policy"]))
    if "order" in setting:
        parts.append(taylorseer(order=setting["order"], on=setting["on"]))
    return pure.compose(*parts)


def _blocks(pipeline: Pipeline, theirs: peers.Peers, name: str, more: Mapping[str, Sequence[Any]]) -> Method:
    """Return cache-dit with a calibrator: our equal, which decides for every picture, or its own library."""

    def equal(setting: Setting, batch: Batch) -> Outcome:
        return ours(pipeline, blocks_of(setting), batch)

    mine = more.get("calibrator", ("taylorseer",)) == ("taylorseer",)
    added = {knob: values[0] for knob, values in more.items()}
    return Method(
        name=name,
        knobs={**BLOCKS, **more},
        run=equal if mine else _by_library(theirs, peers.cached),
        first=[{**USUAL, **added, "mask": preset} for preset in PRESETS],
        enable=peers.cached,
        equal=mine,
    )


def _by_library(theirs: peers.Peers, enable: peers.Enable) -> Run:
    def run(setting: Setting, batch: Batch) -> Outcome:
        latents, computed = theirs.run(enable, setting, batch)
        return latents, [computed] * len(batch.prompts)

    return run


def _of_diffusers(pipeline: Pipeline, theirs: peers.Peers, tuning: Batch) -> list[Method]:
    """Return the caches of diffusers that run on this model; SeaCache is not one of them, it never skips here."""
    measured = peers.ratios(theirs, tuning)

    def first_block(setting: Setting, batch: Batch) -> Outcome:
        transform = dbcache(front=1, threshold=setting["threshold"], warmup=0, max_continuous=None)
        return ours(pipeline, transform, batch)

    def magnitudes(made: Any, setting: Setting) -> None:
        peers.magnitudes(made, {**setting, "ratios": measured})

    return [
        Method(
            name="diffusers, first block",
            knobs={"threshold": grid(0.02, 0.9, 96)},
            run=first_block,
            enable=peers.first_block,
            equal=True,
        ),
        Method(
            name="diffusers, MagCache",
            knobs={"threshold": grid(0.005, 2.0, 40), "row": (1, 2, 3, 4, 5), "retained": (1, 2, 3, 4, 6, 8)},
            run=_by_library(theirs, magnitudes),
            enable=magnitudes,
        ),
        Method(
            name="diffusers, TaylorSeer",
            knobs={
                "interval": (2, 3, 4, 5),
                "before": (1, 2, 3, 4, 6, 8),
                "after": (None, 24, 26, 27),
                "order": (0, 1, 2, 3),
            },
            run=_by_library(theirs, peers.series),
            enable=peers.series,
        ),
    ]


def _fewer_euler(pipeline: Pipeline) -> Method:
    """Return fewer steps of the same solver, with any shift of the noise levels."""
    solver: Any = pipeline.solver

    def run(setting: Setting, batch: Batch) -> Outcome:
        schedule = attrs.evolve(solver.schedule, dynamic=False, shift=setting["shift"], terminal=setting["terminal"])
        return ours(pipeline, pure.identity, batch, schedule(setting["steps"], batch.noise.shape[1]))

    knobs = {"steps": tuple(range(6, 21)), "shift": grid(0.6, 4.0, 24), "terminal": (None, 0.01, 0.02, 0.04)}
    return Method(name="fewer steps, Euler", knobs=knobs, run=run, first=_usual_steps(terminal=None))


def _fewer_unipc(pipeline: Pipeline) -> Method:
    """Return fewer steps of diffusers' UniPC, "bh2": "bh1" gives no finite numbers where a run begins with noise."""

    @torch.no_grad()
    def run(setting: Setting, batch: Batch) -> Outcome:
        solver: Any = UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=setting["shift"],
            solver_order=setting["order"],
        )
        solver.set_timesteps(setting["steps"])
        return _by_scheduler(pipeline, solver, batch), [setting["steps"]] * len(batch.prompts)

    knobs = {
        "steps": tuple(range(6, 21)),
        "shift": grid(0.6, 4.0, 24),
        "order": (1, 2, 3),
    }
    return Method(name="fewer steps, UniPC", knobs=knobs, run=run, first=_usual_steps(order=2))


def _usual_steps(**more: Any) -> list[Setting]:
    return [{"steps": steps, "shift": 1.6, **more} for steps in (18, 15, 11, 8)]


def _by_scheduler(pipeline: Pipeline, solver: Any, batch: Batch) -> torch.Tensor:
    """Return the latents (B, ...) after all steps of a scheduler of diffusers."""
    denoiser: Any = pipeline.denoiser
    bound, latents, count = denoiser.bind(pipeline.params), batch.noise, len(solver.timesteps)
    state = denoiser.init(bound, batch.conditioning, latents, count)
    for index, (time, sigma) in enumerate(zip(solver.timesteps, solver.sigmas[:-1], strict=True)):
        step = pure.Step(index=index, count=count, timestep=time / solver.config.num_train_timesteps, sigma=sigma)
        prediction, state, _ = denoiser.apply(bound, state, pure.Inputs(latents, step))
        latents = solver.step(prediction, time, latents).prev_sample
    return latents
