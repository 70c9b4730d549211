"""Request > flag > file > environment > model default > library default, for every key and set of sources."""

import itertools
import json
from typing import Any

import pytest

from pure.configs import (
    ConfigError,
    Facts,
    describe,
    load_text,
    read_environment,
    read_flags,
    read_model_defaults,
    read_request,
    resolve,
)
from pure.configs.environment import KNOBS, PREFIX
from pure.configs.schema import CacheConfig

# The order, strongest first; those with True speak of the second expert only.
ORDER = [
    ("request", True),
    ("request", False),
    ("flag", True),
    ("flag", False),
    ("file", False),
    ("environment", True),
    ("environment", False),
    ("model default", True),
    ("model default", False),
]
ORIGINS = {
    ("request", True): "request cache_dit_params",
    ("request", False): "request cache_dit_params",
    ("flag", True): "flag --second",
    ("flag", False): "flag --first",
    ("file", False): "file c.yaml:1:{column}",
    ("environment", True): "environment SGLANG_CACHE_DIT_SECONDARY_{variable}",
    ("environment", False): "environment SGLANG_CACHE_DIT_{variable}",
    ("model default", True): "model default of FLUX",
    ("model default", False): "model default of FLUX",
}
VALUES = {  # one per source, all different; booleans and words cannot be
    "Fn_compute_blocks": range(10, 19),
    "Bn_compute_blocks": range(10, 19),
    "max_warmup_steps": range(10, 19),
    "residual_diff_threshold": [i / 100 for i in range(1, 10)],
    "max_continuous_cached_steps": range(10, 19),
    "taylorseer_order": [0, 1, 2, 3, 0, 1, 2, 3, 0],
    "enable_taylorseer": [True, False] * 4 + [True],
    "enable_dmd": [False, True] * 4 + [False],
    "dmd_history": range(10, 19),
    "dmd_rank": range(10, 19),
    "dmd_ridge": [i / 100 for i in range(1, 10)],
    "dmd_svd_precision": ["low", "medium", "high"] * 3,
}
VARIABLE = {key: name for name, key in KNOBS.items()}


def effective(key, chosen):
    """The configuration in which the chosen sources, and no others, say something of a key."""
    value = dict(zip(ORDER, VALUES[key], strict=True))
    said = {source: value[source] for source in chosen}

    def paths(name):
        first, second = said.get((name, False)), said.get((name, True))
        return {f"cache_config.{key}": first, f"secondary.cache_config.{key}": second}

    params = {key: said.get(("request", False)), "secondary": {key: said.get(("request", True))}}
    spelling = {f"cache_config.{key}": "--first", f"secondary.cache_config.{key}": "--second"}
    text = f"cache_config: {{{key}: {str(said['file', False]).lower()}}}" if ("file", False) in said else None
    variables = {("environment", False): PREFIX, ("environment", True): f"{PREFIX}SECONDARY_"}
    environ = {prefix + VARIABLE[key]: str(said[s]) for s, prefix in variables.items() if s in said}
    layers: dict[str, Any] = {"file": load_text(text, "c.yaml")} if text else {}
    return resolve(
        request=read_request(params, enable=True),
        flags=read_flags(paths("flag"), spelling),
        environment=read_environment(environ),
        model=read_model_defaults(paths("model default"), "FLUX"),
        **layers,
    ), value


def check(key, chosen):
    found, value = effective(key, chosen)
    for expert, config in (("", found.cache), ("secondary.", found.secondary)):
        winner = next((s for s in ORDER if s in chosen and (expert or not s[1])), None)
        origin = found.origins[f"{expert}cache_config.{key}"]
        if winner is None:
            assert origin.startswith("library default")
        else:
            column = len(f"cache_config: {{{key}: ") + 1
            assert origin == ORIGINS[winner].format(variable=VARIABLE[key], column=column)
            assert getattr(config, key) == value[winner]


def test_every_set_of_sources():
    for size in range(len(ORDER) + 1):
        for chosen in itertools.combinations(ORDER, size):
            check("max_warmup_steps", chosen)


@pytest.mark.parametrize("key", list(VALUES))
def test_every_key_and_pair_of_sources(key):
    for chosen in itertools.combinations(ORDER, 2):
        check(key, chosen)


