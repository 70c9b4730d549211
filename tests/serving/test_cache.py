"""What is promised about the cache: the object, its mistakes, the environment, and who wins."""

import json
import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pure.attention import attend
from pure.cli.cache_flags import settle
from pure.configs import configure
from pure.configs.methods import METHODS as NAMED
from pure.engine.caching import Sources
from pure.engine.engine import Order
from pure.engine.errors import Misuse
from pure.transforms import easycache, teacache
from pure.transforms.attention.kernels import kernel_of
from tests.cli.test_page import COMMANDS
from tests.cli.test_page import name as name_of
from tests.serving.conftest import opening

SMALL = {"num_inference_steps": 8}
KNOBS = {
    "Fn_compute_blocks": 2,
    "Bn_compute_blocks": 1,
    "max_warmup_steps": 3,
    "residual_diff_threshold": 0.4,
    "max_continuous_cached_steps": 2,
    "enable_taylorseer": True,
    "taylorseer_order": 2,
}
OBJECTS = [
    {},
    KNOBS,
    {**KNOBS, "secondary": {**KNOBS, "residual_diff_threshold": 0.1, "enable_taylorseer": False}},
    {"scm_preset": "fast", "scm_policy": "static"},
    {"scm_compute_bins": [4, 1], "scm_cache_bins": [2, 1], "scm_policy": "dynamic"},
    {"cache_type": "TeaCache", "cache_options": {"threshold": 0.3}, "calibrator_type": "adams"},
    {"enable_dmd": True, "dmd_history": 6, "dmd_rank": 0, "dmd_ridge": 1e-8, "dmd_svd_precision": "medium"},
]


@pytest.mark.parametrize("params", OBJECTS, ids=lambda params: ",".join(params)[:40])
def test_library_command_line_and_server_take_the_same_object(here, params):
    opened = here("flux", start=False)
    facts = opened.service.engine.checkpoint.facts(8)
    ours = opened.recipe(options={"steps": 8}, params=params).caching.effective
    library = configure(params=params, facts=facts)
    flags = {"cache_dit_params": params, "enable_cache_dit": None, "attention_backend": None}
    typed = settle({**flags, "cache_dit_config": None, "lenient_config": False}, {}, facts)
    for other in (library, typed):
        assert (ours.enabled, ours.cache, ours.secondary) == (other.enabled, other.cache, other.secondary)
    assert ours.enabled == bool(params)


def test_all_documented_keys_take_effect_and_are_reported(here):
    made = here("flux").post(cache_dit_params=KNOBS, **SMALL)["puredit"]
    for key, value in KNOBS.items():
        assert made["cache_settings"][key] == {"value": value, "origin": f"request: cache_dit_params ({key})"} or (
            made["cache_settings"][key]["value"] == value and "request" in made["cache_settings"][key]["origin"]
        )
    assert made["cache"] == (
        "dbcache(front=2, back=1, threshold=0.4, warmup=3, max_continuous=2) + taylorseer(order=2)"
    )
    assert made["computed_steps"][:3] == [0, 1, 2] and made["skipped_steps"]


def test_secondary_is_the_second_experts(here):
    opened = here("wan-experts", start=False)
    params = {"residual_diff_threshold": 0.4, "secondary": {"residual_diff_threshold": 0.1, "Fn_compute_blocks": 2}}
    recipe = opened.recipe(options={"height": 16, "width": 32, "frames": 5}, params=params)
    high, low = recipe.denoiser.denoisers.values()
    assert (high.plan.span.front, low.plan.span.front) == (1, 2)
    assert (recipe.caching.effective.cache.residual_diff_threshold, 0.1) == (
        0.4,
        recipe.caching.effective.secondary.residual_diff_threshold,
    )


@pytest.mark.parametrize(
    "nested",
    [
        lambda params: {"cache_dit_params": params},
        lambda params: {"extra_body": {"cache_dit_params": params}},
        lambda params: {"extra_json": '{"cache_dit_params": {"residual_diff_threshold": 0.5, "max_warmup_steps": 1}}'},
        lambda params: {"extra_args": {"cache_dit_params": '{"residual_diff_threshold": 0.5, "max_warmup_steps": 1}'}},
        lambda params: {"extra_params": {"extra_body": {"cache_dit_params": params}}},
    ],
    ids=["top", "extra_body", "extra_json", "extra_args", "extra_params"],
)
def test_the_object_may_be_nested_or_text(here, nested):
    body = nested({"residual_diff_threshold": 0.5, "max_warmup_steps": 1})
    made = here("flux").post(**body, num_inference_steps=4)["puredit"]
    assert made["cache"] == "dbcache(front=1, threshold=0.5, warmup=1, max_continuous=3)"
    assert made["skipped_steps"][:2] == [1, 2]


