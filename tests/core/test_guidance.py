"""How two predictions become one, in every type: within the rounding of that type of the value of fp64."""

import pytest
import torch

from pure import Guidance
from pure.guidance import combine
from tests.laws.oracle import guide
from tests.support.toys import normal

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