def test_the_library_defaults_depend_on_whose_configuration_it_is():
    def five(found):
        cache = found.cache
        return (cache.Fn_compute_blocks, cache.Bn_compute_blocks, cache.max_warmup_steps,
                cache.residual_diff_threshold, cache.max_continuous_cached_steps)  # fmt: skip

    peer = resolve(file=load_text("cache_config: {cache_type: DBCache}"))
    sglang = resolve(environment=read_environment({f"{PREFIX}ENABLED": "1"}))
    assert five(peer) == (8, 0, 8, 0.08, -1) == five(resolve(file=load_text("cache_type: DBCache")))
    assert five(sglang) == (1, 0, 4, 0.24, 3) == five(resolve(request=read_request(enable=True)))
    assert peer.origins["cache_config.Fn_compute_blocks"] == "library default (cache-dit)"
    assert sglang.origins["cache_config.Fn_compute_blocks"] == "library default (SGLang)"
    other = resolve(
        file=load_text("attention_backend: native"), environment=read_environment({f"{PREFIX}ENABLED": "1"})
    )
    assert five(other) == (1, 0, 4, 0.24, 3)


@pytest.mark.parametrize(
    ("sources", "enabled", "origin"),
    [
        ({}, False, "library default"),
        ({"environment": read_environment({f"{PREFIX}ENABLED": "1"})}, True, "environment SGLANG_CACHE_DIT_ENABLED"),
        ({"file": load_text("attention_backend: native")}, False, "library default"),
        (
            {
                "file": load_text("cache_config: {Bn_compute_blocks: 0}", "c.yaml"),
                "environment": read_environment({f"{PREFIX}ENABLED": "0"}),
            },
            True,
            "file c.yaml:1:1 cache_config",
        ),
        (
            {
                "flags": read_flags({"enabled": False}, {"enabled": "--enable-cache-dit"}),
                "file": load_text("cache_config: {Bn_compute_blocks: 0}"),
            },
            False,
            "flag --enable-cache-dit",
        ),
        (
            {"request": read_request(enable=True), "flags": read_flags({"enabled": False})},
            True,
            "request enable_cache_dit",
        ),
    ],
)
def test_the_switch(sources, enabled, origin):
    found = resolve(**sources)
    assert (found.enabled, found.origins["enabled"]) == (enabled, origin)


def test_the_mask_is_one_value():
    bins = {f"{PREFIX}SCM_COMPUTE_BINS": "4", f"{PREFIX}SCM_CACHE_BINS": "4"}
    file = load_text("cache_config: {steps_computation_mask: '1100'}", "c.yaml")
    for layers, mask, compute in [
        ({"file": file}, (1, 1, 0, 0), None),
        ({}, None, (4,)),
        ({"file": file, "request": read_request({"scm_compute_bins": [1], "scm_cache_bins": [3]})}, None, (1,)),
    ]:
        cache = resolve(environment=read_environment(bins), **layers).cache
        assert (cache.steps_computation_mask, cache.scm_compute_bins) == (mask, compute)


def test_contradictions_between_sources_name_both():
    with pytest.raises(ConfigError) as caught:
        resolve(
            file=load_text("cache_config: {enable_taylorseer: true, num_inference_steps: 4}", "c.yaml"),
            environment=read_environment({f"{PREFIX}DMD": "1"}),
            flags=read_flags({"cache_config.steps_computation_mask": "110"}),
        )
    text = str(caught.value)
    assert "environment SGLANG_CACHE_DIT_DMD: cache_config.enable_dmd: found a second calibrator" in text
    assert "(c.yaml:1:35)" in text
    assert "found 3 entries for num_inference_steps: 4 (c.yaml:1:62)" in text and "; give 4 entries" in text


def test_contradictions_of_the_second_expert_are_found_too():
    request = {"enable_taylorseer": True, "secondary": {"enable_dmd": True}}
    with pytest.raises(
        ConfigError, match=r"secondary\.cache_config\.enable_dmd: found a second calibrator besides .*enable_taylorseer"
    ):
        resolve(request=read_request(request))


def test_flags_are_checked_and_named():
    with pytest.raises(ConfigError) as caught:
        read_flags(
            {"cache_config.Fn": 1, "attention_backend": "flsh", "secondary.enabled": True}, {"attention_backend": "-a"}
        )
    assert [p.place for p in caught.value.problems] == ["flag cache_config.Fn", "flag -a", "flag secondary.enabled"]
    assert read_flags({"attention_backend": None}).settings == {}


