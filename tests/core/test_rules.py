"""Rules: their order, their answers, and the notes on plans that cannot skip."""

import itertools
import math
from typing import Any

import attrs
import hypothesis
import pytest
from hypothesis import strategies as st

from pure.decide import can_skip, check, decide, measures
from pure.info import Answer, Decision
from pure.measure import relative
from pure.memory import Memory, read, write
from pure.notes import Note
from pure.plan import Plan
from pure.rules import (
    Accumulated,
    Continuous,
    Entries,
    Mask,
    Rule,
    Threshold,
    Total,
    Warmup,
    place,
)
from pure.step import Where
from pure.transforms.scm import Explicit

COMPUTE, SKIP, DEFER = Answer.COMPUTE, Answer.SKIP, Answer.DEFER


def judge(rules: tuple, change: float) -> tuple[Answer, str]:
    return decide(rules, Where(5, 10), memory(), change)


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


@attrs.frozen
class Own(Rule):
    """A rule of one's own, at a place that the tests choose."""

    name = "own"
    says: Any = Answer.DEFER

    def answer(self, where: Where, memory: Memory) -> Any:
        return self.says


def own(**places: Any) -> Any:
    """A kind of rule that stands where it says."""
    return attrs.frozen(type("Placed", (Own,), {**places, "__annotations__": {}}))


@pytest.mark.parametrize(
    ("places", "neighbours"),
    [
        ({"before": Warmup}, (None, Warmup)),
        ({"before": Mask}, (Warmup, Mask)),
        ({"after": Mask}, (Mask, Total)),
        ({"before": Threshold}, (Accumulated, Threshold)),
        ({"after": Threshold}, (Threshold, None)),
        ({"rank": 2.5}, (Total, Continuous)),
    ],
)
def test_a_rule_of_ones_own_says_where_it_stands(places: dict, neighbours: tuple) -> None:
    rule = own(**places)()
    for order in itertools.islice(itertools.permutations((rule, *RULES)), 0, 5040, 500):
        rules = Plan().add(*order).rules
        at = rules.index(rule)
        assert type(rules[at - 1]) is neighbours[0] if at else neighbours[0] is None
        assert type(rules[at + 1]) is neighbours[1] if at + 1 < len(rules) else neighbours[1] is None


def test_a_rule_may_stand_beside_another_of_ones_own() -> None:
    first = own(before=Threshold)
    second, third = own(before=first), own(after=first)
    rules = Plan().add(Threshold(0.2), third(), first(), second()).rules
    assert [type(rule) for rule in rules] == [second, first, third, Threshold]
    assert place(second) < place(first) < place(third) < place(Threshold)


@pytest.mark.parametrize("places", [{"rank": 1}, {"before": Mask}])
def test_two_rules_at_one_place_are_refused_in_either_order(places: dict) -> None:
    one = own(**places)()
    other = MASK if "rank" in places else own(**places)()
    for pair in ((one, other), (other, one)):
        with pytest.raises(ValueError, match=r"stand at the same place among the rules") as error:
            Plan().add(pair[0]).add(pair[1])
        assert str(one) in str(error.value) and str(other) in str(error.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (3, "a plan takes rules, got 3"),
        (Threshold, r"a plan takes rules, got <class .*Threshold.*; call it: Threshold\(...\)"),
        (own()(), "Placed must say where it stands among the rules"),
        (
            own(before=Mask, after=Total)(),
            "Placed must say where it stands .*: set one of before and after",
        ),
        (own(before=Mask, name=None)(), "Placed has no name; set name to the reason that it gives"),
        (type("Loose", (Rule,), {"name": "loose", "before": Mask})(), "Loose must be a frozen record"),
    ],
)
def test_what_is_no_rule_is_refused(rule: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Plan().add(rule)


@pytest.mark.parametrize("says", [True, False, None, "skip", 1])
def test_an_answer_that_is_none_names_the_rule(says: Any) -> None:
    rule = own(before=Threshold)(says)
    with pytest.raises(
        TypeError, match=rf"Placed\(says={says!r}\) answered {says!r} at step 7; answer\(\) must return"
    ):
        decide((rule, Threshold(0.2)), Where(7, 10), memory())


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
        ((Entries((0, 1), "static"),), 2, {}, (SKIP, "mask")),
        ((Entries((0, 1), "dynamic"), Total(0)), 2, {}, (COMPUTE, "total limit")),
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
    assert math.isnan(relative(1.0, math.nan))


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


def nothing(why: str) -> tuple[Note, ...]:
    return (Note(f"nothing will be skipped: {why}"),)


@pytest.mark.parametrize(
    ("rules", "count", "expected"),
    [
        (
            (Warmup(4), Threshold(0.2)),
            4,
            nothing("warm-up computes every one of 4 steps; use a shorter warm-up or more steps"),
        ),
        (
            (Mask(Explicit((1, 1, 1)), "dynamic"), Threshold(0.2)),
            3,
            nothing("mask computes every one of 3 steps; give the mask a 0 where a step may be skipped"),
        ),
        ((Threshold(0.2),), 1, nothing("a run of 1 step is its first step, which is computed; take more steps")),
        (
            (Threshold(0.0),),
            3,
            nothing("threshold computes every one of 3 steps; a threshold of 0 never skips: raise it"),
        ),
        (
            (Warmup(2), Total(0)),
            3,
            nothing(
                "warm-up and total limit compute every one of 3 steps; the total limit is 0, which never skips: "
                "raise it"
            ),
        ),
        (
            (MASK,),
            4,
            nothing(
                "default and mask compute every one of 4 steps; no rule skips: add dbcache(threshold=...) or a "
                "static mask"
            ),
        ),
        ((Warmup(3), Threshold(0.2)), 4, ()),
        ((), 4, ()),
    ],
)
def test_a_run_that_cannot_skip_is_noted(rules: tuple, count: int, expected: tuple) -> None:
    assert check(rules, count) == expected


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


def test_changes_add_up_from_one_computed_step_to_the_next() -> None:
    now = Memory(skipped=0, streak=0, computed=1, first=0, accumulated=0.0, times=(0,))
    found = []
    for index, change in ((1, 0.2), (2, 0.3), (3, None), (4, 0.1), (5, 0.4)):
        decision = Decision(index=index, computed=index == 4, reason="", change=change, blocks=0)
        now = now.after(decision)
        found.append((now.skipped, now.streak, now.accumulated))
    assert found == [(1, 1, 0.2), (2, 2, 0.5), (3, 3, 0.5), (3, 0, 0.0), (4, 1, 0.4)]
