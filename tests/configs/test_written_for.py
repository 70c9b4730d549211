"""What is written for the value of another key counts with that value only, whatever source replaces it."""

from typing import Any

import pytest

from pure.cli.cache_flags import default_sources, settle
from pure.cli.commands import generate
from pure.configs import Facts, build, load_text, read_environment, read_flags, read_request, resolve
from pure.engine.errors import Misuse
from pure.transforms import easycache, fora, teacache

EASY = "cache_config:\n  cache_type: EasyCache\n  cache_options: {threshold: 0.5, follow: conditional}\n"
TEA = read_flags(
    {"enabled": True, "cache_config.cache_type": "TeaCache"}, {"cache_config.cache_type": "--enable-teacache"}
)
LOST = "c.yaml:3:18: cache_options has no effect: it was written for cache_type: EasyCache (c.yaml:2:15), and the cache"


TYPED = '{"cache_type": "EasyCache", "cache_options": {"threshold": 0.5}}'


def file(text: str):
    return load_text(text, "c.yaml")


@pytest.mark.parametrize(
    ("layers", "made", "notes"),
    [
        ({"flags": TEA}, teacache(), [f"{LOST}_type is TeaCache (flag --enable-teacache)"]),
        ({"request": read_request({"cache_type": "FORA"})}, fora(), [f"{LOST}_type is FORA (cache_dit_params)"]),
        (
            {"request": read_request({"cache_type": "FORA", "cache_options": {"interval": 2}})},
            fora(interval=2),
            [],
        ),
        ({"request": read_request({"cache_type": "EasyCache"})}, easycache(threshold=0.5, follow="conditional"), []),
        ({"request": read_request({"cache_options": {"threshold": 0.2}})}, easycache(threshold=0.2), []),
        (
            {"flags": TEA, "request": read_request({"cache_type": "EasyCache"})},
            easycache(threshold=0.5, follow="conditional"),
            [],
        ),
    ],
)
def test_options_count_with_their_method(layers: dict[str, Any], made, notes: list[str]):
    found = resolve(file=file(EASY), **layers)
    assert build(found) == made and found.notes == tuple(notes)


def test_options_of_a_cache_that_is_off_are_without_effect_for_that_reason():
    assert resolve(file=file(EASY), flags=read_flags({"enabled": False})).notes == (
        "c.yaml:2:15, c.yaml:3:18: no effect, as the cache is switched off by flag enabled; it is switched on by "
        "SGLANG_CACHE_DIT_ENABLED=true, --enable-cache-dit, or a cache_config section",
    )


def test_options_of_an_even_weaker_source_count_where_it_has_the_method():
    flags = read_flags({"cache_config.cache_type": "TeaCache", "cache_config.cache_options": {"threshold": 0.1}})
    found = resolve(file=file(EASY), flags=flags, request=read_request({"cache_type": "EasyCache"}))
    assert build(found) == easycache(threshold=0.5, follow="conditional")
    (note,) = found.notes
    assert note.startswith(
        "flag cache_config.cache_options: cache_options has no effect: it was written for cache_type"
    )


def test_options_without_a_method_are_of_the_one_that_is_chosen():
    found = resolve(file=file("cache_config: {cache_options: {threshold: 0.2}}"), flags=TEA)
    assert build(found) == teacache(threshold=0.2) and not found.notes


def test_the_second_expert_has_options_of_its_own_method():
    text = f"{EASY}secondary:\n  cache_config:\n    cache_type: FORA\n"
    found = resolve(file=file(text), facts=Facts(experts=2))
    assert (build(found), build(found, "secondary")) == (easycache(threshold=0.5, follow="conditional"), fora())
    assert not found.notes, "the options count for the first expert"
    text += "    cache_options: {interval: 2}\n"
    assert build(resolve(file=file(text), facts=Facts(experts=2)), "secondary") == fora(interval=2)
    found = resolve(file=file(text), request=read_request({"cache_type": "SpeCa"}), facts=Facts(experts=2))
    assert found.secondary.cache_options == {} and [note.split(":")[1] for note in found.notes] == ["3", "7"]


PLAN = """tuned: {steps: 4, psnr: 50.0}
cache_config:
  steps_computation_mask: "1010"
  steps_computation_policy: static
  num_inference_steps: 4
  enable_taylorseer: true
  calibrated_weights: [[[0], 1, [1.0]]]
"""


def test_weights_steps_and_purpose_of_a_plan_go_with_its_mask():
    kept = resolve(file=file(PLAN), request=read_request({"taylorseer_order": 2}))
    assert kept.tuned is not None and kept.cache.calibrated_weights and kept.cache.num_inference_steps == 4
    assert not kept.notes
    found = resolve(file=file(PLAN), request=read_request({"scm_preset": "fast"}))
    assert (found.tuned, found.cache.calibrated_weights, found.cache.num_inference_steps) == (None, None, None)
    assert [note.partition(" has no effect: ")[0] for note in found.notes] == [
        "c.yaml:1:8: tuned", "c.yaml:5:24: num_inference_steps", "c.yaml:7:23: calibrated_weights"
    ]  # fmt: skip
    assert all(
        note.endswith("it was written for another mask (c.yaml:3:27), and the mask is that of cache_dit_params")
        for note in found.notes
    )


def test_a_calibrator_that_a_stronger_source_switches_off_is_off():
    typed = "cache_config: {calibrator_type: taylorseer}"
    found = resolve(file=file(typed), request=read_request({"enable_taylorseer": False}))
    assert found.cache.calibrator_type is None
    assert found.notes == ("c.yaml:1:33: calibrator_type has no effect: enable_taylorseer is false (cache_dit_params)",)
    weaker = read_environment({"SGLANG_CACHE_DIT_TAYLORSEER": "0"})
    found = resolve(file=file(typed), environment=weaker)
    assert found.cache.calibrator_type == "taylorseer"
    assert found.notes == (
        "environment SGLANG_CACHE_DIT_TAYLORSEER: enable_taylorseer has no effect: calibrator_type is taylorseer "
        "(c.yaml:1:33)",
    )


def test_teacache_and_another_method_on_one_command_line_contradict_each_other():
    values = generate.make_context("generate", ["--enable-teacache", "--cache-dit-params", TYPED]).params
    for read in (lambda: settle(values, {}, Facts()), lambda: default_sources(values)):
        with pytest.raises(Misuse, match="--enable-teacache contradicts cache_type: EasyCache in --cache-dit-params"):
            read()
    same = generate.make_context("generate", ["--enable-teacache", "--cache-dit-params", '{"cache_type": "TeaCache"}'])
    assert build(settle(same.params, {}, Facts())) == teacache()
    off = {**same.params, "enable_teacache": False}
    with pytest.raises(Misuse, match=r"--enable-teacache false contradicts cache_type: TeaCache \(request --cache-dit"):
        settle(off, {}, Facts())
    assert settle({**off, "enable_cache_dit": False}, {}, Facts()).enabled is False
