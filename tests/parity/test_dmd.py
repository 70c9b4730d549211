"""DMD: the numbers of cache-dit's calibrator, which is run, on signals that it can and cannot fit."""

import numpy as np
import pytest
import torch
from cache_dit.caching.cache_contexts.calibrators.dmd import DMDCalibrator

from pure.measure import inner_products
from pure.testing.situation import Situation
from pure.testing.toys import RANDOM
from pure.transforms import dmd


def signal(kind: str, count: int, width: int = 40) -> list[torch.Tensor]:
    """Return (1, width) values of every step: sums of exponentials, a line, or noise beside a trend."""
    drawn = torch.Generator().manual_seed(len(kind))
    modes = torch.randn(6, width, generator=drawn, dtype=torch.float64)
    time = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    if kind == "decay":
        return list((0.9**time * modes[0] + 0.6**time * modes[1]).unsqueeze(1))
    if kind == "swing":
        angle = 0.5 * time
        return list((0.95**time * (angle.cos() * modes[0] + angle.sin() * modes[1]) + modes[2]).unsqueeze(1))
    if kind == "line":
        return list((modes[0] + time * modes[1]).unsqueeze(1))
    noise = torch.randn(count, width, generator=drawn, dtype=torch.float64)
    return list((modes[0] * (1 - time / 30) + 0.05 * noise).unsqueeze(1))


MASKS = ("111111110101010100100", "1111110011001100", "1111100000", "11010010001", "1010101010100", "1111011101110111")


@pytest.mark.parametrize(
    "options", [{}, {"history": 4}, {"history": 5, "rank": 2}, {"rank": 1}, {"ridge": 1e-3}], ids=str
)
@pytest.mark.parametrize("kind", ["decay", "swing", "line", "noise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_are_those_of_cache_dit(kind: str, options: dict, dtype: torch.dtype) -> None:
    ours, fitted = dmd(**options), 0
    for mask in MASKS:
        peer, values, times, kept = DMDCalibrator(**options), signal(kind, len(mask)), [], []
        for step, computes in enumerate(mask):
            peer.mark_step_begin()
            value = values[step].to(dtype)
            if computes == "1":
                peer.update(value)
                times, kept = [step, *times][: ours.history], [value, *kept][: ours.history]
                continue
            known = (*times, *(-1,) * (ours.history - len(times)))
            past = [*kept, *[torch.zeros_like(value)] * (ours.history - len(kept))]
            if not ours.fits(known):  # see below
                continue
            weights = ours.fitted(inner_products(past)[0], known, step)
            found = sum(w * each.double() for w, each in zip(weights, past, strict=True))
            expected = peer.approximate().double()
            size = max(1.0, float(expected.abs().max()))
            # The peer decomposes the residuals, we their inner products: half the digits of small singular values.
            assert float((found - expected).abs().max()) < 1e-5 * size, (mask, step, weights)
            fitted += 1
    assert fitted > 10


def test_before_the_fit_it_is_taylorseer_whose_recursion_the_peer_has_wrong() -> None:
    """On a line cache-dit's slope is taken over two distances and divided by one."""
    peer, values = DMDCalibrator(), [torch.tensor([[float(step)]]) for step in range(8)]
    for step in range(8):
        peer.mark_step_begin()
        if step in (0, 3, 5, 6):
            peer.update(values[step])
    assert peer.approximate().item() == 6 + (6 - 3) / 1
    weights = dmd().weights((6, 5, 3, 0, -1, -1), 7, 0)
    assert sum(w * values[t].item() for w, t in zip(weights, (6, 5), strict=False)) == 7.0


def test_exponentials_are_continued() -> None:
    """Exact on its class, also between two computed steps of the past: k / h is no whole number."""
    values = signal("swing", 12)
    past = [values[step] for step in (6, 4, 2, 0)]
    for target in (7, 8, 9):
        weights = dmd().fitted(inner_products(past)[0], (6, 4, 2, 0), target)
        found = torch.stack([w * each for w, each in zip(weights, past, strict=True)]).sum(0)
        assert torch.allclose(found, values[target], atol=1e-6)
        assert weights[-1] == 0.0, "the oldest is only ever mapped from"


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_nothing_to_fit_repeats_the_last_residual(value: float) -> None:
    assert dmd().fitted(np.full((4, 4), value), (3, 2, 1, 0), 4) == (1.0, 0.0, 0.0, 0.0)


def test_every_sample_of_a_batch_has_its_own_fit() -> None:
    from pure import compose
    from pure.transforms import scm

    case = Situation(
        model=RANDOM, transform=compose(scm(mask="111110000100", policy="static"), dmd()), seeds=(1, 2, 3), count=12
    )
    batch = case.trace()
    for row, seed in enumerate(case.seeds):
        for one, of_batch in zip(case.trace(seeds=(seed,)), batch, strict=True):
            torch.testing.assert_close(one.prediction[0], of_batch.prediction[row], rtol=1e-4, atol=1e-5)
