"""The one translation of a configuration into transforms: a pure function."""

from collections.abc import Mapping

import attrs

from pure import Transform, compose, identity
from pure.checks import check_argument, shown
from pure.configs.consistency import calibrators
from pure.configs.effective import Effective
from pure.configs.layer import Setting
from pure.configs.methods import METHODS, method
from pure.configs.quantization import COMPONENTS, KEYS, canonical
from pure.configs.report import ConfigError
from pure.configs.schema import CacheConfig, QuantizeConfig
from pure.distributed.mesh import Sizes
from pure.transforms import (
    Quantization,
    adams,
    attention,
    calibrated,
    dbcache,
    dbprune,
    dmd,
    foca,
    hermite,
    newton,
    scm,
    taylorseer,
)
from pure.transforms.attention.names import canonical as canonical_attention

__all__ = ["Parallel", "attend_by", "build", "parallel", "translate"]


@attrs.frozen(kw_only=True)
class Parallel:
    """How processes share the work; by the names of `pure.distributed.context_parallel`.

    Attributes:
        sizes: of the mesh.
        float8: whether Ulysses communicates in float8.
        overlap: whether Ulysses communicates while it computes.
        rotate: how the ring communicates, "p2p" or "allgather".
        fp32: whether the ring combines partial results in float32.
        extra: what else they share: "text_encoder", "vae".
    """

    sizes: Sizes = attrs.field(factory=Sizes)
    float8: bool = False
    overlap: bool = False
    rotate: str = "p2p"
    fp32: bool = True
    extra: tuple[str, ...] = ()


def check_effective(effective: Effective) -> None:
    """Refuse what is no effective configuration, or cannot be done here.

    Raises:
        TypeError: it is something else.
        ConfigError: something cannot be done here; lists all of it.
    """
    check_argument(effective, Effective, "this takes what configure(...) or resolve(...) returned")
    if effective.refusals:
        raise ConfigError(effective.refusals)


def parallel(effective: Effective) -> Parallel:
    """Translate the effective `parallelism_config`.

    Raises:
        ConfigError: something cannot be done here; lists all of it.

    >>> from pure.configs import Facts, resolve
    >>> parallel(resolve(facts=Facts(processes=4))).sizes
    Sizes(ring=1, ulysses=4, tp=1, cfg=1, dp=1)
    """
    check_effective(effective)
    config = effective.parallelism
    groups = effective.facts.groups
    if config is None:
        return Parallel(sizes=Sizes(dp=groups))
    sizes = {axis: getattr(config, f"{axis}_size") or 1 for axis in ("ring", "ulysses", "tp", "cfg")}
    return Parallel(
        sizes=Sizes(**sizes, dp=groups),
        float8=config.ulysses_float8,
        overlap=config.ulysses_async,
        rotate=config.ring_rotate_method,
        fp32=config.ring_convert_to_fp32,
        extra=config.extra_parallel_modules,
    )


def attend_by(effective: Effective) -> Transform:
    """Translate the effective attention backend; `pure.identity` where none is chosen.

    Raises:
        ConfigError: something cannot be done here; lists all of it.

    >>> from pure.configs import resolve
    >>> from pure.configs.load import load_text
    >>> attend_by(resolve(file=load_text("attention_backend: flex")))
    attention(name='flex')
    """
    check_effective(effective)
    name = effective.attention_backend
    return identity if name is None or canonical_attention(name) == "native" else attention(name)


def build(effective: Effective, expert: str = "primary") -> Transform:
    """Translate the effective configuration into the transform of one expert's denoiser.

    Args:
        effective: what `resolve` returned.
        expert: "primary", which is the only one of most models, or "secondary".

    Returns:
        The transform; `pure.identity` where there is no cache.

    Raises:
        ConfigError: something cannot be done here, such as 8 processes' work in one; lists all of it.
    """
    if expert not in ("primary", "secondary"):
        raise ValueError(f"build(expert={shown(expert)}): choose 'primary' or 'secondary'")
    check_effective(effective)
    if not effective.enabled:
        return identity
    several = effective.facts.experts not in (None, 1) or expert == "secondary"
    return translate(effective.secondary if expert == "secondary" else effective.cache, check_steps=not several)


def translate(config: CacheConfig, check_steps: bool = True) -> Transform:
    """Translate a `cache_config` that this version can honour.

    Args:
        config: complete.
        check_steps: compare `num_inference_steps` with the run's steps; False for one of
            several experts, which has steps of its own.

    Raises:
        TypeError: this is no `CacheConfig`.
    """
    check_argument(config, CacheConfig, "a cache is translated from a CacheConfig")
    return compose(_cache(config), *_calibrator(config), *_mask(config, check_steps))


