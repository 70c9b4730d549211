"""`cache_dit_params`: exactly the documented keys, as a mapping or JSON, the nested `secondary` included."""

import json
import re

import pytest

import pure
from pure.configs import ConfigError, build, load_config, read_environment, read_request, resolve
from pure.configs.request import REQUEST_KEYS, SECONDARY_KEYS
from pure.transforms import dbcache, scm, taylorseer

KNOBS = {
    *("Fn_compute_blocks", "Bn_compute_blocks", "max_warmup_steps", "residual_diff_threshold"),
    *("max_continuous_cached_steps", "enable_taylorseer", "taylorseer_order", "enable_dmd", "dmd_history"),
    *("dmd_rank", "dmd_ridge", "dmd_svd_precision"),
}
ALL = {
    "Fn_compute_blocks": 2,
    "Bn_compute_blocks": 1,
    "max_warmup_steps": 3,
    "residual_diff_threshold": 0.3,
    "max_continuous_cached_steps": -1,
    "enable_taylorseer": True,
    "taylorseer_order": 2,
    "scm_compute_bins": [4, 2],
    "scm_cache_bins": [1, 1],
    "scm_policy": "static",
    "secondary": {"max_warmup_steps": 1, "enable_taylorseer": False},
}


def test_exactly_the_documented_keys():
    assert set(SECONDARY_KEYS) == KNOBS
    methods = {"cache_type", "cache_options", "calibrator_type", "calibrator_cache_type", "enable_foca"}
    masks = {"scm_preset", "scm_compute_bins", "scm_cache_bins", "scm_policy"}
    assert set(REQUEST_KEYS) == KNOBS | masks | methods
    for key in masks | methods | {"secondary"}:
        with pytest.raises(ConfigError, match=rf"cache_dit_params\.secondary\.{key}: found an unknown key"):
            read_request({"secondary": {key: "fast"}})


@pytest.mark.parametrize("params", [ALL, json.dumps(ALL), json.dumps(ALL, indent=2)], ids=["dict", "json", "lines"])
def test_the_same_object_in_every_form(params):
    effective = resolve(request=read_request(params))
    mask = scm(compute_bins=(4, 2), cache_bins=(1, 1), policy="static")
    knobs = {"front": 2, "back": 1, "threshold": 0.3, "max_continuous": None}
    assert build(effective) == pure.compose(dbcache(**knobs, warmup=3), taylorseer(order=2), mask)
    assert build(effective, "secondary") == pure.compose(dbcache(**knobs, warmup=1), mask)


def test_a_contradiction_is_told_by_the_name_of_the_parameter():
    with pytest.raises(ConfigError, match=r"cache_dit_params\.scm_compute_bins: found no scm_cache_bins beside it"):
        read_request({"scm_compute_bins": [4]})


def test_parameters_switch_the_cache_on_and_enable_off_wins():
    assert resolve(request=read_request({"Fn_compute_blocks": 2})).enabled
    assert not resolve(request=read_request({})).enabled
    assert not resolve(request=read_request(None)).enabled
    assert resolve(request=read_request(enable=True)).enabled
    off = resolve(request=read_request({"Fn_compute_blocks": 2}, enable=False), file=load_config("cache.yaml"))
    assert not off.enabled and build(off) == build(off, "secondary") == pure.identity
    assert "no effect, as the cache is switched off by enable_cache_dit" in off.notes[-1]


def test_a_preset_of_the_request_replaces_bins_of_the_environment():
    bins = {"SGLANG_CACHE_DIT_SCM_COMPUTE_BINS": "4", "SGLANG_CACHE_DIT_SCM_CACHE_BINS": "4"}
    effective = resolve(request=read_request({"scm_preset": "fast"}), environment=read_environment(bins))
    assert build(effective) == pure.compose(dbcache(), scm(preset="fast"))
    effective = resolve(request=read_request({"scm_preset": "none"}), environment=read_environment(bins))
    assert build(effective) == dbcache()


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        (5, "cache_dit_params: cache_dit_params: found the number 5; allowed: a mapping of parameters"),
        ("[]", "found a list []; allowed: a mapping of parameters"),
        ("", "cache_dit_params: found text ''; allowed: a mapping"),
        ('"x"', "found text 'x'; allowed: a mapping"),
        ('{"Fn_compute_blocks" 1}', "cache_dit_params:1:22: found an error: Expecting ':' delimiter"),
        ('{\n "Fn_compute_blocks": "1"}', "cache_dit_params:2:23: cache_dit_params.Fn_compute_blocks: found text '1'"),
        (
            {"Fn": 1},
            "cache_dit_params.Fn: found an unknown key; allowed: Bn_compute_blocks, Fn_compute_blocks,",
        ),
        ({"Fn": 1}, "did you mean Fn_compute_blocks?"),
        ({"steps_computation_mask": "fast"}, "did you mean scm_preset?"),
        ({"enable_teacache": True}, "; write cache_type: TeaCache"),
        (
            {"non_prune_block_ids": [1]},
            "; a request does not set it: write it in cache_config of a file",
        ),
        ({"secondary": {"scm_preset": "fast"}}, "; a request sets it for both experts: write it outside secondary"),
        ({"k" * 500: 1}, f"cache_dit_params.{'k' * 63}... (517 characters): found an unknown key"),
        ({"cache_type": "none"}, "; leave the key out"),
        ({"scm_cache_bins": [1], "scm_compute_bins": "x"}, "such as [8, 3, 3, 2, 2]\n"),
        ({"enabled": True}, "; leave it out: settings switch the cache on"),
        ({"secondary": {"enable_foca": True}}, "; a request sets it for both experts: write it outside secondary"),
        ({"cache_options": {"a": float("nan")}}, "cache_dit_params.cache_options: found the number nan for its key a"),
        ({3: 1}, "cache_dit_params.3: found an unknown key"),
        ({"secondary": 3}, "cache_dit_params.secondary: found the number 3; allowed: a mapping"),
        ({"secondary": {"scm_preset": "fast"}}, "cache_dit_params.secondary.scm_preset: found an unknown key"),
        ('{"secondary": {"bn": 1}}', "cache_dit_params:1:22: cache_dit_params.secondary.bn: found an unknown key"),
        ({"secondary": {"secondary": {}}}, "secondary.secondary: found an unknown key"),
        (
            {"scm_compute_bins": [4]},
            "cache_dit_params.scm_compute_bins: found no scm_cache_bins beside it; allowed: both bins or none",
        ),
        ({"scm_compute_bins": "4,2", "scm_cache_bins": [1]}, "scm_compute_bins: found text '4,2'"),
        ({"scm_preset": "bogus"}, "found text 'bogus'; allowed: one of none, slow, medium, fast, ultra"),
        ({"enable_taylorseer": "true"}, "write true without quotes"),
        ({"enable_taylorseer": True, "enable_dmd": True}, "a second calibrator"),
        ('{"Fn_compute_blocks": 1, "Fn_compute_blocks": 2}', "found the key for the second time"),
    ],
)
def test_mistakes(params, wanted):
    with pytest.raises(ConfigError, match=re.escape(wanted)):
        resolve(request=read_request(params))


def test_a_switch_that_is_no_boolean():
    with pytest.raises(
        ConfigError, match="enable_cache_dit: enable_cache_dit: found text 'true'; allowed: true or false"
    ):
        read_request(enable="true")  # type: ignore[arg-type]


def test_all_mistakes_are_in_one_report():
    with pytest.raises(ConfigError, match="4 problems"):
        read_request({"a": 1, "Fn_compute_blocks": "1", "secondary": {"b": 1}, "scm_cache_bins": [1]})
