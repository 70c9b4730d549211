"""Step masks: the published tables, bins, and what turns a mask off."""

import pytest

import pure
from pure import Note
from pure.decide import check, settle
from pure.rules import Mask, Warmup, resolve
from pure.testing.situation import Situation
from pure.testing.toys import RANDOM
from pure.transforms import dbcache, fora, scm
from pure.transforms.scm import PRESETS, preset_mask
from tests.support.masks import COUNTS, MASKS

WITHOUT = (1, 2, 3, 5, 7)


@pytest.mark.parametrize(("count", "preset"), MASKS)
def test_published_masks(count: int, preset: str) -> None:
    assert "".join(map(str, preset_mask(preset, count) or ())) == MASKS[count, preset]


@pytest.mark.parametrize("count", COUNTS)
def test_published_numbers_of_computed_steps(count: int) -> None:
    assert tuple(sum(preset_mask(preset, count) or ()) for preset in PRESETS) == COUNTS[count]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_every_number_of_steps(preset: str) -> None:
    for count in range(1, 151):
        mask = preset_mask(preset, count)
        assert (mask is None) == (count in WITHOUT)
        if mask is not None:
            assert len(mask) == count and mask[0] == mask[-1] == 1 and set(mask) <= {0, 1}


@pytest.mark.parametrize(
    ("interval", "warmup", "computed"),
    [(3, 0, "1001001001"), (3, 2, "1101001001"), (4, 5, "1111100010"), (1, 0, "1" * 10), (20, 0, "1000000000")],
)
def test_fora_computes_every_nth_step(interval: int, warmup: int, computed: str) -> None:
    every = fora(interval=interval, warmup=warmup)
    for transform in (every, pure.compose(every, dbcache(front=1, threshold=0.0, warmup=0))):
        entries = Situation(model=RANDOM, transform=transform, count=10, seeds=(1, 2)).trace()
        assert "".join(str(int(entry.info.computed[0])) for entry in entries) == computed
        assert all(len(set(entry.info.computed)) == 1 for entry in entries)


