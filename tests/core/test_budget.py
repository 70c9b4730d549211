"""An error budget: its limit, its decisions, and what is refused."""

import pytest

import pure
from pure import Answer, Memory, Where
from pure.testing.situation import Situation
from pure.testing.toys import RANDOM
from pure.transforms import budget, dbcache


def test_the_limit_goes_from_one_value_to_the_other() -> None:
    (rule,) = budget(early=0.1, late=0.5, warmup=0)(RANDOM.first).plan.rules
    spent = Memory(skipped=1, streak=1, computed=1, first=0, accumulated=0.2, times=(0,))
    asked = [rule.judge(0.1, Where(index, 8), spent) for index in (2, 3, 4, 5, 6)]
    assert asked == [Answer.COMPUTE] * 3 + [Answer.SKIP] * 2  # limits 0.2, 0.25, 0.3, 0.35, 0.4


def test_changes_are_those_of_the_front_and_add_up() -> None:
    case = Situation(model=RANDOM, transform=budget(early=0.2, late=0.6, warmup=2), seeds=(1, 2), count=12)
    sums = [0.0, 0.0]
    entries = case.trace()
    for index, entry in enumerate(entries):
        for row, decision in enumerate(entry.info.decisions):
            if index < 2:
                assert decision.computed
                continue
            assert decision.change is not None
            sums[row] += decision.change
            assert decision.computed == (sums[row] >= 0.2 + 0.4 * index / 12)
            sums[row] = 0.0 if decision.computed else sums[row]
    measured = Situation(model=RANDOM, transform=dbcache(threshold=0.5, warmup=2), seeds=(1, 2), count=12).trace()
    assert entries[2].info.changes == measured[2].info.changes
    assert {computed for entry in entries for computed in entry.info.computed} == {True, False}


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget\(\) and dbcache\(front=2\) both set which blocks may be skipped"):
        pure.compose(budget(), dbcache(front=2))(RANDOM.first)
    with pytest.raises(ValueError, match="asks for blocks that always run, but the denoiser has"):
        budget(front=1, back=99)(RANDOM.first)
    for given in ({"early": -1.0}, {"late": "x"}, {"front": 0}, {"back": -1}, {"warmup": True}):
        with pytest.raises(ValueError, match=next(iter(given))):
            budget(**given)  # type: ignore[arg-type]
    assert not budget(early=0.0, late=0.0)(RANDOM.first).plan.rules[0].may_skip
