"""What files of tuned plans say beside a cache: what they are for, and the cache of a second expert."""

from typing import Any

import pytest

from pure import compose
from pure.configs import ConfigError, Facts, build, configure, dump, load_text, resolve
from pure.configs.tuned import TunedFor
from pure.transforms import calibrated, dbcache, scm

PLAN = """\
tuned: {model: abc, steps: 4, height: 64, width: 64, frames: 1, guidance: 2.5, computed: 2, psnr: 51.25}
cache_config:
  Fn_compute_blocks: 0
  residual_diff_threshold: 1.0
  max_warmup_steps: 0
  steps_computation_mask: "1010"
  steps_computation_policy: static
  enable_taylorseer: true
  calibrated_weights:
    - [[2, 0], 3, [1.25, -0.25]]
secondary:
  cache_config:
    steps_computation_mask: "1100"
    calibrated_weights: [[[1, 0], 2, [2, -1]]]
"""
ALWAYS = dbcache(front=0, threshold=1.0, warmup=0, max_continuous=None)


def test_a_plan_is_read_whole() -> None:
    effective = resolve(file=load_text(PLAN), facts=Facts(experts=2, steps=8))
    assert effective.tuned == TunedFor(
        model="abc", steps=4, height=64, width=64, frames=1, guidance=2.5, computed=2, psnr=51.25
    )
    assert not effective.notes and not effective.refusals
    first, second = build(effective), build(effective, "secondary")
    assert first == compose(ALWAYS, calibrated(table=[[[2, 0], 3, [1.25, -0.25]]]), scm(mask="1010", policy="static"))
    assert second == compose(ALWAYS, calibrated(table=[[[1, 0], 2, [2, -1]]]), scm(mask="1100", policy="static"))


@pytest.mark.parametrize("text", [PLAN, PLAN.replace("guidance: 2.5", "guidance: 0")])
def test_it_is_written_as_it_was_read(text: str) -> None:
    layer = load_text(text)
    assert load_text(dump(layer)) == layer and load_text(dump(layer, "json"), "plan.json") == layer


def test_what_a_plan_leaves_open_is_not_known() -> None:
    assert configure(file=None).tuned is None
    assert resolve(file=load_text("tuned: {steps: 4, psnr: null}")).tuned == TunedFor(steps=4)


@pytest.mark.parametrize(
    ("keys", "changed"),
    [
        ("", {}),
        ("taylorseer_cache_type: hidden_states", {"on": "hidden"}),
        ("taylorseer_order: 2", {"order": 2}),
        ("enable_encoder_taylorseer: true", {"streams": "all"}),
        ("enable_encoder_calibrator: true", {"streams": "all"}),
    ],
)
def test_weights_take_the_settings_of_taylorseer(keys: str, changed: dict) -> None:
    text = f"cache_config: {{enable_taylorseer: true, calibrated_weights: [[[2, 0], 3, [2, -1]]], {keys}}}"
    made: Any = build(resolve(file=load_text(text)))
    (weights,) = (each for each in made.transforms if isinstance(each, calibrated))
    assert weights == calibrated(table=[[[2, 0], 3, [2, -1]]], **changed)


def test_without_a_plan_nothing_is_tuned() -> None:
    assert configure(file="cache.yaml").tuned is None


def test_of_one_expert_the_second_has_no_effect() -> None:
    notes = resolve(file=load_text(PLAN), facts=Facts(experts=1)).notes
    assert notes and all("no effect, as the model has one expert" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tuned: 3", r"configuration:1:8: tuned: found the number 3; allowed: a mapping with some of model, steps"),
        ("tuned: {step: 3}", r"found an unknown key, text 'step'; .*; did you mean steps\?"),
        ("tuned: {null: 3}", r"found an unknown key, null; allowed: a mapping with some of model, steps"),
        ("tuned: {steps: 0}", r"steps is a whole number of at least 1"),
        ("tuned: {psnr: high}", r"psnr is a finite number"),
        ("secondary: 3", r"secondary: found 3; allowed: a mapping with cache_config and nothing else"),
        ("secondary: {tuned: {steps: 3}}", r"allowed: a mapping with cache_config and nothing else"),
        ("secondary: {cache_config: {Fn: 1}}", r"secondary.cache_config.Fn: found an unknown key"),
        ("cache_config: {calibrated_weights: 3}", r"allowed: a list of \[history, target, weights\]"),
        (
            "cache_config: {calibrated_weights: [[[2], 3, [1.5]]]}",
            r"; the row \[\[2\], 3, \[1.5\]\] is wrong: weights add up to 1, these to 1.5; change the first one",
        ),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_text(text)


def test_a_run_of_other_steps_is_told() -> None:
    effective = resolve(file=load_text(PLAN), facts=Facts(steps=6, experts=1))
    with pytest.raises(ConfigError, match=r"the mask has 4 entries, but the run has 6 steps.*run 4 steps"):
        build(effective)
