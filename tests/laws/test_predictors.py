"""Law 12: what predictors promise, one list of predictors with the class of signals each is exact on."""

import math

import attrs
import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from pure import Hold
from pure.predictors import Predictor
from pure.testing.oracle import Hermitian, Recursion
from pure.transforms import adams, calibrated, dmd, foca, hermite, newton, taylorseer
from pure.transforms.taylorseer import COLD_START


@attrs.frozen
class Claim:
    """A predictor, the degree of the polynomials it is exact on, and the order of its error."""

    predictor: Predictor
    exact: int  # degree
    slope: int  # error is O(step^slope) on smooth signals


CLAIMS = {
    "hold": Claim(Hold(), exact=0, slope=1),
    "taylor-0": Claim(taylorseer(order=0), exact=0, slope=1),
    "taylor-1": Claim(taylorseer(order=1), exact=1, slope=2),
    # One-sided differences taken at the newer end: higher orders gain no order of accuracy.
    "taylor-2": Claim(taylorseer(order=2), exact=1, slope=2),
    "taylor-3": Claim(taylorseer(order=3), exact=1, slope=2),
    **{f"newton-{order}": Claim(newton(order=order), exact=order, slope=order + 1) for order in range(4)},
    # Of a slope it takes the part 2 scale^2, which is the whole of it at one scale only.
    "hermite-0": Claim(hermite(order=0), exact=0, slope=1),
    "hermite-1": Claim(hermite(order=1), exact=0, slope=1),
    "hermite-2": Claim(hermite(order=2), exact=0, slope=1),
    "hermite-3": Claim(hermite(order=3, scale=0.75), exact=0, slope=1),
    "hermite-taylor": Claim(hermite(order=1, scale=0.5**0.5), exact=1, slope=2),
    "adams-0": Claim(adams(order=0), exact=0, slope=1),
    # A slope between two steps is not the derivative at the second: what comes after is exact on lines only.
    **{f"adams-{order}": Claim(adams(order=order), exact=1, slope=2) for order in (1, 2, 3)},
    "foca": Claim(foca(), exact=1, slope=2),
    "dmd": Claim(dmd(), exact=1, slope=2),  # where nothing is fitted
    # What its table does not have is TaylorSeer's.
    "calibrated": Claim(calibrated(table=[((70, 69, 68), 71, (1.5, -0.4, -0.1))]), exact=1, slope=2),
}
ORDERS = range(4)


def times_of(predictor: Predictor, computed: list[int]) -> tuple[int, ...]:
    """Times as the ledger holds them: newest first, -1 where there is none."""
    newest = tuple(reversed(computed))[: predictor.history]
    return newest + (-1,) * (predictor.history - len(newest))


computed_steps = st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True).map(sorted)


@pytest.mark.parametrize("name", CLAIMS)
@hypothesis.given(computed=computed_steps, distance=st.integers(1, 8))
def test_weights_sum_to_one(name: str, computed: list[int], distance: int) -> None:
    predictor = CLAIMS[name].predictor
    weights = predictor.weights(times_of(predictor, computed), computed[-1] + distance, computed[0])
    assert len(weights) == predictor.history
    assert math.isclose(math.fsum(weights), 1.0, abs_tol=1e-9)
    unused = predictor.history - len(computed)
    assert unused <= 0 or set(weights[-unused:]) == {0.0}, "what is not stored has no weight"


@hypothesis.given(computed=computed_steps, distance=st.integers(1, 8))
def test_order_zero_is_hold(computed: list[int], distance: int) -> None:
    arguments = (times_of(Hold(), computed), computed[-1] + distance, computed[0])
    assert taylorseer(order=0).weights(*arguments) == Hold().weights(*arguments) == (1.0,)


warm_schedules = st.lists(st.integers(0, 60), min_size=6, max_size=12, unique=True).map(sorted)


@pytest.mark.parametrize("name", CLAIMS)
@hypothesis.given(computed=warm_schedules, distance=st.integers(1, 5), slope=st.floats(-3, 3))
def test_exact_on_its_class_at_unequal_times(name: str, computed: list[int], distance: int, slope: float) -> None:
    claim = CLAIMS[name]
    # Past the cold start with every derivative the recursion can have.
    hypothesis.assume(computed[2] - computed[0] >= COLD_START)
    error = _error(claim.predictor, computed, distance, lambda t: 2.0 + slope * t if claim.exact else slope)
    assert error < 1e-7