@pytest.mark.parametrize(("first", "second", "fronts"), [("DBCache", "FORA", (8, 0)), ("FORA", "DBCache", (0, 8))])
def test_a_method_of_one_expert_sets_its_front_blocks_only(first, second, fronts):
    sections = (f"{expert}cache_config: {{cache_type: {name}}}" for expert, name in (("", first), ("  ", second)))
    found = resolve(file=load_text("\nsecondary:\n".join(sections)))
    assert (found.cache.Fn_compute_blocks, found.secondary.Fn_compute_blocks) == fronts


@pytest.mark.parametrize("wrong", ["", "secondary."])
def test_a_contradiction_of_either_expert_is_told(wrong):
    fronts = {f"{expert}cache_config.Fn_compute_blocks": int(expert != wrong) for expert in ("", "secondary.")}
    with pytest.raises(ConfigError, match=f"flag Fn: {wrong}cache_config.Fn_compute_blocks: found 0 with res"):
        resolve(flags=read_flags(fronts, {f"{wrong}cache_config.Fn_compute_blocks": "Fn"}))


def test_show_has_every_value_with_its_origin():
    found = resolve(
        request=read_request({"secondary": {"Fn_compute_blocks": 3}}),
        file=load_text(
            "cache_config: {taylorseer_order: 2, enable_taylorseer: true}\nattention_backend: native", "c.yaml"
        ),
    )
    rows = {row.key: (row.value, row.origin) for row in describe(found)}
    assert rows["enabled"] == ("true", "request cache_dit_params")
    assert rows["cache_config.taylorseer_order"] == ("2", "file c.yaml:1:34")
    assert rows["cache_config.residual_diff_threshold"] == ("0.08", "library default (cache-dit)")
    assert rows["secondary.cache_config.Fn_compute_blocks"] == ("3", "request cache_dit_params")
    assert rows["attention_backend"] == ("native", "file c.yaml:2:20")
    assert {f"cache_config.{name}" for name in CacheConfig.__annotations__} <= set(rows)
    assert [key for key in rows if key.startswith("secondary")] == ["secondary.cache_config.Fn_compute_blocks"]


@pytest.mark.parametrize("name", ["file.yaml", "profile.yaml", "c.yaml"])
def test_an_origin_names_the_source_whatever_the_file_is_called(name):
    found = resolve(file=load_text("cache_config: {warmup_interval: 2}\nattention_backend: native", name))
    assert found.origins["cache_config.warmup_interval"] == f"file {name}:1:33"
    assert found.origins["cache_config.max_warmup_steps"] == "library default (cache-dit)"
    assert all("cache_config." in path for path in found.origins if path.startswith("secondary"))


def test_show_lists_the_second_experts_values_that_come_from_elsewhere():
    params = {"Fn_compute_blocks": 3, "secondary": {"Fn_compute_blocks": 3, "Bn_compute_blocks": 1}}
    rows = {row.key: (row.value, row.origin) for row in describe(resolve(request=read_request(json.dumps(params))))}
    second = [key for key in rows if key.startswith("secondary")]
    assert second == ["secondary.cache_config.Fn_compute_blocks", "secondary.cache_config.Bn_compute_blocks"]
    assert rows[second[0]] == ("3", "request cache_dit_params:1:61")
    assert rows["cache_config.Fn_compute_blocks"] == ("3", "request cache_dit_params:1:23")
    at_one_place = resolve(request=read_request({"Fn_compute_blocks": 2, "secondary": {"Fn_compute_blocks": 3}}))
    assert [row.value for row in describe(at_one_place) if row.key.endswith("Fn_compute_blocks")] == ["2", "3"]


def test_show_names_the_attention_that_is_asked_for():
    at = {"parallelism_config.attention_backend": "flash"}
    (row,) = (row for row in describe(resolve(flags=read_flags(at))) if row.key == "attention_backend")
    assert (row.value, row.origin) == ("flash", "flag parallelism_config.attention_backend")
    both = resolve(flags=read_flags({"attention_backend": "flash", **at}, {"attention_backend": "-a"}))
    assert [(row.value, row.origin) for row in describe(both)][-1] == ("flash", "flag -a")
    (row,) = (row for row in describe(resolve()) if row.key == "attention_backend")
    assert (row.value, row.origin) == ("native", "library default")


def test_one_expert_is_told_of_the_others_settings():
    request = read_request({"Bn_compute_blocks": 1, "secondary": {"Fn_compute_blocks": 3}})
    assert resolve(request=request, facts=Facts(experts=2)).notes == ()
    (note,) = resolve(request=request, facts=Facts(experts=1)).notes
    assert note == "cache_dit_params: no effect, as the model has one expert"
