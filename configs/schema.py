"""The configuration as frozen records: every key, its kind, default, unit, range and interactions.

This is the only list of keys. The checks, the reference table (`puredit config --reference`,
docs/configuration.md) and the translation into transforms all read it. Words and defaults
are cache-dit's; in Python, lists are tuples.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from pure.configs.kinds import Bool, Callback, Choice, Counts, Nested, Real, StepMask, Text, ValueKind, Whole, Words
from pure.configs.tuned import Rows, Tuned
from pure.transforms.attention.names import NAMES as ATTENTION

__all__ = ["SECTIONS", "CacheConfig", "ParallelismConfig", "QuantizeConfig", "key_of"]

METHODS = ("FORA", "MagCache", "TeaCache", "EasyCache", "SeaCache", "Budget", "SpeCa")
"""Values of `cache_type` that `pure.configs.methods` translates."""
PRESETS = ("none", "slow", "medium", "fast", "ultra")
QUANT = (
    *("float8", "float8_per_row", "float8_per_tensor", "float8_per_block", "float8_blockwise", "float8_weight_only"),
    *("int8", "int8_per_row", "int8_per_tensor", "int8_weight_only", "int4_weight_only", "nvfp4", "nvfp4_weight_only"),
    *(f"svdq_{kind}_r{rank}{dq}" for kind in ("int4", "nvfp4") for rank in (32, 64, 128) for dq in ("", "_dq")),
)


@attrs.frozen(kw_only=True)
class Key:
    """What is known of a key besides its name and default."""

    kind: ValueKind
    help: str
    unit: str = ""
    aliases: tuple[str, ...] = ()


def _key(default: Any, kind: ValueKind, help: str, unit: str = "", aliases: tuple[str, ...] = ()) -> Any:
    return attrs.field(default=default, metadata={"key": Key(kind=kind, help=help, unit=unit, aliases=aliases)})


def _dashboard() -> dict[str, Any]:
    return {"include_dashboard": False}


RESIDUAL = Choice(("residual", "hidden_states"))
PRUNE = "DBPrune only."
DMD = "DMD only."
RAY = "Ray clusters are not supported."
ONE = "No effect in one process."
EXTRA = ("text_encoder", "vae")
NO_CONTROLNET = (("controlnet", "no checkpoint that is loaded has a controlnet; leave it out"),)


@attrs.frozen(kw_only=True)
class CacheConfig:
    """`cache_config`: when to skip the middle blocks of a step, and how to fill them in."""

    cache_type: str = _key(
        "DBCache", Choice(("DBCache", "DBPrune", *METHODS)), "The method that decides. DBPrune has keys of DBCache and "
        "its own; others have cache_options instead of the thresholds and limits below. Calibrators go with all, "
        "a mask with those that are none.")  # fmt: skip
    cache_options: Mapping[str, Any] = _key(
        attrs.Factory(dict), Nested(), "Of another cache_type than DBCache: the arguments of its transform, such as "
        "{interval: 3, warmup: 2} of FORA; what is left out has the transform's defaults.")  # fmt: skip
    Fn_compute_blocks: int = _key(
        8, Whole(0), "First blocks, always run; their residual is what the threshold measures. "
        "0 needs a threshold of <= 0 or >= 1; Fn + Bn at most the number of blocks.", "blocks")  # fmt: skip
    Bn_compute_blocks: int = _key(0, Whole(0), "Last blocks, always run.", "blocks")
    residual_diff_threshold: float = _key(
        0.08, Real(), "Skip while the first blocks' residual changed less than this since the last computed step; "
        "<= 0 never skips, >= 1 always does. Ignored on the zeros of a static mask.", "relative change")  # fmt: skip
    max_accumulated_residual_diff_threshold: float | None = _key(
        None, Real(0, open=True), "Compute once the accepted changes since the last computed step add up to this.",
        "relative change")  # fmt: skip
    max_warmup_steps: int = _key(8, Whole(0), "First steps, computed; capped by the leading ones of a mask.", "steps")
    warmup_interval: int = _key(1, Whole(1), "Compute every n-th warm-up step; those between may be skipped.", "steps")
    max_cached_steps: int = _key(-1, Whole(0, unlimited=True), "Most steps skipped in a run.", "steps")
    max_continuous_cached_steps: int = _key(
        -1, Whole(0, unlimited=True), "Most steps skipped in a row. Ignored on the zeros of a static mask.", "steps"
    )
    enable_separate_cfg: bool | None = _key(
        None, Bool(), "Accepted without effect: guidance branches are named, so each always has a cache of its own.",
        aliases=("enable_sperate_cfg",))  # fmt: skip
    cfg_compute_first: bool = _key(
        False, Bool(), "Accepted without effect, as branches are named; refused with cfg_diff_compute_separate: false."
    )
    cfg_diff_compute_separate: bool = _key(
        True, Bool(), "false: the unconditional branch takes the change measured on the conditional one."
    )
    num_inference_steps: int | None = _key(
        None, Whole(1), "Steps that the mask is meant for; it does not set the steps of the run. A preset is derived "
        "anew for another number, with a note; an explicit mask is refused.", "steps")  # fmt: skip
    steps_computation_mask: str | tuple[int, ...] | None = _key(
        None, StepMask(PRESETS), "1 computes, 0 may skip; a preset is derived from the run's steps."
    )
    steps_computation_policy: str = _key(
        "dynamic", Choice(("dynamic", "static")), "What a 0 of the mask means: dynamic leaves the decision to the "
        "other rules, static skips whatever they say.")  # fmt: skip
    scm_compute_bins: tuple[int, ...] | None = _key(
        None, Counts(0, first=1), "Lengths of the runs of ones; needs scm_cache_bins; wins over a preset. Bins that "
        "are too short compute the remaining steps, too long ones are cut; both warn.", "steps")  # fmt: skip
    scm_cache_bins: tuple[int, ...] | None = _key(
        None, Counts(0), "Lengths of the runs of zeros between them; needs scm_compute_bins.", "steps"
    )
    force_refresh_step_hint: int | None = _key(
        None, Whole(0), "Refused: state belongs to one request, there is nothing to refresh.", "calls"
    )
    force_refresh_step_policy: str = _key("once", Choice(("once", "repeat")), "Of force_refresh_step_hint.")
    l1_hidden_states_diff_threshold: float | None = _key(
        None, Real(), "Refused: the change is measured on the residual.", "relative change"
    )
    important_condition_threshold: float = _key(
        0.0, Real(0), "Measure only tokens whose own relative change exceeds this; 0 measures all.", "relative change"
    )
    downsample_factor: int = _key(1, Whole(1), "Measure every n-th feature only.", "features")
    enable_calibrator: bool = _key(True, Bool(), "false switches the chosen calibrator off.")
    enable_encoder_calibrator: bool = _key(False, Bool(), "As enable_encoder_taylorseer; of the calibrator that is on.")
    calibrator_type: str | None = _key(
        None,
        Choice(("taylorseer", "newton", "hermite", "adams", "dmd", "foca")),
        "As enable_taylorseer: true, and so on; at most one calibrator. newton: a polynomial through the last values; "
        "hermite: HiCache, scaled by 0.5; adams: the method of Adams; all with the keys of TaylorSeer.",
    )
    calibrator_cache_type: str = _key("residual", RESIDUAL, "Of DMD and FoCa; see taylorseer_cache_type.")
    enable_taylorseer: bool = _key(False, Bool(), "Extrapolate skipped residuals instead of repeating them.")
    enable_encoder_taylorseer: bool = _key(
        False, Bool(), "Extrapolate every stream; false: those the head reads (FLUX: image, not text)."
    )
    taylorseer_cache_type: str = _key("residual", RESIDUAL, "Extrapolate what the middle blocks add, or their output.")
    taylorseer_order: int = _key(1, Whole(0, 3), "Highest derivative; 1 or 2 are common, 0 repeats.")
    calibrated_weights: tuple | None = _key(
        None, Rows(), "Weights in place of TaylorSeer's, by history (newest step first) and target; see docs/tuning.md."
    )
    enable_dmd: bool = _key(False, Bool(), "Extrapolate by dynamic mode decomposition: as sums of exponentials.")
    enable_encoder_dmd: bool | None = _key(
        None, Bool(), "As enable_encoder_taylorseer, of DMD; null: as true, so that every stream is extrapolated."
    )
    dmd_history: int = _key(6, Whole(4, 64), "Most computed steps that are fitted. " + DMD, "computed steps")
    dmd_rank: int = _key(0, Whole(0), "Most singular values; 0: those above 1e-4 of the largest. " + DMD)
    dmd_ridge: float = _key(1e-8, Real(0), "Added to singular values before they are inverted. " + DMD)
    dmd_svd_precision: str = _key(
        "medium", Choice(("low", "medium", "high")), "Accepted without effect: what is decomposed are inner products, "
        "in float64. " + DMD)  # fmt: skip
    enable_foca: bool = _key(False, Bool(), "Extrapolate by FoCa's forecast and calibration.")
    enable_encoder_foca: bool = _key(False, Bool(), "As enable_encoder_taylorseer, of FoCa.")
    enable_dynamic_prune_threshold: bool = _key(False, Bool(), "true is refused with DBPrune. " + PRUNE)
    max_dynamic_prune_threshold: float | None = _key(None, Real(0), PRUNE, "relative change")
    dynamic_prune_threshold_relax_ratio: float = _key(1.25, Real(0), PRUNE)
    non_prune_block_ids: tuple[int, ...] = _key(
        (), Counts(0, empty=True), "Further blocks that always run. " + PRUNE, "block indices"
    )
    force_reduce_calibrator_vram: bool = _key(False, Bool(), "Accepted without effect. " + PRUNE)


@attrs.frozen(kw_only=True)
class ParallelismConfig:
    """`parallelism_config`: over how many processes, and how."""

    backend: str = _key("auto", Choice(("auto", "native_diffuser", "native_pytorch", "none")),
                        "cache-dit's engine; accepted without effect, there is one.")  # fmt: skip
    ulysses_size: int | str | None = _key(
        None, Whole(1, words=("auto",)), "Processes that share the heads; auto, the default: the number of processes "
        "divided by the other sizes. At most one size is auto; the product is the number of processes.",
        "processes", ("ulysses",))  # fmt: skip
    ring_size: int | str | None = _key(
        None,
        Whole(1, words=("auto",)),
        "Processes that share the sequence, around which keys and values go.",
        "processes",
        ("ring",),
    )
    tp_size: int | str | None = _key(
        None,
        Whole(1, words=("auto",)),
        "Processes that share the weights of every block; at most as many as heads.",
        "processes",
        ("tp",),
    )
    cfg_size: int | None = _key(
        None,
        Whole(1, 2),
        "2: half of the processes run each branch of classifier-free guidance.",
        "processes",
        ("cfg",),
    )
    attention_backend: str | None = _key(None, Choice(ATTENTION), "As attention_backend at the top level.")
    ulysses_anything: bool = _key(False, Bool(), "Accepted without effect: any number of heads and tokens works.")
    ulysses_float8: bool = _key(
        False, Bool(), "Communicate in float8: fewer bytes, and results that differ by its rounding. " + ONE
    )
    ulysses_async: bool = _key(False, Bool(), "Overlap communication with computation. " + ONE)
    ring_rotate_method: str = _key("p2p", Choice(("p2p", "allgather")), "How the ring communicates. " + ONE)
    ring_convert_to_fp32: bool = _key(True, Bool(), "Combine the ring's partial results in float32. " + ONE)
    extra_parallel_modules: tuple[str, ...] = _key(
        (), Words(EXTRA, NO_CONTROLNET), "Other modules that the processes share: text_encoder, the weights of all "
        "text encoders but CLIP; vae, the rows of encoded and decoded pictures. " + ONE)  # fmt: skip
    extra_parallel_kwargs: Mapping[str, Any] = _key(
        attrs.Factory(dict), Nested(), "Accepted without effect: the other modules have no options."
    )
    parallel_kwargs: Mapping[str, Any] = _key(
        attrs.Factory(dict), Nested(), "Deprecated and refused: write its keys in parallelism_config."
    )
    cp_plan: None = _key(None, Callback(), "A Python object.")
    use_ray: bool = _key(False, Bool(), "true is refused: " + RAY)
    ray_num_workers: int | None = _key(None, Whole(1), RAY, "processes")
    ray_address: str | None = _key(None, Text(), RAY)
    ray_runtime_env: Mapping[str, Any] | None = _key(None, Nested(), RAY)
    ray_init_kwargs: Mapping[str, Any] = _key(attrs.Factory(_dashboard), Nested(), RAY)
    ray_worker_options: Mapping[str, Any] = _key(attrs.Factory(dict), Nested(), RAY)
    ray_master_port: int = _key(0, Whole(0, 65535), RAY, "port")
    ray_auto_shutdown: bool = _key(True, Bool(), RAY)
    ray_transfer_backend: str = _key("auto", Text(), RAY)
    ray_transfer_custom_obj: bool = _key(True, Bool(), RAY)
    ray_use_flashpack: bool = _key(False, Bool(), RAY)
    ray_use_compile: bool = _key(False, Bool(), RAY)
    ray_transfer_fn: None = _key(None, Callback(), RAY)


@attrs.frozen(kw_only=True)
class QuantizeConfig:
    """`quantize_config`: weights in one byte each; needs the extra `quant`. See docs/quantization.md."""

    backend: str = _key(
        "auto", Choice(("auto", "ao", "torchao", "svdq", "cache_dit")), "torchao quantises; others are refused."
    )
    quant_type: str = _key(
        "float8_per_row",
        Choice(QUANT),
        "What weights become. float8, int8: what is multiplied with them too; blockwise and weight_only: they alone. "
        "nvfp4 and svdq are refused.",
    )
    exclude_layers: tuple[str, ...] = _key(
        ("embedder", "embed", "modulation", "mod"), Words(), "Layers whose name contains one of these stay as they are."
    )
    regional_quantize: bool = _key(True, Bool(), "Only the repeated blocks; false: all layers.")
    repeated_blocks: tuple[str, ...] = _key((), Words(), "Refused: the blocks are those of the denoiser.")
    filter_fn: None = _key(None, Callback(), "A Python function.")
    components_to_quantize: Mapping[str, Any] | tuple[str, ...] | None = _key(
        None,
        Nested(lists=True),
        "transformer, transformer_2 (the second expert) or both, perhaps with a quant_type or keys of its own each; "
        "unset: both.",
    )
    per_tensor_fallback: bool = _key(
        True, Bool(), "Where a shape allows no float8 per row or block: float8_per_tensor; false: such layers stay."
    )
    precision_plan: Mapping[str, Any] | None = _key(
        None, Nested(), "A quant_type for layers whose name contains the key; the longest key counts."
    )
    calibrate_fn: None = _key(None, Callback(), "A Python function.")
    serialize_to: str | None = _key(None, Text(), "Refused: weights are quantised at every start.")
    svdq_kwargs: Mapping[str, Any] | None = _key(None, Nested(), "Refused: SVDQuant is not implemented.")
    verbose: bool = _key(False, Bool(), "Say of every layer what it became.")


SECTIONS: dict[str, type] = {
    "cache_config": CacheConfig,
    "parallelism_config": ParallelismConfig,
    "quantize_config": QuantizeConfig,
}
"""The sections that are mappings; `attention_backend` is one word."""

TUNED = Key(kind=Tuned(), help="What the cache of this file was made for by `puredit tune`; see docs/tuning.md.")
BACKEND = Key(
    kind=Choice(ATTENTION),
    help="The kernel of attention; native is torch's choice. One that does not run here is refused, with those "
    "that do; see docs/attention.md.",
)

# What the environment and requests start from when no file has a cache_config: SGLang's values.
SGLANG = {
    "cache_config.Fn_compute_blocks": 1,
    "cache_config.Bn_compute_blocks": 0,
    "cache_config.max_warmup_steps": 4,
    "cache_config.residual_diff_threshold": 0.24,
    "cache_config.max_continuous_cached_steps": 3,
}


def key_of(field: attrs.Attribute) -> Key:
    """Return what is known of a key."""
    return field.metadata["key"]
