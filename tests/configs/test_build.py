"""The translation, key by key; and that no key is ever dropped silently."""

from typing import Any

import pytest
import torch

import pure
from pure.configs import (
    CacheConfig,
    ConfigError,
    Facts,
    attend_by,
    build,
    load_text,
    quantizations,
    read_environment,
    read_flags,
    resolve,
    translate,
)
from pure.configs.schema import SECTIONS
from pure.transforms import (
    Quantization,
    attention,
    calibrated,
    dbcache,
    hermite,
    newton,
    scm,
    taylorseer,
)
from pure.transforms.attention import machine
from pure.transforms.attention.names import canonical
from tests.support.adder import adder

BASE = dbcache(front=8, threshold=0.08, warmup=8, max_continuous=None)
# A value other than the default for every key that can be set.
OTHER = {
    "cache_config": {
        "cache_type": "DBPrune",
        "cache_options": {"interval": 2},
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 1,
        "residual_diff_threshold": 0.2,
        "max_accumulated_residual_diff_threshold": 1.0,
        "max_warmup_steps": 2,
        "warmup_interval": 2,
        "max_cached_steps": 5,
        "max_continuous_cached_steps": 5,
        "enable_separate_cfg": True,
        "cfg_compute_first": True,
        "cfg_diff_compute_separate": False,
        "num_inference_steps": 28,
        "steps_computation_mask": "fast",
        "steps_computation_policy": "static",
        "scm_compute_bins": [4],
        "scm_cache_bins": [4],
        "force_refresh_step_hint": 3,
        "force_refresh_step_policy": "repeat",
        "l1_hidden_states_diff_threshold": 0.1,
        "important_condition_threshold": 0.1,
        "downsample_factor": 2,
        "enable_calibrator": False,
        "enable_encoder_calibrator": True,
        "calibrator_type": "taylorseer",
        "calibrator_cache_type": "hidden_states",
        "enable_taylorseer": True,
        "enable_encoder_taylorseer": True,
        "taylorseer_cache_type": "hidden_states",
        "taylorseer_order": 2,
        "calibrated_weights": [[[6, 4], 7, [1.4, -0.4]]],
        "enable_dmd": True,
        "enable_encoder_dmd": True,
        "dmd_history": 8,
        "dmd_rank": 2,
        "dmd_ridge": 1e-4,
        "dmd_svd_precision": "low",
        "enable_foca": True,
        "enable_encoder_foca": True,
        "enable_dynamic_prune_threshold": True,
        "max_dynamic_prune_threshold": 1.0,
        "dynamic_prune_threshold_relax_ratio": 2.0,
        "non_prune_block_ids": [1],
        "force_reduce_calibrator_vram": True,
    },
    "parallelism_config": {
        "backend": "native_pytorch",
        "ulysses_size": 2,
        "ring_size": 2,
        "tp_size": 2,
        "cfg_size": 2,
        "attention_backend": "flash",
        "ulysses_anything": True,
        "ulysses_float8": True,
        "ulysses_async": True,
        "ring_rotate_method": "allgather",
        "ring_convert_to_fp32": False,
        "extra_parallel_modules": ["vae"],
        "extra_parallel_kwargs": {"a": 1},
        "parallel_kwargs": {"a": 1},
        "use_ray": True,
        "ray_num_workers": 2,
        "ray_address": "a",
        "ray_runtime_env": {"a": 1},
        "ray_init_kwargs": {"a": 1},
        "ray_worker_options": {"a": 1},
        "ray_master_port": 1,
        "ray_auto_shutdown": False,
        "ray_transfer_backend": "a",
        "ray_transfer_custom_obj": False,
        "ray_use_flashpack": True,
        "ray_use_compile": True,
    },
    "quantize_config": {
        "backend": "ao",
        "quant_type": "int8",
        "exclude_layers": ["a"],
        "regional_quantize": False,
        "repeated_blocks": ["a"],
        "components_to_quantize": ["a"],
        "per_tensor_fallback": False,
        "precision_plan": {"a": "int8"},
        "serialize_to": "a",
        "svdq_kwargs": {"a": 1},
        "verbose": True,
    },
}
TAYLOR = {"enable_taylorseer": True}
# What a key needs beside it to take effect.
WITH = {
    "num_inference_steps": {"steps_computation_mask": "fast"},
    "steps_computation_policy": {"steps_computation_mask": "fast"},
    "scm_compute_bins": {"scm_cache_bins": [4]},
    "scm_cache_bins": {"scm_compute_bins": [4]},
    "taylorseer_order": TAYLOR,
    "calibrated_weights": TAYLOR,
    "taylorseer_cache_type": TAYLOR,
    "enable_encoder_taylorseer": TAYLOR,
    "enable_encoder_calibrator": TAYLOR,
    "cache_options": {"cache_type": "FORA"},
    "dmd_history": {"enable_dmd": True},
    "dmd_rank": {"enable_dmd": True},
    "dmd_ridge": {"enable_dmd": True},
    "calibrator_cache_type": {"enable_dmd": True},
    "enable_encoder_foca": {"enable_foca": True},
}


