"""What hypothesis draws: models, recipes, plans, steps, batches, states, and whole situations.

@hypothesis.given(situation=situations(RANDOM, transforms))
def test_mine(situation): ...
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st

import pure
from pure import Plan, States, Step, Transform
from pure.experts import first_of
from pure.testing.recipes import RECIPES, Recipe
from pure.testing.situation import Model, Situation
from pure.testing.toys import CLOSED, experts_model, random_model, streams_model

__all__ = ["batches", "denoisers", "plans", "situations", "states", "steps", "transforms"]

UNDRAWN = ("compiled", "attention", "teacache", "seacache")  # recipes that cost seconds, or fit few models
MOST_STEPS, MOST_SAMPLES = 6, 3


def denoisers() -> st.SearchStrategy[Model]:
    """Small denoisers with parameters and inputs: one stream, two, two experts, and one of closed form.

    Returns:
        A strategy of `Model`; all but the last have 1 to 6 blocks of random weights.
    """
    blocks, seeds = st.integers(1, 6), st.integers(0, 99)
    kinds: tuple[Callable[..., Model], ...] = (random_model, streams_model, experts_model)
    return st.one_of(*(st.builds(kind, blocks=blocks, seed=seeds) for kind in kinds), st.just(CLOSED))


def transforms(model: Model, count: int) -> st.SearchStrategy[Transform]:
    """Recipes of every kind of cache, mask, predictor and guidance that fit a model and a run of `count` steps.

    Args:
        model: that they are for.
        count: number of steps; of every expert, where there are several.
    """
    names = [name for name in RECIPES if not name.startswith(UNDRAWN)]
    return st.sampled_from(names).flatmap(lambda name: RECIPES[name](model, count)).filter(lambda t: fits(model, t))


def plans(model: Model, count: int) -> st.SearchStrategy[Plan]:
    """Plans that fit a model and a run of `count` steps: those of `transforms`."""
    return transforms(model, count).map(lambda transform: first_of(transform(model.denoiser)).plan)


def steps(count: int | None = None, samples: int | None = None) -> st.SearchStrategy[Step]:
    """Steps of a run, anywhere in its schedule.

    Args:
        count: number of steps of the run; None: 1 to 12.
        samples: of a batch whose samples stand at steps of their own; None: one step for all.
    """

    def of(length: int) -> st.SearchStrategy[Step]:
        places = st.integers(0, length - 1)
        schedule = pure.FlowMatchEuler().schedule(length, tokens=16)
        if samples is None:
            return places.map(lambda place: schedule[place])
        drawn = st.lists(places, min_size=samples, max_size=samples)
        return drawn.map(lambda where: pure.merge_steps([schedule[place] for place in where]))

    return (st.integers(1, 12) if count is None else st.just(count)).flatmap(of)


def batches(model: Model, most_samples: int = MOST_SAMPLES) -> st.SearchStrategy[tuple[object, torch.Tensor]]:
    """Conditioning and starting latents (B, ...) of 1 to `most_samples` samples."""
    return _seeds(1, most_samples).map(lambda seeds: (model.conditioning(seeds), model.latents(seeds)))


def situations(
    model: Model,
    recipe: Recipe = transforms,
    most_steps: int = MOST_STEPS,
    most_samples: int = MOST_SAMPLES,
    count: int | None = None,
) -> st.SearchStrategy[Situation]:
    """Runs of a model: any transform of a recipe, batch, number of steps and inputs.

    Args:
        model: that is run.
        recipe: `(model, count) -> strategy` of transforms; of experts `count` is the number of each one's steps.
        most_steps: at most so many steps, at least 5; the first draws have 5 or more, so that something is skipped.
        most_samples: at most so many samples.
        count: number of steps of every run; None: any, from 2 on.
    """

    def of(count: int) -> st.SearchStrategy[Situation]:
        return st.builds(
            Situation,
            model=st.just(model),
            transform=recipe(model, count // model.experts),
            seeds=_seeds(2, most_samples) | _seeds(1, 1),
            count=st.just(count),
            seed=st.integers(0, 99),
        )

    if count is not None:
        return of(count)
    counts = st.integers(5, most_steps) | st.integers(2, 4)
    # Experts take the same number of steps each, so that one explicit mask fits all.
    return counts.flatmap(of) if model.experts == 1 else counts.map(lambda n: n + -n % model.experts).flatmap(of)


def states(situation: Situation) -> st.SearchStrategy[States]:
    """States that a run of a situation goes through, from `init` to after its last step."""

    def of(stop: int) -> States:
        if stop == 0:
            return situation.start()
        return situation.trace(steps=situation.schedule()[:stop])[-1].after

    return st.integers(0, situation.count).map(of)


def fits(model: Model, transform: Transform, count: int | None = None) -> bool:
    """Whether a transform can be applied to a model and, with `count`, begins a run of so many steps."""
    return misfit(model, transform, count) is None


def misfit(model: Model, transform: Transform, count: int | None = None) -> Exception | None:
    """Return why a transform does not fit, or None."""
    try:
        situation = Situation(model=model, transform=transform, seeds=(0,), count=count or 1)
        _ = situation.denoiser
        if count is not None:
            with torch.no_grad():
                situation.start()
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        return error
    return None


def _seeds(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 99), min_size=least, max_size=most, unique=True).map(tuple)