MISTAKES = {
    "unknown key": ({"residual_diff_thresh": 1}, r"unknown key.*did you mean residual_diff_threshold"),
    "unknown nested key": ({"secondary": {"scm_preset": "fast"}}, r"cache_dit_params\.secondary\.scm_preset"),
    "secondary": ({"secondary": 3}, r"cache_dit_params\.secondary: found the number 3"),
    "text": ('{"Fn_compute_blocks": }', r"cache_dit_params"),
    "no object": (7, r"cache_dit_params: found the number 7; allowed: a mapping"),
    "list": ([1], r"allowed: a mapping"),
    "kind": ({"Fn_compute_blocks": "many"}, r"Fn_compute_blocks: found"),
    "one of two bins": ({"scm_compute_bins": [4]}, r"found no scm_cache_bins beside it; allowed: both bins or none"),
    "preset": ({"scm_preset": "faster"}, r"scm_preset.*fast"),
    "two calibrators": ({"enable_taylorseer": True, "enable_dmd": True}, r"enable_dmd"),
    "SeaCache": ({"cache_type": "SeaCache"}, r"packs them into tokens"),
    "options": ({"cache_type": "FORA", "cache_options": {"interval": 0}}, r"fora\(interval=0\): the interval must"),
    "too many blocks": ({"Fn_compute_blocks": 99}, r"99"),
    "static mask that starts with 0": (
        {"scm_compute_bins": [0, 8], "scm_cache_bins": [1, 1], "scm_policy": "static"},
        r"scm_compute_bins|first step",
    ),
    "two at once": (
        {"Fn_compute_blocks": "many", "taylorseer_ordr": 1},
        r"(?s)2 problems.*Fn_compute.*taylorseer_ordr",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_400_with_the_whole_report_before_any_work(here, what):
    params, message = MISTAKES[what]
    opened = here("flux", start=False)  # nothing could be done: the engine does not run
    opened.worker.ready.set()
    opened.worker._thread = type("Runs", (), {"is_alive": lambda self: True, "join": lambda *_: None})()
    error = opened.refused(cache_dit_params=params, **SMALL)
    assert re.search(message, error["message"]), error["message"]
    assert len(opened.worker.queue) == 0 and not opened.worker.jobs.all("image")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*KNOBS, "scm_preset", "scm_policy", "scm_compute_bins", "scm_cache_bins", "secondary"])
OPTIONS = st.sampled_from(("interval", "warmup", "threshold", "polynomial", "ratios", "most", "front", "self", ""))
METHODS = st.fixed_dictionaries(
    {"cache_type": st.sampled_from(sorted(NAMED)), "cache_options": st.dictionaries(OPTIONS, JUNK, max_size=3)}
)


@pytest.fixture(scope="module")
def opened(loaded, tmp_path_factory):
    yield from ((open("flux", start=False)) for open in opening(loaded, tmp_path_factory.mktemp("results")))


@pytest.mark.filterwarnings("ignore::UserWarning")  # a cache that never skips is no mistake
@given(params=JUNK | st.dictionaries(KEYS, JUNK, max_size=4) | METHODS, enable=st.none() | st.booleans())
def test_no_object_breaks_the_server(opened, params, enable):
    try:
        opened.recipe(options={"steps": 6}, params=params, enable=enable)
    except Misuse as error:
        assert error.message


def test_teacache_is_a_method_of_a_request(here):
    opened = here("flux")
    assert opened.post(enable_teacache=True, **SMALL)["puredit"]["cache"].startswith("teacache(")
    both = {"cache_options": {"threshold": 0.3}, "enable_taylorseer": True}
    for params in (both, json.dumps(both)):
        cache = opened.post(enable_teacache=True, cache_dit_params=params, **SMALL)["puredit"]["cache"]
        assert cache == "teacache(threshold=0.3) + taylorseer(order=1)"
    for others in ({"enable_cache_dit": False}, {"cache_dit_params": {"cache_type": "FORA"}}):
        error = opened.refused(enable_teacache=True, **others)
        assert "give only one of the two" in error["message"] and error["param"] == "enable_teacache"
    error = opened.refused(enable_teacache=False, cache_dit_params={"cache_type": "TeaCache"})
    assert "enable_teacache: false contradicts cache_type: TeaCache (request cache_dit_params)" in error["message"]
    assert error["param"] == "enable_teacache"
    made = opened.post(num_inference_steps=1, seed=1, extra_body={"seed": 2})
    assert made["puredit"]["notes"][0].startswith("seed of extra_body, the number 2, has no effect")