def load(section, values):
    return resolve(file=load_text(str({section: values}).replace("None", "null"), "c.yaml"))


def cached(**values):
    return build(load("cache_config", values))


def test_there_is_a_value_for_every_key_that_can_be_set():
    functions = {"cp_plan", "ray_transfer_fn", "filter_fn", "calibrate_fn"}
    for section, cls in SECTIONS.items():
        assert set(cls.__annotations__) - functions == set(OTHER[section])


@pytest.mark.parametrize(("section", "key"), [(s, key) for s, keys in OTHER.items() for key in keys])
def test_no_key_is_dropped_silently(section, key):
    """Set alone, every key changes the transform, is noted, or is refused, and names itself."""
    values = {key: OTHER[section][key]}
    if key in ("scm_compute_bins", "scm_cache_bins"):
        values = WITH[key] | values
    effective = load(section, values)
    if effective.refusals:
        assert [p for p in effective.refusals if p.path == f"{section}.{key}" and p.hint]
        with pytest.raises(ConfigError):
            build(effective)
    elif section == "quantize_config":
        # Which library it is, and what is said, changes no weights.
        assert (quantizations(effective)["transformer"] == Quantization()) == (key in ("backend", "verbose"))
    elif not any(f"{key} has no effect: " in note for note in effective.notes):
        assert build(effective) != (BASE if section == "cache_config" else pure.identity)


@pytest.mark.parametrize("key", list(WITH))
def test_what_depends_takes_effect_with_what_it_needs(key):
    plain = {"scm_compute_bins": [5], "scm_cache_bins": [5]}.get(key)
    without = cached(**WITH[key], **({key: plain} if plain else {}))
    assert cached(**{**WITH[key], key: OTHER["cache_config"][key]}) != without
    assert not load("cache_config", {**WITH[key], key: OTHER["cache_config"][key]}).notes


@pytest.mark.parametrize(
    ("values", "recipe"),
    [
        ({"cache_type": "DBCache"}, BASE),
        ({"Fn_compute_blocks": 2, "Bn_compute_blocks": 3}, dict(front=2, back=3)),
        ({"residual_diff_threshold": 1}, dict(threshold=1.0)),
        ({"residual_diff_threshold": -1.0}, dict(threshold=0.0)),
        ({"Fn_compute_blocks": 0, "residual_diff_threshold": 1.5}, dict(front=0, threshold=1.5)),
        ({"max_warmup_steps": 0, "warmup_interval": 3}, dict(warmup=0, warmup_interval=3)),
        ({"max_cached_steps": 0, "max_continuous_cached_steps": 4}, dict(max_cached=0, max_continuous=4)),
        ({"max_cached_steps": -1, "max_continuous_cached_steps": -1}, dict(max_cached=None, max_continuous=None)),
        ({"max_accumulated_residual_diff_threshold": 2}, dict(max_accumulated=2.0)),
        ({"important_condition_threshold": 0.3, "downsample_factor": 4}, dict(importance=0.3, downsample=4)),
        ({"cfg_diff_compute_separate": False}, dict(follow="conditional")),
    ],
)
def test_keys_of_the_cache(values, recipe):
    base: dict[str, Any] = dict(front=8, threshold=0.08, warmup=8, max_continuous=None)
    assert cached(**values) == (dbcache(**(base | recipe)) if isinstance(recipe, dict) else recipe)


