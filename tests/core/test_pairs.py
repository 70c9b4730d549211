"""Every policy beside every other one: composed as documented, or refused in words that name both."""

import itertools
import re

import attrs
import pytest

import pure
from pure.plan import Conflict, Plan, Probe, Span
from pure.rules import Mask, Threshold, Warmup
from pure.testing.toys import RANDOM
from pure.transforms import (
    budget,
    dbcache,
    dbprune,
    easycache,
    fora,
    magcache,
    newton,
    scm,
    seacache,
    speca,
    taylorseer,
    teacache,
)
from tests.support.flux import FLUX_DEV

MASKS = (fora(), magcache(ratios=(1.0, 0.9, 0.9)), scm(mask="10100110"), scm(preset="fast", policy="static"))
BLOCKS = (dbcache(), dbprune())  # a mask says which steps are skipped, they say which blocks of them
MEASURING = (teacache(), easycache(), seacache(), budget(), speca())  # a dynamic mask leaves them the zeros
POLICIES = (
    *MASKS, *BLOCKS, *MEASURING, dbcache(max_continuous=None), dbcache(front=0, back=1, threshold=1.0, warmup=0),
)  # fmt: skip


def go_together(one: pure.Transform, other: pure.Transform) -> bool:
    """Whether one of the two is a mask and the other is none."""
    return (one in MASKS) != (other in MASKS)


@pytest.mark.parametrize("pair", list(itertools.combinations(POLICIES, 2)), ids=str)
def test_two_policies(pair) -> None:
    for one, other in (pair, pair[::-1]):
        if go_together(one, other):
            assert pure.compose(one, other)(FLUX_DEV.first) == other(one(FLUX_DEV.first))
            continue
        names = re.escape(f"{repr(one)[:100]}") + ".* and " + re.escape(f"{repr(other)[:100]}")
        for apply in (pure.compose(one, other), lambda denoiser, one=one, other=other: other(one(denoiser))):
            with pytest.raises(ValueError, match=rf"^{names}.* both set .*; compose only one of the two$"):
                apply(FLUX_DEV.first)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_policy_twice_is_once_and_goes_with_any_predictor(policy) -> None:
    for parts in ((policy, policy), (taylorseer(order=1), policy, policy), (policy, newton(), policy)):
        found, once = pure.compose(*parts)(FLUX_DEV.first), pure.compose(*dict.fromkeys(parts))(FLUX_DEV.first)
        assert found == once and found.plan.rules == policy(FLUX_DEV.first).plan.rules


def test_a_static_mask_says_what_it_leaves_nothing_to_decide() -> None:
    for mask in (MASKS[0], MASKS[3]):
        for policy in MEASURING:
            notes = [note.text for note in pure.compose(mask, policy)(FLUX_DEV.first).notes(28)]
            name = type(policy).__name__
            assert notes == [
                f"{name} has no effect: the static mask decides about every step; leave one of the two out, or use a "
                "mask with policy='dynamic'"
            ]
        for policy in BLOCKS:
            assert not pure.compose(mask, policy)(FLUX_DEV.first).notes(28)
    assert not pure.compose(MASKS[2], easycache(warmup=0))(FLUX_DEV.first).notes(8)


@attrs.frozen
class Before(pure.Rule):
    """Asked before a mask."""

    name = "before"
    before = Mask

    def answer(self, where: pure.Where, memory: pure.Memory) -> pure.Answer:
        return pure.Answer.COMPUTE if where.index % 2 else pure.Answer.DEFER

    def cure(self, count: int) -> str:
        return "take even steps only"


def test_a_rule_before_the_mask_is_asked_and_has_a_cure_of_its_own() -> None:
    plan = scm(mask="1001", policy="static")(RANDOM.first).plan.add(Before())
    assert not attrs.evolve(RANDOM.first, plan=plan).notes(4)
    plan = scm(mask="1110", policy="static")(RANDOM.first).plan.add(Before())
    (note,) = attrs.evolve(RANDOM.first, plan=plan).notes(4)
    assert note.text == (
        "nothing will be skipped: before and mask compute every one of 4 steps; take even steps only; give the mask a "
        "0 where a step may be skipped"
    )


@attrs.frozen
class spanning(pure.Transform):
    """One of a user's own."""

    front: int = 1

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        plan = denoiser.plan.set(span=Span(front=self.front), probe=Probe()).add(Warmup(self.front))
        return attrs.evolve(denoiser, plan=plan)