def _cache(config: CacheConfig) -> Transform:
    if config.cache_type in METHODS:
        return method(config)
    if config.cache_type == "DBPrune":
        return _pruning(config)
    return dbcache(
        front=config.Fn_compute_blocks,
        back=config.Bn_compute_blocks,
        threshold=max(config.residual_diff_threshold, 0.0),  # cache-dit takes any below 0 for "never skip"
        warmup=config.max_warmup_steps,
        warmup_interval=config.warmup_interval,
        max_cached=_limit(config.max_cached_steps),
        max_continuous=_limit(config.max_continuous_cached_steps),
        max_accumulated=config.max_accumulated_residual_diff_threshold,
        importance=config.important_condition_threshold,
        downsample=config.downsample_factor,
        follow="own" if config.cfg_diff_compute_separate else "conditional",
    )


def _pruning(config: CacheConfig) -> Transform:
    return dbprune(
        front=config.Fn_compute_blocks,
        back=config.Bn_compute_blocks,
        keep=config.non_prune_block_ids,
        threshold=max(config.residual_diff_threshold, 0.0),
        warmup=config.max_warmup_steps,
        max_cached=_limit(config.max_cached_steps),
        max_continuous=_limit(config.max_continuous_cached_steps),
        importance=config.important_condition_threshold,
        downsample=config.downsample_factor,
        follow="own" if config.cfg_diff_compute_separate else "conditional",
    )


def _limit(value: int) -> int | None:
    return None if value < 0 else value


LADDERS = {"newton": newton, "hermite": hermite, "adams": adams, "taylorseer": taylorseer}
"""Calibrators with the keys of TaylorSeer."""


def _calibrator(config: CacheConfig) -> tuple[Transform, ...]:
    names = ("enable_taylorseer", "enable_dmd", "enable_foca", "calibrator_type", "enable_calibrator")
    chosen = {f"cache_config.{name}": Setting(value=getattr(config, name), place="") for name in names}
    name = next(iter(calibrators(chosen)), None)
    if name is None:
        return ()
    if name == "dmd":
        everything = config.enable_encoder_dmd is not False or config.enable_encoder_calibrator
        options = {"history": config.dmd_history, "rank": config.dmd_rank, "ridge": config.dmd_ridge}
        return (dmd(on=_target(config.calibrator_cache_type), streams="all" if everything else None, **options),)
    if name == "foca":
        everything = config.enable_encoder_foca or config.enable_encoder_calibrator
        return (foca(on=_target(config.calibrator_cache_type), streams="all" if everything else None),)
    everything = config.enable_encoder_taylorseer or config.enable_encoder_calibrator
    order, streams, on = config.taylorseer_order, "all" if everything else None, _target(config.taylorseer_cache_type)
    if name == "taylorseer" and config.calibrated_weights is not None:
        return (calibrated(table=config.calibrated_weights, order=order, on=on, streams=streams),)
    return (LADDERS[name](order=order, on=on, streams=streams),)


def _target(cache_type: str) -> str:
    return "hidden" if cache_type == "hidden_states" else "residual"


def _mask(config: CacheConfig, check_steps: bool) -> tuple[Transform, ...]:
    steps = config.num_inference_steps if check_steps else None
    mask, policy = config.steps_computation_mask, config.steps_computation_policy
    if config.scm_compute_bins is not None:
        bins = {"compute_bins": config.scm_compute_bins, "cache_bins": config.scm_cache_bins}
        return (scm(**bins, steps=steps, policy=policy),)
    if mask is None or mask == "none":
        return ()
    return (scm(preset=mask, steps=steps, policy=policy) if isinstance(mask, str) else
            scm(mask=mask, steps=steps, policy=policy),)  # fmt: skip


def parts(config: QuantizeConfig) -> dict[str, QuantizeConfig]:
    """Return the keys that count for each component; valid ones only come in.

    >>> found = parts(QuantizeConfig(quant_type="int8", components_to_quantize={"transformer_2": "float8"}))
    >>> {name: part.quant_type for name, part in found.items()}
    {'transformer_2': 'float8'}
    """
    chosen = config.components_to_quantize
    if chosen is None:
        return dict.fromkeys(COMPONENTS, config)
    if not isinstance(chosen, Mapping):
        return dict.fromkeys(chosen, config)
    owns = {name: {"quant_type": own} if isinstance(own, str) else own or {} for name, own in chosen.items()}
    return {
        name: attrs.evolve(config, **{key: KEYS[key].parse(value) for key, value in own.items()})
        for name, own in owns.items()
    }


def quantizations(effective: Effective) -> dict[str, Quantization]:
    """Translate the effective `quantize_config` into settings by component; empty where nothing is quantised.

    Raises:
        ConfigError: something cannot be done here; lists all of it.
    """
    check_effective(effective)
    if effective.quantize is None:
        return {}
    return {
        name: Quantization(
            kind=canonical(part.quant_type),
            exclude=part.exclude_layers,
            blocks=part.regional_quantize,
            fallback=part.per_tensor_fallback,
            plan=tuple((layer, canonical(kind)) for layer, kind in (part.precision_plan or {}).items()),
        )
        for name, part in parts(effective.quantize).items()
    }