@pytest.mark.parametrize(
    ("values", "recipe"),
    [
        (TAYLOR, taylorseer(order=1)),
        ({**TAYLOR, "taylorseer_order": 0}, taylorseer(order=0)),
        ({**TAYLOR, "taylorseer_order": 2}, taylorseer(order=2)),
        (
            {**TAYLOR, "calibrated_weights": [[[6, 4], 7, [1.4, -0.4]]], "enable_encoder_taylorseer": True},
            calibrated(table={((6, 4), 7): (1.4, -0.4)}, streams="all"),
        ),
        ({**TAYLOR, "taylorseer_cache_type": "hidden_states"}, taylorseer(on="hidden")),
        ({**TAYLOR, "enable_encoder_taylorseer": True}, taylorseer(streams="all")),
        ({**TAYLOR, "enable_encoder_calibrator": True}, taylorseer(streams="all")),
        ({"calibrator_type": "taylorseer"}, taylorseer()),
        ({"calibrator_type": "newton", "taylorseer_order": 2}, newton(order=2)),
        (
            {"calibrator_type": "newton", "enable_encoder_calibrator": True, "taylorseer_cache_type": "hidden_states"},
            newton(streams="all", on="hidden"),
        ),
        ({"calibrator_type": "hermite", "taylorseer_order": 2}, hermite(order=2)),
        ({"steps_computation_mask": "fast"}, scm(preset="fast")),
        ({"steps_computation_mask": "fast", "num_inference_steps": 28}, scm(preset="fast", steps=28)),
        ({"steps_computation_mask": "110", "steps_computation_policy": "static"}, scm(mask=(1, 1, 0), policy="static")),
        ({"scm_compute_bins": [4, 1], "scm_cache_bins": [2]}, scm(compute_bins=(4, 1), cache_bins=(2,))),
    ],
)
def test_what_is_composed_with_the_cache(values, recipe):
    assert cached(**values) == pure.compose(BASE, recipe)


def test_what_is_switched_off():
    assert cached(steps_computation_mask="none") == BASE
    assert cached(**TAYLOR, enable_calibrator=False) == BASE
    (note,) = load("cache_config", {**TAYLOR, "enable_calibrator": False}).notes
    assert note.endswith("enable_taylorseer has no effect: enable_calibrator is false")


def test_it_is_a_function():
    effective = load("cache_config", {"enable_taylorseer": True})
    assert build(effective) == build(effective) == pure.compose(translate(effective.cache))
    assert translate(CacheConfig()) == BASE
    with pytest.raises(ValueError, match="choose 'primary' or 'secondary'"):
        build(effective, expert="third")


@pytest.mark.parametrize(
    ("values", "facts", "wanted"),
    [
        ({"force_refresh_step_hint": 0}, Facts(), "state belongs to one request, there is nothing to refresh"),
        ({"cfg_compute_first": True, "cfg_diff_compute_separate": False}, Facts(), "write cfg_compute_first: false"),
        ({"steps_computation_mask": "110"}, Facts(steps=4), "the mask has 3 entries, but the run has 4 steps; give 4"),
        (
            {"Bn_compute_blocks": 1},
            Facts(blocks=8),
            "8 first and 1 last blocks, but the denoiser has 8; make them fewer",
        ),
        ({"Bn_compute_blocks": 1}, Facts(blocks=8), "library default (cache-dit): cache_config.Fn_compute_blocks"),
    ],
)
def test_refusals_of_the_cache(values, facts, wanted):
    effective = resolve(file=load_text(str({"cache_config": values}), "c.yaml"), facts=facts)
    with pytest.raises(ConfigError) as caught:
        build(effective)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "processes", "wanted"),
    [
        ({"tp_size": 1}, 1, None),
        ({"ulysses_size": "auto", "ring_size": 1}, 1, None),
        ({"ulysses_size": 4}, 1, "ulysses_size: 4 needs 4 processes, this run has 1; start with --num-gpus 4"),
        ({"ulysses_size": "auto", "tp_size": 3}, 4, "needs 3 processes, this run has 4"),
        ({"ulysses_size": 2}, 8, "needs 2 processes, this run has 8; start with --num-gpus 2, or remove the sizes, or"),
        ({"ulysses_size": 2}, 4, "start with --num-gpus 2, or remove the sizes, or write auto for one"),
        ({"ring_size": 3}, 4, "ring_size: 3 needs 3 processes, this run has 4"),
        ({"ulysses_size": "auto"}, 2, None),
        ({"ulysses_size": 2, "ring_size": 2, "tp_size": 2}, 8, None),
    ],
)
def test_sizes(sizes, processes, wanted):
    effective = resolve(file=load_text(str({"parallelism_config": sizes})), facts=Facts(processes=processes))
    assert (wanted is None) == (not effective.refusals)
    assert wanted is None or wanted in str(effective.refusals[0])