def _error(predictor: Predictor, computed: list[int], distance: int, signal) -> float:
    times = times_of(predictor, computed)
    weights = predictor.weights(times, computed[-1] + distance, computed[0])
    value = sum(w * signal(t) for w, t in zip(weights, times, strict=True) if w)
    return abs(value - signal(computed[-1] + distance))


@pytest.mark.parametrize("name", CLAIMS)
def test_measured_error_slope_is_the_declared_one(name: str) -> None:
    claim = CLAIMS[name]
    # A schedule of unequal gaps, seen by a signal that varies ever more slowly.
    errors = [_error(claim.predictor, [0, 3, 5, 8, 9], 2, lambda t, h=h: math.exp(h * t)) for h in (1e-3, 5e-4)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(claim.slope, abs=0.05)


def test_the_longest_row_that_fits_counts() -> None:
    table = {((5,), 6): (1.0,), ((5, 3), 6): (1.5, -0.5), ((5, 3, 1), 7): (2.0, -0.5, -0.5)}
    predictor = calibrated(table=table, order=2)
    assert predictor.history == 3
    assert predictor.weights((5, 3, 1), 6, 0) == (1.5, -0.5, 0.0)
    assert predictor.weights((5, 4, 3), 6, 0) == (1.0, 0.0, 0.0)
    assert predictor.weights((5, -1, -1), 6, 5) == (1.0, 0.0, 0.0)
    assert predictor.weights((5, 3, 1), 7, 0) == (2.0, -0.5, -0.5)
    for times, target in (((5, 3, 1), 8), ((5, 3, 0), 7), ((4, 3, 1), 6), ((2, -1, -1), 4)):
        first = min(time for time in times if time >= 0)
        assert predictor.weights(times, target, first) == taylorseer(order=2).weights(times, target, first)


@hypothesis.given(computed=warm_schedules, distance=st.integers(1, 5), order=st.integers(0, 3))
def test_newton_continues_polynomials_of_its_order(computed: list[int], distance: int, order: int) -> None:
    predictor, scale = newton(order=order), max(computed) + distance
    size = sum(map(abs, predictor.weights(times_of(predictor, computed), computed[-1] + distance, computed[0])))
    assert _error(predictor, computed, distance, lambda t: (t / scale) ** order) < 1e-12 * size
    if order < 3:
        worse = _error(predictor, computed, distance, lambda t: (t / scale) ** (order + 1))
        assert worse > 1e-9, "and of no higher one"


def test_newton_uses_what_there_is() -> None:
    assert newton(order=3).weights((4, -1, -1, -1), 6, 4) == (1.0, 0.0, 0.0, 0.0)
    assert newton(order=3).weights((4, 2, -1, -1), 6, 2) == (2.0, -1.0, 0.0, 0.0)


def test_adams_has_the_published_coefficients() -> None:
    """3/2 and -1/2 of two slopes, 23/12, -16/12 and 5/12 of three; at unequal times by hand."""
    assert adams(order=2).weights((4, 3, 2), 5, 0) == (2.5, -2.0, 0.5)
    slopes = (23 / 12, -16 / 12, 5 / 12)
    weights = (1 + slopes[0], slopes[1] - slopes[0], slopes[2] - slopes[1], -slopes[2])
    assert adams(order=3).weights((4, 3, 2, 1), 5, 0) == pytest.approx(weights)
    # 2 steps beyond 5, 4 and 1: the line through the slopes at 5 (s0) and 4 (s1 / 3), 2 (s0 + (s0 - s1 / 3)).
    assert adams(order=2).weights((5, 4, 1), 7, 0) == pytest.approx((1 + 4, -4 - 2 / 3, 2 / 3))


def test_foca_has_its_equations_numbers() -> None:
    """One step beyond 4, 3 and 2: derivative 3/2, -2, 1/2; forecast 5/2, -2, 1/2; Heun's mean of two derivatives."""
    forecast = (2.5, -2.0, 0.5)
    there = (1.5 * forecast[0] - 2, 1.5 * forecast[1] + 0.5, 1.5 * forecast[2])
    means = [(a + b) / 2 for a, b in zip((1.5, -2.0, 0.5), there, strict=True)]
    assert foca().weights((4, 3, 2), 5, 0) == pytest.approx((1 + means[0], means[1], means[2]))
    assert foca().weights((4, 2, -1), 7, 2) == pytest.approx((2.5, -1.5, 0.0)), "two steps: the line"


def test_hermite_has_the_published_numbers() -> None:
    """At 2 steps beyond 4 and 6: y + 2 s^2 k d1 + (4 s^4 k^2 - 2 s^2) d2 / 2, by hand."""
    assert hermite(order=1).weights((6, 4), 8, 0) == (1.5, -0.5)  # half the slope: 1 + 2 * 0.25 * 2 / 2
    second = hermite(order=2).weights((6, 4, 0), 8, 0)
    # d1 = (y6 - y4) / 2, d2 = (d1 - (y4 - y0) / 4) / 2; H1 = 2 * 0.5 * 0.5 * 2 = 1; H2 = 0.25 * (4 - 2) / 2 = 0.25
    assert second == pytest.approx((1 + 0.5 + 0.25 * 0.25, -0.5 - 0.25 * 0.375, 0.25 * 0.125))


@pytest.mark.parametrize("order", ORDERS)
@hypothesis.given(computed=computed_steps, distance=st.integers(1, 8), scale=st.sampled_from((0.25, 0.5, 1.0)))
def test_hermite_is_the_recursion_with_other_polynomials(
    order: int, computed: list[int], distance: int, scale: float
) -> None:
    predictor, recursion = hermite(order=order, scale=scale), Hermitian(order, scale)
    for time in computed:
        recursion.update(math.sin(time), time)
    times, target = times_of(predictor, computed), computed[-1] + distance
    weights = predictor.weights(times, target, computed[0])
    ours = sum(w * math.sin(t) for w, t in zip(weights, times, strict=True) if t >= 0)
    assert ours == pytest.approx(recursion.predict(target), abs=1e-9 * sum(map(abs, weights)))


@pytest.mark.parametrize("scale", [0, -0.5, 1.5, math.nan, "0.5", True])
def test_hermite_refuses_another_scale(scale: object) -> None:
    with pytest.raises((ValueError, TypeError), match="scale"):
        hermite(scale=scale)  # type: ignore[arg-type]


@hypothesis.given(computed=computed_steps, distance=st.integers(1, 8), order=st.integers(0, 3))
def test_without_a_table_it_is_taylorseer(computed: list[int], distance: int, order: int) -> None:
    empty, seer = calibrated(table=(), order=order), taylorseer(order=order)
    arguments = (times_of(seer, computed), computed[-1] + distance, computed[0])
    assert empty.history == seer.history and empty.weights(*arguments) == seer.weights(*arguments)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_cold_start_repeats_the_last_residual(order: int) -> None:
    predictor = taylorseer(order=order)
    for computed in ([0], [0, 1], [0, 1, 2], [4, 5, 6]):
        weights = predictor.weights(times_of(predictor, computed), computed[-1] + 2, computed[0])
        assert weights == (1.0,) + (0.0,) * order
    warm = predictor.weights(times_of(predictor, [0, 3]), 5, 0)
    assert warm[:2] == pytest.approx((5 / 3, -2 / 3)), "a slope exists from step 3 on"


@pytest.mark.parametrize("order", [2, 3])
def test_taylorseer_is_not_exact_on_quadratics(order: int) -> None:
    """The exception its docstring states: the first difference is a slope between two steps."""
    predictor = taylorseer(order=order)
    assert _error(predictor, [0, 3, 4, 5, 6], 1, lambda t: float(t * t)) == pytest.approx(1.0)
    assert _error(predictor, [0, 3, 4, 5, 6], 1, lambda t: float(t)) < 1e-12
    assert "not* exact on quadratics" in (taylorseer.__doc__ or "")


@pytest.mark.parametrize("order", ORDERS)
@hypothesis.settings(max_examples=150)
@hypothesis.given(schedule=st.lists(st.booleans(), min_size=1, max_size=40), first=st.integers(0, 5))
def test_weights_reproduce_the_published_recursion(order: int, schedule: list[bool], first: int) -> None:
    """Against the recursion on tensors, over random schedules of computed and skipped steps."""
    generator = torch.Generator().manual_seed(len(schedule))
    predictor, recursion = taylorseer(order=order), Recursion(order)
    stored: dict[int, torch.Tensor] = {}
    for time, computes in enumerate([True, *schedule], start=first):
        if computes:
            stored[time] = torch.randn(5, generator=generator, dtype=torch.float64)
            recursion.update(stored[time], time)
            continue
        times = times_of(predictor, sorted(stored))
        weights = predictor.weights(times, time, first)
        ours = sum(w * stored[t] for w, t in zip(weights, times, strict=True) if t >= 0)
        theirs = recursion.predict(time)
        size = max(1.0, float(sum(abs(w) for w in weights)))
        assert float((ours - theirs).abs().max()) <= 1e-12 * size
