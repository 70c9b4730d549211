"""The SGLANG_CACHE_DIT_* variables: names, defaults, grammar, the second expert's fallback."""

import os

import attrs
import pytest

import pure
from pure.configs import CacheConfig, ConfigError, Effective, build, read_environment, resolve
from pure.configs.environment import KNOBS, PREFIX, VARIABLES
from pure.transforms import dbcache, scm, taylorseer

ON = {"SGLANG_CACHE_DIT_ENABLED": "true"}
DOCUMENTED = {
    *("ENABLED", "FN", "BN", "WARMUP", "RDT", "MC", "TAYLORSEER", "TS_ORDER"),
    *("DMD", "DMD_HISTORY", "DMD_RANK", "DMD_RIDGE", "DMD_SVD_PRECISION"),
    *("SCM_PRESET", "SCM_COMPUTE_BINS", "SCM_CACHE_BINS", "SCM_POLICY"),
    *("SECONDARY_FN", "SECONDARY_BN", "SECONDARY_WARMUP", "SECONDARY_RDT", "SECONDARY_MC", "SECONDARY_TS_ORDER"),
    *("SECONDARY_DMD_HISTORY", "SECONDARY_DMD_RANK", "SECONDARY_DMD_RIDGE", "SECONDARY_DMD_SVD_PRECISION"),
    *("SECONDARY_TAYLORSEER", "SECONDARY_DMD"),
}
OF_DIFFUSERS = {"DIFFUSERS_ATTN_BACKEND"}
# A value per variable that differs from the default, and what it means.
VALUES = {
    "FN": ("2", 2),
    "BN": (" 1 ", 1),
    "WARMUP": ("6", 6),
    "RDT": ("4e-1", 0.4),
    "MC": ("-1", -1),
    "TAYLORSEER": ("Yes", True),
    "TS_ORDER": ("2", 2),
    "DMD": ("on", True),
    "DMD_HISTORY": ("8", 8),
    "DMD_RANK": ("3", 3),
    "DMD_RIDGE": ("1e-6", 1e-6),
    "DMD_SVD_PRECISION": ("high", "high"),
}


def effective(variables: dict[str, str]) -> Effective:
    return resolve(environment=read_environment({f"{PREFIX}{name}": value for name, value in variables.items()}))


def wrong(name, value):
    with pytest.raises(ConfigError) as caught:
        effective({name: value})
    return str(caught.value)


def test_all_variables_are_there_and_no_others():
    assert {name.removeprefix(PREFIX) for name in VARIABLES} == DOCUMENTED | OF_DIFFUSERS


def test_the_attention_backend_is_a_word_of_diffusers():
    """It reads the variable when it is imported, and ends on any other word."""
    found = read_environment({"DIFFUSERS_ATTN_BACKEND": "flex"}).settings["attention_backend"]
    assert (found.value, found.place) == ("flex", "environment DIFFUSERS_ATTN_BACKEND")
    assert read_environment({"DIFFUSERS_ATTN_BACKEND": ""}).settings == {}
    with pytest.raises(ConfigError, match=r"DIFFUSERS_ATTN_BACKEND: .*found text 'torch_sdpa'; allowed"):
        read_environment({"DIFFUSERS_ATTN_BACKEND": "torch_sdpa"})


def test_the_defaults_are_sglangs():
    cache = effective({"ENABLED": "true"}).cache
    ours = attrs.evolve(
        CacheConfig(),
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=4,
        residual_diff_threshold=0.24,
        max_continuous_cached_steps=3,
    )
    assert cache == ours == effective({"ENABLED": "true"}).secondary
    assert not cache.enable_taylorseer and cache.taylorseer_order == 1
    assert (cache.dmd_history, cache.dmd_rank, cache.dmd_ridge, cache.dmd_svd_precision) == (6, 0, 1e-8, "medium")


@pytest.mark.parametrize("value", ["1", "true", "yes", "y", "t", "on", " TRUE ", "On"])
def test_true(value):
    assert effective({"ENABLED": value}).enabled


