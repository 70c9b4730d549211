"""What the engine makes of a batch, without the command around it."""

import itertools

import numpy as np
import pytest
import torch

from pure.configs import configure
from pure.engine.caching import Caching
from pure.engine.checkpoint import look
from pure.engine.denoising import Denoising, batch_size, denoise, result
from pure.engine.engine import Engine, Order
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.models import NotFiniteError, embedded, load_pipeline
from pure.models.pipeline import Pipeline

SEEDS = (1, 2, 3)


def made(count: int, seeds: tuple[int, ...] = SEEDS) -> list[Result | NotFiniteError]:
    pipeline = load_pipeline(embedded())
    engine = Engine(checkpoint=look(None), pipeline=pipeline, base=pipeline.denoiser)
    recipe = engine.recipe(Order(options={"steps": count, "max_sequence_length": 8}), Caching.of(configure()))
    assert batch_size(engine.pipeline, recipe.request) == 4
    run = denoise(engine, recipe, [Sample(prompt="a pear", seed=seed) for seed in seeds])
    return [finished(engine, run, row) for row in range(len(seeds))]


def finished(engine: Engine, run: Denoising, row: int) -> Result | NotFiniteError:
    try:
        return result(engine, run, row, share=len(run.samples))
    except NotFiniteError as error:
        return error


def test_a_sample_that_is_not_finite_is_named_by_its_row_and_the_others_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = made(2)
    noise = Pipeline.noise
    bad = torch.tensor([SEEDS.index(2)])
    monkeypatch.setattr(Pipeline, "noise", lambda self, *rest: noise(self, *rest).index_fill(0, bad, torch.inf))
    first, wrong, last = made(2)
    assert isinstance(wrong, NotFiniteError) and list(wrong.samples) == [1]
    assert wrong.samples[1].startswith("'a pear' with seed 2 is not finite from step 1 of 2 on")
    for one, other in ((first, wanted[0]), (last, wanted[2])):
        assert isinstance(one, Result) and isinstance(other, Result) and np.array_equal(one.frames, other.frames)


def test_the_time_of_a_batch_is_shared_by_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by three seconds whenever it is read: each of three samples has one of every lap."""
    times = itertools.count(0.0, 3.0)
    monkeypatch.setattr("pure.engine.denoising.now", lambda device: next(times))
    for one in made(2):
        assert isinstance(one, Result) and one.step_seconds == (1.0, 1.0) and one.encode_seconds == 1.0
        assert one.decode_seconds == 3.0 and one.total_seconds == 6.0
