"""Step masks: the published tables, bins, and what turns a mask off."""

import pytest

import pure
from pure.rules import Warmup, check, resolve, settle
from pure.transforms import dbcache, scm
from pure.transforms.scm import PRESETS, preset_mask
from tests.support.masks import COUNTS, MASKS
from tests.support.situation import RANDOM, Situation

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


@pytest.mark.parametrize("count", WITHOUT)
@pytest.mark.parametrize("policy", ["dynamic", "static"])
def test_a_missing_mask_leaves_dbcache_on(count: int, policy: str) -> None:
    cache = dbcache(front=1, threshold=0.9, warmup=1, max_continuous=None)
    with_mask = Situation(
        model=RANDOM, transform=pure.compose(cache, scm(preset="fast", policy=policy)), seeds=(1,), count=count
    )
    without = Situation(model=RANDOM, transform=cache, seeds=(1,), count=count)
    denoiser = with_mask.transform(RANDOM.first)
    if count > 1:
        with pytest.warns(
            UserWarning, match=f"no mask 'fast' for {count} steps .* the mask is off, other rules stay on"
        ):
            denoiser.init(RANDOM.params, with_mask.conditioning(), with_mask.latents(), count)
    assert [entry.info for entry in with_mask.trace()] == [entry.info for entry in without.trace()]
    assert sum(not entry.info.computed[0] for entry in with_mask.trace()) == count - 1


def test_a_preset_asked_for_other_steps_says_so() -> None:
    source = scm(preset="fast", steps=28).source
    with pytest.warns(UserWarning, match="'fast' was asked for 28 steps and is derived anew for this run's 8"):
        assert source.mask(8) == preset_mask("fast", 8)
    assert source.mask(28) == preset_mask("fast", 28)


def test_bins() -> None:
    source = scm(compute_bins=[2, 1], cache_bins=[1, 2], steps=6).source
    assert source.mask(6) == (1, 1, 0, 1, 0, 0)
    with pytest.warns(UserWarning, match="the bins cover 6 of 8 steps; the remaining 2 are computed"):
        assert source.mask(8) == (1, 1, 0, 1, 0, 0, 1, 1)
    with pytest.warns(UserWarning, match="the bins cover 6 steps and are cut to the run's 4"):
        assert source.mask(4) == (1, 1, 0, 1)
    assert scm(compute_bins=[1, 1, 1], cache_bins=[1]).source.mask(4) == (1, 0, 1, 1)


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
        ({"preset": "fast", "steps": 0}, r"scm\(steps=0\): the number of steps must be a whole number of at least 1"),
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
    late = Situation(model=RANDOM, transform=scm(mask="0101", policy="static"), seeds=(1,), count=4)
    with pytest.raises(
        ValueError, match=r"the static mask 0101 starts with 0, .*; start it with 1 or use policy='dynamic'"
    ):
        late.start()


def test_a_mask_is_resolved_once_and_quietly() -> None:
    source = scm(compute_bins=[1], cache_bins=[1]).source
    assert resolve(source, 4) == (1, 0, 1, 1) and resolve(source, 4) is resolve(source, 4)
    with pytest.warns(UserWarning, match="the bins cover 2 of 4 steps"):
        check(scm(compute_bins=[1], cache_bins=[1], policy="static")(RANDOM.first).plan.rules, 4)
