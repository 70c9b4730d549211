"""How two predictions become one, in every type: within the rounding of that type of the value of fp64."""

from typing import Any

import pytest
import torch

from pure import Guidance, Step
from pure.guidance import both, combine, notes
from pure.testing.oracle import guide
from pure.testing.toys import normal

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def expected(guidance: Guidance, prediction: torch.Tensor) -> torch.Tensor:
    """The definition, in fp64."""
    return guide(guidance, prediction[0::2].double(), prediction[1::2].double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 7.5])
@pytest.mark.parametrize(
    ("normalize", "cap"), [("none", 1.0), ("token", 1.0), ("sample", 1.0), ("sample", 0.5), ("sample", 50.0)]
)
def test_two_predictions_become_one(dtype, scale, normalize, cap):
    guidance = Guidance(scale=scale, normalize=normalize, cap=cap)
    prediction = normal(6, 7, 4, seed=1).to(dtype)
    found = combine(guidance, prediction)
    assert found.dtype == dtype and found.shape == (3, 7, 4)
    largest = float(prediction.abs().max())
    # Difference, product and sum are rounded once each, a norm and a quotient twice more, to half of eps each.
    roundings = 3 * torch.finfo(dtype).eps * largest * (1 + 2 * scale)
    assert float((found.double() - expected(guidance, prediction)).abs().max()) <= roundings


@pytest.mark.parametrize("normalize", ["none", "token", "sample"])
def test_scale_one_is_the_conditional_prediction(normalize):
    prediction = normal(4, 5, 3, seed=2)
    found = combine(Guidance(scale=1.0, normalize=normalize), prediction)
    torch.testing.assert_close(found, prediction[0::2], atol=2e-6, rtol=0)


def test_guidance_two_percent_too_strong_is_seen():
    """What these bounds are for."""
    prediction = normal(2, 7, 4, seed=3).bfloat16()
    found = combine(Guidance(scale=3.06), prediction).double()
    exact = expected(Guidance(scale=3.0), prediction)
    direction = (prediction[0::2] - prediction[1::2]).double()
    assert float(((found - exact) * direction).sum() / direction.square().sum()) == pytest.approx(0.06, abs=0.01)


def step(index: Any, count: Any = 4, sigma: Any = None) -> Step:
    level = None if sigma is None else torch.tensor(sigma)
    return Step(index=index, count=count, timestep=torch.tensor(0.5), sigma=level)


@pytest.mark.parametrize(
    ("options", "index", "sigma", "active"),
    [
        ({"start": 0.25}, 0, 1.0, False),
        ({"start": 0.25}, 1, 1.0, True),  # the start belongs to it
        ({"stop": 0.75}, 2, 1.0, True),
        ({"stop": 0.75}, 3, 1.0, False),  # the stop does not
        ({"lowest_sigma": 0.5}, 1, 0.5, True),  # the lowest level belongs to it
        ({"lowest_sigma": 0.5}, 1, 0.49, False),
        ({"lowest_sigma": 0.5, "start": 0.5}, 1, 1.0, False),
        ({"lowest_sigma": 0.5}, (0, 1), [0.9, 0.5], True),
        ({"lowest_sigma": 0.5}, (2, 3), [0.4, 0.1], False),
    ],
)
def test_where_guidance_acts(options, index, sigma, active):
    assert Guidance(scale=2.0, **options).active(step(index, sigma=sigma)) is active


@pytest.mark.parametrize(
    ("options", "index", "sigma"),
    [
        ({"start": 0.5}, (1, 2), [0.9, 0.5]),
        ({"lowest_sigma": 0.5}, (1, 2), [0.9, 0.4]),
        ({"lowest_sigma": 0.5, "start": 0.5}, (1, 2), [0.9, 0.6]),
    ],
)
def test_samples_on_both_sides_of_the_interval_are_refused(options, index, sigma):
    with pytest.raises(ValueError, match="stand on both sides of the guidance interval"):
        Guidance(scale=2.0, **options).active(step(index, sigma=sigma))


def test_both_rows_of_a_sample_stand_where_it_does():
    found = both(step((0, 3), (4, 8), [0.9, 0.2]), 2)
    assert found.index == (0, 0, 3, 3) and found.count == (4, 4, 8, 8)
    assert found.branch == ("conditional", "unconditional") * 2
    assert found.sigma is not None and found.sigma.tolist() == pytest.approx([0.9, 0.9, 0.2, 0.2])
    levels = {"timestep": [0.5, 0.3], "sigma": [0.9, 0.4], "sigma_next": [0.6, 0.1]}
    timestep, sigma, sigma_next = map(torch.tensor, levels.values())
    apart = Step(index=1, count=4, expert=("high", "low"), timestep=timestep, sigma=sigma, sigma_next=sigma_next)
    assert both(apart, 2).expert == ("high", "high", "low", "low")
    for name, (one, two) in levels.items():
        assert getattr(both(apart, 2), name).tolist() == pytest.approx([one, one, two, two])


@pytest.mark.parametrize(
    ("options", "steps", "empty"),
    [
        ({"start": 0.4, "stop": 0.4001}, 4, True),
        ({"start": 0.4, "stop": 0.4001}, 5, False),
        ({"start": 0.4, "stop": 0.4001}, [step(index, 4, 0.9) for index in range(4)], True),
        ({"lowest_sigma": 0.5}, [step(index, 2, 0.4) for index in range(2)], True),
        ({"lowest_sigma": 0.5}, [step(0, 2, 0.6), step(1, 2, 0.4)], False),
        ({"lowest_sigma": 0.5}, [step(0, 2), step(1, 2)], False),  # levels that nobody knows
    ],
)
def test_an_interval_without_a_step_is_said(options, steps, empty):
    found = notes(Guidance(scale=2.0, **options), True, steps)
    assert len(found) == empty and all("widen the interval" in note.text for note in found)