def test_the_environment_is_read_when_a_request_starts(here, monkeypatch):
    opened = here("flux")
    assert opened.post(num_inference_steps=2)["puredit"]["cache"] == "no cache"
    monkeypatch.setenv("SGLANG_CACHE_DIT_ENABLED", "true")
    monkeypatch.setenv("SGLANG_CACHE_DIT_RDT", "0.31")
    assert "threshold=0.31" in opened.post(**SMALL)["puredit"]["cache"]
    monkeypatch.setenv("SGLANG_CACHE_DIT_RDT", "0.32")
    assert "threshold=0.32" in opened.post(**SMALL)["puredit"]["cache"]
    monkeypatch.setenv("SGLANG_CACHE_DIT_RDT", "a third")
    assert "SGLANG_CACHE_DIT_RDT" in opened.refused(num_inference_steps=2)["message"]


def test_request_then_flag_then_file_then_environment_then_default(here, tmp_path):
    """Five knobs, each named by one source less: every source wins over all after it."""
    file = tmp_path / "cache.yaml"
    names = ("residual_diff_threshold", "max_warmup_steps", "Fn_compute_blocks", "max_continuous_cached_steps")
    file.write_text(f"cache_config:\n  {names[0]}: 0.3\n  {names[1]}: 3\n  {names[2]}: 3\n")
    environ = {f"SGLANG_CACHE_DIT_{name}": "4" for name in ("RDT", "WARMUP", "FN", "MC")}
    sources = Sources(flags={f"cache_config.{names[0]}": 0.2, f"cache_config.{names[1]}": 2}, file=str(file))
    opened = here("flux", start=False, sources=sources)
    recipe = opened.recipe(options={"steps": 8}, params={names[0]: 0.1}, environ=environ)
    cache = recipe.caching.effective.cache
    assert [getattr(cache, name) for name in names] == [0.1, 2, 3, 4] and cache.Bn_compute_blocks == 0
    origins = [recipe.caching.settings[name]["origin"].split()[0].rstrip(":") for name in names]
    assert origins == ["request", "flag", "file", "environment"]


def test_a_method_of_a_request_does_not_take_the_options_of_the_servers_own(here, tmp_path):
    file = tmp_path / "easy.yaml"
    file.write_text("cache_config: {cache_type: EasyCache, cache_options: {threshold: 0.5}}")
    opened = here("flux", start=False, sources=Sources(file=str(file)))
    assert opened.recipe().caching.transform == easycache(threshold=0.5)
    recipe = opened.recipe(params={"cache_type": "TeaCache"})
    assert recipe.caching.transform == teacache()
    assert any("it was written for cache_type: EasyCache" in note.text for note in recipe.notes)


def test_enable_cache_dit_of_a_request_turns_it_on_and_off(here):
    opened = here("flux", start=False, sources=Sources(flags={"enabled": True}))
    assert opened.recipe().caching.enabled
    assert not opened.recipe(enable=False).caching.enabled
    assert not opened.recipe(enable=False, params={"Fn_compute_blocks": 2}).caching.enabled
    plain = here("flux", start=False)
    assert plain.recipe(enable=True).caching.enabled and not plain.recipe().caching.enabled


ENVIRONMENTS = [words for words in COMMANDS if words.index("sglang")]


@pytest.mark.filterwarnings("ignore::UserWarning")  # the bins of the page cover 28 steps, the model takes 50
@pytest.mark.parametrize("words", ENVIRONMENTS, ids=name_of)
def test_every_environment_of_the_page_counts_for_a_server(here, words, monkeypatch):
    environ = dict(word.split("=", 1) for word in words[: words.index("sglang")])
    opened = here("flux", start=False)
    recipe = opened.recipe(environ=environ)
    wanted = configure(environ=environ, facts=opened.service.engine.checkpoint.facts(None))
    assert recipe.caching.effective == wanted and wanted.enabled
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    made = here("flux").post(num_inference_steps=12)["puredit"]
    assert made["cache"] != "no cache" and len(made["computed_steps"]) + len(made["skipped_steps"]) == 12


def test_the_kernel_of_attention_of_a_request_wins(here):
    service = attrs.evolve(here("flux", start=False).service, environ={"DIFFUSERS_ATTN_BACKEND": "_native_math"})
    order = Order(options={"steps": 8})
    for name, wanted in ((None, "_native_math"), ("flex", "flex"), ("torch_sdpa", None)):
        made = service.recipe(order, attention=name)
        assert made.denoiser.attend == (attend if wanted is None else kernel_of(wanted))
    with pytest.raises(
        Misuse, match=r"^1 problem.*\n  attention_backend_override: .*flash does not run here"
    ) as caught:
        service.recipe(order, attention="flash")
    assert caught.value.field == "attention_backend_override"


def test_a_request_with_another_kernel_is_made(here):
    assert here("flux").post(attention_backend_override="_native_math", **SMALL)["data"]