@pytest.mark.parametrize("value", ["0", "false", "no", "n", "f", "off", "", "  ", "FALSE"])
def test_false(value):
    assert not effective({"ENABLED": value}).enabled
    assert build(effective({"ENABLED": value})) == pure.identity


def test_nothing_set_is_no_cache():
    assert build(effective({})) == pure.identity and not effective({}).notes


@pytest.mark.parametrize("name", list(KNOBS))
def test_every_knob(name):
    text, value = VALUES[name]
    found = effective({"ENABLED": "true", name: text})
    key = KNOBS[name]
    assert getattr(found.cache, key) == getattr(found.secondary, key) == value
    assert found.origins[f"cache_config.{key}"] == f"environment SGLANG_CACHE_DIT_{name}"


@pytest.mark.parametrize("name", list(KNOBS))
def test_the_second_expert_falls_back_to_the_first(name):
    text, value = VALUES[name]
    key = KNOBS[name]
    found = effective({"ENABLED": "true", f"SECONDARY_{name}": text})
    assert getattr(found.secondary, key) == value != getattr(found.cache, key)
    assert found.origins[f"secondary.cache_config.{key}"] == f"environment SGLANG_CACHE_DIT_SECONDARY_{name}"


def test_the_second_expert_wins_over_its_fallback():
    found = effective({"ENABLED": "true", "WARMUP": "6", "SECONDARY_WARMUP": "2"})
    assert (found.cache.max_warmup_steps, found.secondary.max_warmup_steps) == (6, 2)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        (
            "ENABLED",
            "maybe",
            "environment SGLANG_CACHE_DIT_ENABLED: enabled: found text 'maybe'; allowed: 1, true, yes,",
        ),
        ("SECONDARY_TAYLORSEER", "2", "allowed: 1, true, yes, y, t, on for true; 0, false, no, n, f, off, nothing for"),
        ("FN", "", "SGLANG_CACHE_DIT_FN: cache_config.Fn_compute_blocks: found text ''; allowed: a whole number"),
        ("FN", "two", "found text 'two'"),
        ("FN", "1.0", "found the number 1.0; allowed: a whole number of at least 0; write 1"),
        ("MC", "-2", "write -1 for no limit"),
        ("RDT", "0,24", "found text '0,24'; allowed: a finite number"),
        ("RDT", "inf", "found the number inf; allowed: a finite number"),
        ("TS_ORDER", "9", "a whole number from 0 to 3"),
        ("SCM_PRESET", "Medium", "one of none, slow, medium, fast, ultra; did you mean medium?"),
        ("SCM_PRESET", "110", "one of none, slow, medium, fast, ultra"),
        ("SCM_POLICY", "statc", "did you mean static?"),
        ("SCM_COMPUTE_BINS", "8;3", "found text '8;3'; allowed: a list of whole numbers"),
        (
            "SCM_COMPUTE_BINS",
            "8,3",
            "SCM_COMPUTE_BINS: cache_config.scm_compute_bins: found no scm_cache_bins beside it",
        ),
        ("SCM_CACHE_BINS", "1,-2", "found a list [1, -2]"),
        ("DMD_SVD_PRECISION", "max", "one of low, medium, high"),
    ],
)
def test_mistakes_name_the_variable_and_the_grammar(name, value, wanted):
    assert wanted in wrong(name, value)


def test_all_mistakes_are_in_one_report():
    with pytest.raises(ConfigError, match="3 problems"):
        effective({"ENABLED": "maybe", "FN": "x", "RDT": "y"})