def test_fora_is_a_mask() -> None:
    (rule,) = fora(interval=2)(RANDOM.first).plan.rules
    assert isinstance(rule, Mask) and resolve(rule.source, 5) == (1, 0, 1, 0, 1) and not check((rule,), 5)
    assert check(fora(interval=1)(RANDOM.first).plan.rules, 5)[0].text.startswith("nothing will be skipped")
    with pytest.raises(ValueError, match=r"fora\(interval=2\) and scm\(.*\) both set the rule 'mask'"):
        pure.compose(fora(interval=2), scm(preset="fast"))(RANDOM.first)
    for given in ({"interval": 0}, {"interval": 2.5}, {"warmup": -1}):
        with pytest.raises((ValueError, TypeError), match=next(iter(given))):
            fora(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", WITHOUT)
@pytest.mark.parametrize("policy", ["dynamic", "static"])
def test_a_missing_mask_leaves_dbcache_on(count: int, policy: str) -> None:
    cache = dbcache(front=1, threshold=0.9, warmup=1, max_continuous=None)
    with_mask = Situation(
        model=RANDOM, transform=pure.compose(cache, scm(preset="fast", policy=policy)), seeds=(1,), count=count
    )
    without = Situation(model=RANDOM, transform=cache, seeds=(1,), count=count)
    denoiser = with_mask.transform(RANDOM.first)
    note = f"there is no mask 'fast' for {count} steps (only for 4, 6, and 8 or more); the mask is off, other rules "
    assert denoiser.notes(count)[0] == Note(f"{note}stay on")
    assert [entry.info for entry in with_mask.trace()] == [entry.info for entry in without.trace()]
    assert sum(not entry.info.computed[0] for entry in with_mask.trace()) == count - 1


def test_a_preset_asked_for_other_steps_says_so() -> None:
    source = scm(preset="fast", steps=28).source
    assert source.mask(8) == preset_mask("fast", 8)
    assert source.notes(8) == (Note("the mask 'fast' is meant for 28 steps; this run of 8 has its own"),)
    assert source.notes(40) == (Note("the mask 'fast' is meant for 28 steps; this run of 40 has its own"),)
    assert source.mask(28) == preset_mask("fast", 28) and source.notes(28) == ()


def test_bins() -> None:
    source = scm(compute_bins=[2, 1], cache_bins=[1, 2], steps=6).source
    assert source.mask(6) == (1, 1, 0, 1, 0, 0)
    assert source.mask(8) == (1, 1, 0, 1, 0, 0, 1, 1)
    assert source.notes(8) == (Note("the bins cover 6 of 8 steps; the remaining 2 are computed"),)
    assert source.mask(4) == (1, 1, 0, 1)
    assert source.notes(4) == (Note("the bins cover 6 steps and are cut to the run's 4"),)
    assert source.notes(6) == ()
    assert scm(compute_bins=[1, 1, 1], cache_bins=[1]).source.mask(4) == (1, 0, 1, 1)
    assert scm(compute_bins=[1], cache_bins=[1, 2]).source.mask(5) == (1, 0, 0, 0, 1)


@pytest.mark.parametrize("huge", [10**9, 10**18, 10**40])
def test_bins_larger_than_memory_are_cut_before_they_are_written_out(huge: int) -> None:
    source = scm(compute_bins=[2, huge], cache_bins=[1, huge]).source
    assert source.mask(6) == (1, 1, 0, 1, 1, 1)
    assert source.notes(6) == (Note(f"the bins cover {2 * huge + 3} steps and are cut to the run's 6"),)
    assert scm(compute_bins=[1], cache_bins=[huge]).source.mask(4) == (1, 0, 0, 0)


def test_masks_may_be_written_in_any_way() -> None:
    assert scm(mask="1101") == scm(mask=[1, 1, 0, 1]) == scm(mask=(1, 1, 0, 1))


def test_none_is_no_mask() -> None:
    assert scm(preset="none")(RANDOM.first) == RANDOM.first


def test_leading_ones_cap_the_warm_up() -> None:
    recipe = pure.compose(dbcache(threshold=0.9, warmup=6), scm(mask="11010101", policy="static"))
    situation = Situation(model=RANDOM, transform=recipe, seeds=(1,), count=8)
    assert [entry.info.computed[0] for entry in situation.trace()] == [c == "1" for c in "11010101"]
    warmup = settle(situation.single.plan.rules, 8)[0]
    assert isinstance(warmup, Warmup) and warmup.steps == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"scm takes one of preset, mask, or compute_bins with cache_bins; got none"),
        ({"preset": "fast", "mask": "11"}, r"scm takes one of .*; got \['preset', 'mask'\]"),
        ({"preset": "quick"}, r"scm\(preset='quick'\): choose one of \['slow', 'medium', 'fast', 'ultra', 'none'\]"),
        ({"mask": "1121"}, r"scm\(mask='1121'\): a mask is a sequence of 0 and 1"),
        ({"mask": ""}, r"scm\(mask=''\): a mask is a sequence"),
        ({"mask": 7}, r"scm\(mask=7\): a mask is a sequence"),
        ({"mask": "11", "policy": "often"}, r"scm\(policy='often'\): choose one of \['dynamic', 'static'\]"),
        (
            {"mask": "1101", "steps": 5},
            r"the mask 1101 has 4 entries, but the run has 5 steps; give 5 entries or run 4",
        ),
        ({"preset": "fast", "steps": 0}, r"scm\(steps=0\): the number of steps must be a whole number of 1 to 10000"),
        ({"preset": "fast", "steps": True}, r"scm\(steps=True\): the number of steps must be a whole number"),
        (
            {"preset": "fast", "steps": 10**9},
            r"scm\(steps=1000000000\): the number of steps must be",
        ),
        ({"preset": ["fast"]}, r"scm\(preset=\['fast'\]\): choose one of"),
        ({"mask": "11", "policy": ["static"]}, r"scm\(policy=\['static'\]\): choose one of"),
        ({"mask": [True, False]}, r"scm\(mask=\[True, False\]\): a mask is a sequence of 0 and 1"),
        ({"mask": [1.0, 0.0]}, r"scm\(mask=\[1.0, 0.0\]\): a mask is a sequence of 0 and 1"),
        ({"mask": "01" * 500, "steps": 5}, r"the mask (01){40}\.\.\. has 1000 entries, but the run has 5 steps"),
        ({"compute_bins": [2.0], "cache_bins": [1]}, r"scm\(compute_bins=\[2.0\]\): bins are whole numbers"),
        ({"compute_bins": [True], "cache_bins": [1]}, r"scm\(compute_bins=\[True\]\): bins are whole numbers"),
        ({"compute_bins": [], "cache_bins": [1]}, r"scm\(compute_bins=\[\]\): bins are whole numbers"),
        ({"preset": "fast", "steps": 2.5}, r"scm\(steps=2.5\): the number of steps must be a whole number"),
        ({"compute_bins": [2]}, r"scm\(compute_bins=...\) needs cache_bins too"),
        ({"cache_bins": [2]}, r"scm\(cache_bins=...\) needs compute_bins too"),
        ({"compute_bins": [2, -1], "cache_bins": [1]}, r"scm\(compute_bins=\[2, -1\]\): bins are whole numbers"),
        ({"compute_bins": [0, 2], "cache_bins": [1]}, r"the first compute bin is at least 1"),
        ({"compute_bins": [2], "cache_bins": "11"}, r"scm\(cache_bins='11'\): bins are whole numbers"),
    ],
)
def test_wrong_masks_are_refused_when_made(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scm(**arguments)


def test_masks_that_do_not_fit_are_refused_by_init() -> None:
    situation = Situation(model=RANDOM, transform=scm(mask="1101", policy="static"), seeds=(1,), count=5)
    with pytest.raises(ValueError, match="the mask 1101 has 4 entries, but the run has 5 steps"):
        situation.start()
    with pytest.raises(ValueError, match=r"the mask 1{80}\.\.\. has 81 entries, but the run has 5"):
        scm(mask="1" * 81).source.mask(5)
    late = Situation(model=RANDOM, transform=scm(mask="0101", policy="static"), seeds=(1,), count=4)
    with pytest.raises(
        ValueError, match=r"the static mask 0101 starts with 0, .*; start it with 1 or use policy='dynamic'"
    ):
        late.start()


def test_a_mask_is_resolved_once() -> None:
    source = scm(compute_bins=[1], cache_bins=[1]).source
    assert resolve(source, 4) == (1, 0, 1, 1) and resolve(source, 4) is resolve(source, 4)
    rules = scm(compute_bins=[1], cache_bins=[1], policy="static")(RANDOM.first).plan.rules
    assert check(rules, 4) == (Note("the bins cover 2 of 4 steps; the remaining 2 are computed"),)
