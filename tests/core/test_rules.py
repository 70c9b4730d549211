"""Rules: their order, their answers, and the warnings about plans that cannot skip."""

import itertools
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from pure.info import Answer, Decision
from pure.measure import relative
from pure.memory import Memory, read, write
from pure.plan import Plan
from pure.rules import (
    Accumulated,
    Continuous,
    Entries,
    Mask,
    Threshold,
    Total,
    Warmup,
    can_skip,
    check,
    decide,
    judge,
    measures,
)
from pure.step import Where
from pure.transforms.scm import Explicit

COMPUTE, SKIP, DEFER = Answer.COMPUTE, Answer.SKIP, Answer.DEFER
MASK = Mask(Explicit((1, 0, 1, 0)), "dynamic")
RULES = (Warmup(2), MASK, Total(3), Continuous(2), Accumulated(0.5), Threshold(0.2))


def memory(**numbers) -> Memory:
    base = {"skipped": 0, "streak": 0, "computed": 1, "first": 0, "accumulated": 0.0, "times": (0,)}
    return Memory(**{**base, **numbers})


@pytest.mark.parametrize("order", list(itertools.permutations(RULES))[::37])
def test_rules_stand_in_canonical_order(order: tuple) -> None:
    assert Plan().add(*order).rules == RULES


def test_a_rule_set_twice_names_both_values() -> None:
    with pytest.raises(
        ValueError, match=r"a rule is set twice, as Threshold\(value=0.2\) and as Threshold\(value=0.3\)"
    ):
        Plan().add(Threshold(0.2)).add(Threshold(0.3))
    assert Plan().add(Threshold(0.2)).add(Threshold(0.2)) == Plan().add(Threshold(0.2))


@pytest.mark.parametrize(
    ("rules", "index", "numbers", "expected"),
    [
        ((Warmup(2),), 1, {}, (COMPUTE, "warm-up")),
        ((Warmup(2),), 2, {}, (COMPUTE, "default")),
        ((Warmup(6, 3), Threshold(0.2)), 2, {}, (DEFER, "measure")),
        ((Warmup(6, 3), Threshold(0.2)), 3, {}, (COMPUTE, "warm-up")),
        ((Entries((1, 0), "static"), Total(0)), 1, {}, (SKIP, "mask")),
        ((Entries((1, 0), "dynamic"), Total(0)), 1, {}, (COMPUTE, "total limit")),
        ((Entries((1, 0), "static"),), 5, {}, (SKIP, "mask")),
        ((Total(3), Continuous(0)), 9, {"skipped": 3}, (COMPUTE, "total limit")),
        ((Total(3), Continuous(2)), 9, {"skipped": 2, "streak": 2}, (COMPUTE, "continuous limit")),
        ((Accumulated(0.5), Threshold(0.2)), 9, {"accumulated": 0.5}, (COMPUTE, "accumulated limit")),
        ((Accumulated(0.5), Threshold(1.0)), 9, {"accumulated": 0.4}, (DEFER, "measure")),
        ((Threshold(1.0),), 9, {}, (SKIP, "threshold")),
        ((Threshold(0.0),), 9, {}, (COMPUTE, "threshold")),
        ((Threshold(-1.0),), 9, {}, (COMPUTE, "threshold")),
        ((Threshold(0.2),), 9, {"computed": 0}, (COMPUTE, "first step")),
        ((Entries((1, 0), "static"),), 1, {"computed": 0}, (COMPUTE, "first step")),
        ((), 9, {}, (COMPUTE, "default")),
    ],
)
def test_the_first_answer_wins(rules: tuple, index: int, numbers: dict, expected: tuple) -> None:
    assert decide(rules, Where(index, 10), memory(**numbers)) == expected


def test_a_threshold_is_strict_and_nan_computes() -> None:
    rules = (Threshold(0.2),)
    assert judge(rules, 0.19999)[0] is SKIP and judge(rules, 0.2)[0] is COMPUTE
    assert judge(rules, math.nan)[0] is COMPUTE and judge(rules, math.inf)[0] is COMPUTE


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [(1.0, 2.0, 0.5), (0.0, 0.0, 0.0), (1.0, 0.0, math.inf), (0.0, 3.0, 0.0)],
)
def test_relative_change(numerator: float, denominator: float, expected: float) -> None:
    assert relative(numerator, denominator) == expected


@pytest.mark.parametrize(("numerator", "denominator"), [(math.nan, 1.0), (1.0, math.nan), (math.nan, 0.0)])
def test_a_change_that_is_no_number_never_skips(numerator: float, denominator: float) -> None:
    assert judge((Threshold(0.5),), relative(numerator, denominator))[0] is COMPUTE


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), False),
        ((MASK,), False),
        ((MASK, Threshold(0.2)), True),
        ((Mask(Explicit((1, 0)), "static"),), True),
        ((Threshold(0.0),), False),
        ((Threshold(0.2),), True),
        ((Threshold(0.2), Total(0)), False),
        ((Threshold(0.2), Continuous(0)), False),
        ((Mask(Explicit((1, 0)), "static"), Continuous(0)), True),
    ],
)
def test_which_plans_can_skip(rules: tuple, expected: bool) -> None:
    assert can_skip(Plan().add(*rules).rules) is expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), False),
        ((Threshold(0.0),), False),
        ((Threshold(0.2),), True),
        ((Threshold(1.0),), False),
        ((Threshold(1.0), Accumulated(2.0)), True),
        ((Threshold(0.0), Accumulated(2.0)), False),
    ],
)
def test_which_plans_measure(rules: tuple, expected: bool) -> None:
    assert measures(Plan().add(*rules).rules) is expected


def test_a_run_that_cannot_skip_warns() -> None:
    with pytest.warns(UserWarning, match="nothing will be skipped: .* computes every one of 4 steps"):
        check((Warmup(4), Threshold(0.2)), 4)
    with pytest.warns(UserWarning, match="nothing will be skipped"):
        check((Mask(Explicit((1, 1, 1)), "dynamic"), Threshold(0.2)), 3)
    with pytest.warns(UserWarning, match="nothing will be skipped"):
        check((Threshold(0.2),), 1)
    check((Warmup(3), Threshold(0.2)), 4)
    check((), 4)


decisions = st.builds(
    Decision,
    index=st.integers(0, 99),
    computed=st.booleans(),
    reason=st.just(""),
    change=st.none() | st.floats(0, 10),
    blocks=st.just(1),
)


@hypothesis.given(history=st.lists(decisions, max_size=20), depth=st.integers(0, 4))
def test_memory_counts_and_survives_the_ledger(history: list[Decision], depth: int) -> None:
    state = Memory(skipped=0, streak=0, computed=0, first=-1, accumulated=0.0, times=(-1,) * depth)
    for decision in history:
        state = state.after(decision)
    done = [d for d in history if d.computed]
    tail = list(itertools.takewhile(lambda d: not d.computed, reversed(history)))
    assert (state.skipped, state.computed, state.streak) == (len(history) - len(done), len(done), len(tail))
    assert state.first == (done[0].index if done else -1)
    assert state.accumulated == pytest.approx(sum(d.change or 0.0 for d in tail))
    newest = [d.index for d in reversed(done)][:depth]
    assert state.times == (*newest, *[-1] * (depth - len(newest)))
    assert read(write([state, state])) == [state, state]