def test_two_calibrators_name_both_variables():
    text = wrong_of({"ENABLED": "1", "DMD": "1", "TAYLORSEER": "1"})
    assert "SGLANG_CACHE_DIT_DMD" in text and "SGLANG_CACHE_DIT_TAYLORSEER" in text
    text = wrong_of({"ENABLED": "1", "SECONDARY_DMD": "1", "TAYLORSEER": "1"})
    assert "SGLANG_CACHE_DIT_SECONDARY_DMD" in text and "SGLANG_CACHE_DIT_TAYLORSEER" in text
    found = effective({"ENABLED": "1", "SECONDARY_DMD": "1", "TAYLORSEER": "1", "SECONDARY_TAYLORSEER": "0"})
    assert not found.refusals
    assert (found.cache.enable_taylorseer, found.cache.enable_dmd) == (True, False)
    assert (found.secondary.enable_taylorseer, found.secondary.enable_dmd) == (False, True)


def wrong_of(variables):
    with pytest.raises(ConfigError, match="a second calibrator") as caught:
        effective(variables)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("FOCA", "true", "enable_foca: true in cache_config of a file (--cache-dit-config) or in --cache-dit-params"),
        (
            "CACHE_TYPE",
            "FORA",
            "cache_type: FORA in cache_config of a file (--cache-dit-config) or in --cache-dit-params",
        ),
        ("TEACACHE", "1", "cache_type: TeaCache in cache_config of a file (--cache-dit-config) or in --cache-dit-p"),
        ("ENABLE_NEWTON", "1", "calibrator_type: newton in cache_config of a file (--cache-dit-config) or in --cach"),
        ("MAX_CACHED_STEPS", "3", "max_cached_steps: 3 in cache_config of a file (--cache-dit-config)"),
        ("SECONDARY_FOCA", "1", "enable_foca: 1 in secondary: cache_config of a file (--cache-dit-config)"),
    ],
)
def test_a_key_that_no_variable_sets_is_told_where_it_goes(name, value, hint):
    (note,) = effective({name: value}).notes
    start = f"environment SGLANG_CACHE_DIT_{name}: unknown and without effect; no variable sets that: write {hint}"
    assert note.startswith(start)
    (note,) = effective({"SECONDARY_SCM_PRESET": "fast"}).notes
    assert note.endswith("without effect; SGLANG_CACHE_DIT_SCM_PRESET is of both experts")
    (note,) = effective({"MAX_WARMUP_STEPS": "3"}).notes
    assert note.endswith("without effect; SGLANG_CACHE_DIT_WARMUP sets max_warmup_steps")


def test_an_unknown_variable_is_told():
    (note,) = effective({"ENABLED": "true", "WARMUPS": "1"}).notes
    assert note == (
        "environment SGLANG_CACHE_DIT_WARMUPS: unknown and without effect; did you mean SGLANG_CACHE_DIT_WARMUP?"
    )


def test_settings_of_a_cache_that_is_off_are_told():
    (note,) = effective({"FN": "2", "RDT": "0.1"}).notes
    assert "SGLANG_CACHE_DIT_FN, environment SGLANG_CACHE_DIT_RDT: no effect, as the cache is not switched on" in note
    (note,) = effective({"FN": "2", "ENABLED": "0"}).notes
    assert "switched off by environment SGLANG_CACHE_DIT_ENABLED" in note


@pytest.mark.parametrize(
    ("variables", "recipe"),
    [
        ({}, dbcache()),
        (
            {"FN": "2", "BN": "1", "WARMUP": "4", "RDT": "0.4", "MC": "4", "TAYLORSEER": "true", "TS_ORDER": "2"},
            pure.compose(dbcache(front=2, back=1, threshold=0.4, max_continuous=4), taylorseer(order=2)),
        ),
        ({"SCM_PRESET": "medium"}, pure.compose(dbcache(), scm(preset="medium"))),
        ({"SCM_PRESET": "none"}, dbcache()),
        (
            {"SCM_PRESET": "ultra", "SCM_POLICY": "static"},
            pure.compose(dbcache(), scm(preset="ultra", policy="static")),
        ),
        (
            {"SCM_COMPUTE_BINS": "8,3,3,2,2", "SCM_CACHE_BINS": "1, 2,2,2,3"},
            pure.compose(dbcache(), scm(compute_bins=(8, 3, 3, 2, 2), cache_bins=(1, 2, 2, 2, 3))),
        ),
        ({"SCM_COMPUTE_BINS": "", "SCM_CACHE_BINS": " "}, dbcache()),
        ({"MC": "-1"}, dbcache(max_continuous=None)),
    ],
)
def test_the_commands_of_the_page(variables, recipe):
    assert build(effective({"ENABLED": "true", **variables})) == recipe