def test_ones_own_transforms_are_named_too() -> None:
    for one, other in ((spanning(), dbcache()), (dbcache(), spanning()), (spanning(), spanning(front=2))):
        names = f"{re.escape(repr(one))} and {re.escape(repr(other))}"
        with pytest.raises(ValueError, match=f"^{names} both set (which blocks may be skipped|the rule 'warm-up');"):
            pure.compose(one, other)(RANDOM.first)
    assert pure.compose(spanning(), spanning())(RANDOM.first) == spanning()(RANDOM.first)


def test_what_is_set_by_hand_has_no_name_and_is_nobodys() -> None:
    by_hand = attrs.evolve(RANDOM.first, plan=Plan().set(span=Span(front=1)).add(Threshold(0.1)))
    with pytest.raises(Conflict, match=r"a rule is set twice, as Threshold.*0.1.* and as Threshold.*0.24"):
        dbcache()(by_hand)
    shared = dbcache(threshold=0.1)(by_hand)
    assert shared.plan.owners["span"] is None and shared.plan.owners[Warmup] == dbcache(threshold=0.1)
    with pytest.raises(Conflict, match=r"span is set twice, to Span\(front=1.* and to Span\(front=2"):
        dbcache(front=2)(by_hand)


@pytest.mark.parametrize(
    ("transform", "cure"),
    [
        (dbcache(warmup=9), "use a shorter warm-up or more steps"),
        (dbcache(threshold=0.0), "a threshold of 0 never skips: raise it"),
        (dbcache(max_cached=0), "the total limit is 0, which never skips: raise it"),
        (dbcache(max_continuous=0), "the continuous limit is 0, which never skips: raise it"),
        (dbcache(max_accumulated=0.0), "the accumulated limit is 0, which never skips: raise it"),
        (dbprune(warmup=6), "use a shorter warm-up or more steps"),
        (dbprune(threshold=0.0, warmup=0), "a threshold of 0 never skips: raise it"),
        (scm(mask="111111", policy="static"), "give the mask a 0 where a step may be skipped"),
        (scm(compute_bins=[6], cache_bins=[2]), "shorten compute_bins, so that cache_bins come before the end"),
        (scm(preset="fast"), "no rule skips: add dbcache(threshold=...) or a static mask"),
        (fora(interval=1), "an interval of 1 computes all: raise it"),
        (fora(warmup=6), "use a shorter warm-up or more steps"),
        (magcache(ratios=(1.0,), max_skip=0), "with 0 skips in a row nothing is skipped: raise max_skip"),
        (
            magcache(ratios=(1.0,), retention=1.0),
            "lower retention, which is the part of the steps that is computed, or raise the threshold",
        ),
        (teacache(threshold=0.0), "a threshold of 0 never skips: raise it"),
        (teacache(warmup=7), "use a shorter warm-up or more steps"),
        (easycache(), "use a shorter warm-up or more steps"),
        (easycache(threshold=0.0), "a threshold of 0 never skips: raise it"),
        (seacache(ending=9), "use a shorter warm-up or more steps"),
        (seacache(max_continuous=0), "with 0 skips in a row nothing is skipped: raise max_continuous"),
        (budget(warmup=6), "use a shorter warm-up or more steps"),
        (budget(early=0.0, late=0.0), "a budget of 0 never skips: raise early or late"),
        (speca(warmup=6), "use a shorter warm-up or more steps"),
        (speca(most=0), "with most=0 nothing is drafted: raise it"),
    ],
    ids=str,
)
def test_where_nothing_will_be_skipped_the_cure_is_named(transform: pure.Transform, cure: str) -> None:
    texts = [note.text for note in transform(FLUX_DEV.first).notes(6)]
    (text,) = (text for text in texts if text.startswith("nothing will be skipped: "))
    assert text.endswith(f" every one of 6 steps; {cure}"), text


@pytest.mark.parametrize(
    ("transform", "always"),
    [
        (speca(back=4), "the first 0 and the last 4"),
        (budget(front=4), "the first 4 and the last 0"),
        (dbcache(front=3, back=1), "the first 3 and the last 1"),
        (pure.compose(fora(), dbcache(front=4)), "the first 4 and the last 0"),
    ],
    ids=str,
)
def test_where_no_block_is_left_to_skip_the_run_says_so(transform: pure.Transform, always: str) -> None:
    (note,) = transform(FLUX_DEV.first).notes(8)
    assert note.kind == "warning" and note.text == (
        f"no block is left to skip: {always} of 4 blocks always run, so that no step takes less time; make them fewer"
    )
    assert not dbcache(front=3)(FLUX_DEV.first).notes(8)
    idle = dbcache(front=4, threshold=0.0)(FLUX_DEV.first).notes(8)
    assert [note.text[:23] for note in idle] == ["nothing will be skipped"], "one reason is enough"
