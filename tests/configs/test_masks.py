"""The masks of cache-dit 1.5.3, as its `steps_mask()` prints them, reached through configuration."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import pure
from pure.configs import Facts, build, load_text, read_environment, read_request, resolve
from pure.configs.environment import PREFIX
from pure.transforms import scm
from tests.support.masks import COUNTS, MASKS

PRESETS = ("slow", "medium", "fast", "ultra")


def mask(transform, steps):
    """The mask that a composed transform follows."""
    (rule,) = [part for part in getattr(transform, "transforms", ()) if isinstance(part, scm)]
    entries = rule.source.mask(steps)
    assert entries is not None
    return "".join(map(str, entries))


def by_file(preset, steps):
    text = f"cache_config: {{steps_computation_mask: {preset}, num_inference_steps: {steps}}}"
    return mask(build(resolve(file=load_text(text))), steps)


def by_environment(preset, steps):
    environ = {f"{PREFIX}ENABLED": "1", f"{PREFIX}SCM_PRESET": preset}
    return mask(build(resolve(environment=read_environment(environ))), steps)


def by_request(preset, steps):
    return mask(build(resolve(request=read_request({"scm_preset": preset}))), steps)


@pytest.mark.parametrize("source", [by_file, by_environment, by_request])
@pytest.mark.parametrize(("steps", "preset"), list(MASKS))
def test_published_masks(source, steps, preset):
    assert source(preset, steps) == MASKS[steps, preset]


@pytest.mark.parametrize(("steps", "counts"), list(COUNTS.items()))
def test_published_counts(steps, counts):
    assert tuple(by_file(preset, steps).count("1") for preset in PRESETS) == counts


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_the_other_short_runs_have_no_mask_and_say_so(steps):
    transform = build(resolve(request=read_request({"scm_preset": "fast"})))
    (rule,) = [part for part in getattr(transform, "transforms", ()) if isinstance(part, scm)]
    assert rule.source.mask(steps) is None
    assert rule.source.notes(steps)[0].text.startswith(f"there is no mask 'fast' for {steps} steps")


@pytest.mark.parametrize("experts", [None, 1, 2])
@pytest.mark.parametrize(
    ("keys", "made"),
    [
        ("steps_computation_mask: fast", {"preset": "fast"}),
        ("scm_compute_bins: [2], scm_cache_bins: [4]", {"compute_bins": (2,), "cache_bins": (4,)}),
        ("steps_computation_mask: '110010'", {"mask": "110010"}),
    ],
)
def test_a_mask_takes_steps_and_policy_of_its_expert(keys, made, experts):
    """Two experts share the steps, so that a mask is not held against the number of all."""
    text = f"cache_config: {{{keys}, num_inference_steps: 6, steps_computation_policy: static}}"
    transform: Any = build(resolve(file=load_text(text), facts=Facts(experts=experts)))
    (found,) = (part for part in transform.transforms if isinstance(part, scm))
    assert found == scm(**made, policy="static", steps=None if experts == 2 else 6)


def test_the_bins_of_the_page():
    environ = {
        f"{PREFIX}ENABLED": "1",
        f"{PREFIX}SCM_COMPUTE_BINS": "8,3,3,2,2",
        f"{PREFIX}SCM_CACHE_BINS": "1,2,2,2,3",
    }
    sources: list[dict[str, Any]] = [
        {"environment": read_environment(environ)},
        {"request": read_request({"scm_compute_bins": [8, 3, 3, 2, 2], "scm_cache_bins": [1, 2, 2, 2, 3]})},
        {"file": load_text("cache_config: {scm_compute_bins: [8, 3, 3, 2, 2], scm_cache_bins: [1, 2, 2, 2, 3]}")},
    ]
    for source in sources:
        assert mask(build(resolve(**source)), 28) == "1111111101110011100110011000"


@given(st.integers(8, 200))
def test_every_preset_fits_starts_and_ends_with_a_computed_step_and_computes_less_than_the_one_before(steps):
    masks = [by_request(preset, steps) for preset in PRESETS]
    assert all(len(found) == steps and found[0] == found[-1] == "1" for found in masks)
    counts = [found.count("1") for found in masks]
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0] <= steps


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60), st.sampled_from(["list", "text"]))
def test_an_explicit_mask_is_followed_entry_by_entry(entries, form):
    written = str(entries) if form == "list" else f"'{''.join(map(str, entries))}'"
    found = build(resolve(file=load_text(f"cache_config: {{steps_computation_mask: {written}}}")))
    assert mask(found, len(entries)) == "".join(map(str, entries))


@pytest.mark.filterwarnings("ignore:the bins cover")
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.integers(1, 60),
)
def test_bins_alternate_and_fill_up_with_computed_steps(compute, cache, steps):
    assume(compute[0] > 0)
    found = mask(build(resolve(request=read_request({"scm_compute_bins": compute, "scm_cache_bins": cache}))), steps)
    expected = ""
    for place in range(max(len(compute), len(cache))):
        expected += "1" * (compute[place] if place < len(compute) else 0)
        expected += "0" * (cache[place] if place < len(cache) else 0)
    assert found == (expected + "1" * steps)[:steps]


def test_a_mask_alone_composes():
    assert isinstance(build(resolve(request=read_request({"scm_preset": "fast"}))), pure.Composed)