def test_bins_win_over_a_preset_and_say_so():
    found = effective({"ENABLED": "1", "SCM_PRESET": "fast", "SCM_COMPUTE_BINS": "4", "SCM_CACHE_BINS": "4"})
    assert build(found) == pure.compose(dbcache(), scm(compute_bins=(4,), cache_bins=(4,)))
    assert found.notes == (
        "environment SGLANG_CACHE_DIT_SCM_PRESET: steps_computation_mask has no effect: the bins win over a preset",
    )


def test_nothing_is_read_from_the_process(monkeypatch):
    monkeypatch.setitem(os.environ, "SGLANG_CACHE_DIT_ENABLED", "true")
    assert not resolve(environment=read_environment({})).enabled
    assert resolve(environment=read_environment(os.environ)).enabled  # the shell's business, at every request


NUMBERS = {
    "FN": "a whole number of at least 0",
    "BN": "a whole number of at least 0",
    "WARMUP": "a whole number of at least 0",
    "MC": "a whole number of at least 0, or -1 for no limit",
    "TS_ORDER": "a whole number from 0 to 3",
    "RDT": "a finite number",
    "SECONDARY_FN": "a whole number of at least 0",
    "SECONDARY_RDT": "a finite number",
}


@pytest.mark.parametrize("text", ["", " ", "true", "yes", "1e400", "nan", "inf", "1_0", "\uff11", "\u0661", "9" * 5000])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_names_the_variable(name, text):
    with pytest.raises(ConfigError) as raised:
        read_environment({f"SGLANG_CACHE_DIT_{name}": text})
    said = str(raised.value)
    assert f"  environment SGLANG_CACHE_DIT_{name}: " in said and f"allowed: {NUMBERS[name]}" in said
    assert len(said) < 400


@pytest.mark.parametrize("name", ["FN", "BN", "WARMUP", "MC", "TS_ORDER", "SECONDARY_FN"])
def test_numbers_beyond_any_run_name_the_variable(name):
    for text in (str(10**30), str(10**9 + 1), "-2"):
        with pytest.raises(ConfigError, match=rf"environment SGLANG_CACHE_DIT_{name}: .* found the number {text}; "):
            read_environment({f"SGLANG_CACHE_DIT_{name}": text})


@pytest.mark.parametrize("text", ["2", " 2 ", "+2", "02"])
def test_spaces_around_a_number_are_left_out(text):
    layer = read_environment({"SGLANG_CACHE_DIT_FN": text})
    assert layer.settings["cache_config.Fn_compute_blocks"].value == 2


@pytest.mark.parametrize("text", ["1e400", "nan", "-1", "10", "\uff11", "maybe", "9" * 5000])
@pytest.mark.parametrize("name", ["ENABLED", "TAYLORSEER"])
def test_what_is_no_boolean_names_the_variable(name, text):
    with pytest.raises(ConfigError, match=f"environment SGLANG_CACHE_DIT_{name}: .* found text .* for true"):
        read_environment({f"SGLANG_CACHE_DIT_{name}": text})


@pytest.mark.parametrize("text", ["true", "1e400", "-1", "1_0", "\uff11", "1,,2", "1000000001"])
def test_what_are_no_bins_names_the_variable(text):
    with pytest.raises(ConfigError, match=r"environment SGLANG_CACHE_DIT_SCM_COMPUTE_BINS: .* a list of whole numbers"):
        read_environment({"SGLANG_CACHE_DIT_SCM_COMPUTE_BINS": text})