@pytest.mark.parametrize(
    ("name", "device", "wanted"),
    [
        ("native", "cpu", None),
        ("torch_sdpa", "cuda", None),
        ("_native_math", "cpu", None),
        ("flex", "cpu", None),
        ("flash", "cpu", "flash does not run here: there is no package flash_attn; pip install 'flash-attn>=2.6.3'"),
        ("flash", "cpu", "; write one that does: native, _native_math, _native_flash, flex"),
        ("_native_cudnn", "cpu", "_native_cudnn does not run here: it was tried on cpu and failed: torch has no such"),
        ("vmoba_attn", "cuda", "vmoba_attn does not run here: it leaves keys out by a pattern of its own"),
    ],
)
@pytest.mark.parametrize("section", ["attention_backend: {}", "parallelism_config: {{attention_backend: {}}}"])
def test_attention(name, device, wanted, section):
    effective = resolve(file=load_text(section.format(name)), facts=Facts(device=device))
    assert effective.attention_backend == name
    assert (wanted is None) == (not effective.refusals)
    assert wanted is None or wanted in str(effective.refusals[0])
    if wanted is None:
        assert attend_by(effective) == (pure.identity if canonical(name) == "native" else attention(name))


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ({"ring_size": 2}, "gives no log-sum-exp"),
        ({"ring_size": 2, "ring_rotate_method": "allgather"}, None),
        ({"ring_size": 1, "ulysses_size": 2}, None),
    ],
)
def test_attention_of_a_ring(sizes, wanted, monkeypatch):
    """Without parts it can only take all keys at once; cuDNN's kernel is let through here as if it ran."""
    monkeypatch.setattr(machine, "_tried", lambda *_: None)
    config = {"parallelism_config": {**sizes, "attention_backend": "_native_cudnn"}}
    effective = resolve(file=load_text(str(config)), facts=Facts(processes=2))
    assert [wanted in str(each) for each in effective.refusals] == ([] if wanted is None else [True])


def test_the_attention_of_the_first_source_counts():
    inner, outer = load_text("parallelism_config: {attention_backend: _native_math}"), {"attention_backend": "flex"}
    assert resolve(file=inner, flags=read_flags(outer)).attention_backend == "flex"
    environ = read_environment({"DIFFUSERS_ATTN_BACKEND": "flex"})
    assert resolve(file=inner, environment=environ).attention_backend == "_native_math"
    assert resolve(environment=environ).attention_backend == "flex"


def run(transform, steps):
    denoiser, params = adder([1.0, 2.0, 3.0])
    solver = pure.FlowMatchEuler()
    conditioning, latents = torch.zeros(1, 1, 2, dtype=torch.float64), torch.ones(1, 3, 2, dtype=torch.float64)
    return pure.sample(transform(denoiser), params, conditioning, latents, solver.schedule(steps, tokens=3), solver)


def test_a_preset_for_another_step_count_is_derived_anew_with_a_note():
    transform = cached(Fn_compute_blocks=1, steps_computation_mask="fast", num_inference_steps=28)
    assert [note.text for note in run(transform, 12).notes] == [
        "the mask 'fast' is meant for 28 steps; this run of 12 has its own"
    ]


def parts(transform):
    assert isinstance(transform, pure.Composed)
    return transform.transforms


@pytest.mark.parametrize(("experts", "steps"), [(None, 28), (1, 28), (2, None)])
def test_the_steps_of_a_run_are_not_those_of_one_of_its_experts(experts, steps):
    """`num_inference_steps` counts the whole run; of two experts each has a part of it, which needs no note."""
    values = {"steps_computation_mask": "fast", "num_inference_steps": 28}
    effective = resolve(file=load_text(str({"cache_config": values})), facts=Facts(experts=experts))
    assert scm(preset="fast", steps=steps) in parts(build(effective))
    assert scm(preset="fast") in parts(build(effective, "secondary"))


def test_an_explicit_mask_for_another_step_count_is_refused():
    transform = cached(Fn_compute_blocks=1, steps_computation_mask="1101")
    with pytest.raises(ValueError, match="has 4 entries, but the run has 5 steps; give 5 entries or run 4 steps"):
        run(transform, 5)


@pytest.mark.parametrize(
    ("steps", "text"),
    [(8, "cover 6 of 8 steps; the remaining 2 are computed"), (5, "cover 6 steps and are cut to the run's 5")],
)
def test_bins_of_another_length(steps, text):
    bins = {"scm_compute_bins": [2, 2], "scm_cache_bins": [1, 1], "steps_computation_policy": "static"}
    done = run(cached(Fn_compute_blocks=1, max_warmup_steps=0, **bins), steps)
    assert [note.text for note in done.notes] == [f"the bins {text}"]
    mask = [1, 1, 0, 1, 1, 0, 1, 1][:steps]
    assert [info.computed[0] for info in done.infos] == [bool(entry) for entry in mask]


def test_an_attention_that_does_not_run_here_is_no_transform():
    with pytest.raises(ConfigError, match=r"flash does not run here: there is no package flash_attn"):
        attend_by(resolve(file=load_text("attention_backend: flash")))
