"""What this version can honour: notes for what has no effect, refusals for what cannot be done.

Nothing a source says is ignored silently: a value either takes effect, or is noted here as
without effect, or is refused with the reason and what would do.
"""

from collections.abc import Iterator

import attrs
import torch

from pure.configs.consistency import SIZES, calibrators
from pure.configs.facts import Facts
from pure.configs.layer import Setting, Settings
from pure.configs.methods import MASKS, METHODS, faults, method
from pure.configs.numerals import unquoted
from pure.configs.quantization import refusals as unquantizable
from pure.configs.report import Problem
from pure.configs.schema import SECTIONS, CacheConfig, ParallelismConfig
from pure.configs.sizes import PARALLEL, settle_sizes, without_effect
from pure.plan import Span
from pure.transforms.attention.machine import obstacle, working
from pure.transforms.attention.names import unsupported

__all__ = ["Facts", "observations"]

CACHE = "cache_config."
DEFAULTS = {
    f"{section}.{name}": value
    for section, cls in SECTIONS.items()
    for name, value in attrs.asdict(cls(), recurse=False).items()
}

# Keys that this version refuses unless they hold their default: why, and what would do.
REFUSED = {
    f"{CACHE}force_refresh_step_hint": ("state belongs to one request, there is nothing to refresh", "remove the key"),
    f"{CACHE}l1_hidden_states_diff_threshold": (
        "the change is measured on the residual only", "use residual_diff_threshold"),
    f"{PARALLEL}parallel_kwargs": ("the key is deprecated", "write its keys in parallelism_config"),
    f"{PARALLEL}use_ray": ("Ray clusters are not supported", "start the processes with --num-gpus"),
}  # fmt: skip
OF_RESIDUALS = ("dmd", "foca")
SWITCHES = ("enable_taylorseer", "calibrator_type", "enable_dmd", "enable_foca")
LADDERS = ("taylorseer", "newton", "hermite", "adams")
TAYLOR = ("taylorseer_order", "taylorseer_cache_type", "enable_encoder_taylorseer", "calibrated_weights")
DMD = ("dmd_history", "dmd_rank", "dmd_ridge", "dmd_svd_precision", "enable_encoder_dmd")
PRUNE = (
    *("enable_dynamic_prune_threshold", "max_dynamic_prune_threshold", "dynamic_prune_threshold_relax_ratio"),
    *("non_prune_block_ids", "force_reduce_calibrator_vram"),
)
OF_DBCACHE = (
    *("residual_diff_threshold", "max_accumulated_residual_diff_threshold", "max_warmup_steps", "warmup_interval"),
    *("max_cached_steps", "max_continuous_cached_steps", "cfg_diff_compute_separate"),
    *("important_condition_threshold", "downsample_factor", "Fn_compute_blocks", "Bn_compute_blocks"),
)
IGNORED_BY_STATIC = (
    *("residual_diff_threshold", "max_accumulated_residual_diff_threshold", "max_cached_steps"),
    "max_continuous_cached_steps",
)
MASK_KEYS = ("scm_compute_bins", "steps_computation_mask")
RAY = tuple(field.name for field in attrs.fields(ParallelismConfig) if field.name.startswith("ray_"))


def observations(
    primary: Settings, secondary: Settings, facts: Facts
) -> tuple[dict[str, Setting], list[str], list[Problem]]:
    """Say what has no effect, and what cannot be done.

    Args:
        primary: settings with defaults for the first expert, none of them None.
        secondary: likewise for the second.
        facts: what is known of the run.

    Returns:
        The sizes that were `auto`, resolved; notes; refusals.
    """
    notes: list[str] = []
    refusals: list[Problem] = []
    if not primary["enabled"].value:
        notes += _off(primary)
    else:
        for settings in (primary,) if facts.experts == 1 else (primary, secondary):
            notes += _without_effect(settings)
            refusals += _cache(settings, facts)
    if facts.experts == 1:
        own = [s.place for path, s in secondary.items() if s.given and primary.get(path) is not s]
        notes += [f"{place}: no effect, as the model has one expert" for place in own]
    sizes, size_notes, size_refusals = _sizes(primary, facts)
    sized = {**primary, **sizes}
    refusals += size_refusals + _refused(sized, PARALLEL) + _attention(sized, facts) + unquantizable(sized, facts)
    return sizes, notes + size_notes, list(dict.fromkeys(refusals))


def _refuse(settings: Settings, path: str, found: str, cure: str) -> Problem:
    return Problem(place=settings[path].place, path=path, found=found, allowed="", hint=cure)


def _set(settings: Settings, path: str) -> bool:
    """Whether a source sets another value than the default."""
    return path in settings and settings[path].given and settings[path].value != DEFAULTS[path]


def _off(settings: Settings) -> list[str]:
    keys = [path for path in settings if (path.startswith(CACHE) or path == "tuned") and settings[path].given]
    if not keys:
        return []
    enabled = settings["enabled"]
    switch = f"switched off by {enabled.place}" if enabled.given else "not switched on"
    how = "SGLANG_CACHE_DIT_ENABLED=true, --enable-cache-dit, or a cache_config section"
    places = ", ".join(settings[path].place for path in keys)
    return [f"{places}: no effect, as the cache is {switch}; it is switched on by {how}"]


# ------------------------------------------------------------------------------ cache


def _without_effect(settings: Settings) -> list[str]:
    notes = _overruled(settings)
    idle = [*_idle_calibrators(settings), *_idle_masks(settings)]
    if f"{CACHE}force_refresh_step_hint" not in settings:
        idle += [("force_refresh_step_policy", "there is no force_refresh_step_hint")]
    idle += _idle_methods(settings)
    idle += [("enable_separate_cfg", "branches are named, so each always has a cache of its own")]
    if settings[f"{CACHE}cfg_diff_compute_separate"].value:
        idle += [("cfg_compute_first", "branches are named, so their order does not matter")]
    return notes + [
        f"{settings[CACHE + key].place}: {key} has no effect: {why}" for key, why in idle if _set(settings, CACHE + key)
    ]


def _overruled(settings: Settings) -> list[str]:
    """Say which switch of a calibrator has no effect, false, without effect: calibrator_type is on."""
    on, key = next(iter(calibrators(settings).items()), ("", ""))
    switch = settings.get(f"{CACHE}enable_{on}")
    if not key.endswith("calibrator_type") or switch is None or not switch.given:
        return []
    return [f"{switch.place}: enable_{on} has no effect: calibrator_type is {on} ({settings[key].place})"]


def _idle_methods(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the keys that belong to another method than the chosen one, with the reason."""
    chosen = settings[f"{CACHE}cache_type"].value
    if chosen != "DBPrune":
        yield from ((key, "it belongs to DBPrune") for key in PRUNE)
    if chosen not in METHODS:
        yield "cache_options", f"{chosen} has keys of its own"
    if chosen == "DBPrune":
        dynamic = "enable_dynamic_prune_threshold is false"
        yield from ((key, dynamic) for key in ("max_dynamic_prune_threshold", "dynamic_prune_threshold_relax_ratio"))
        yield "force_reduce_calibrator_vram", "downsample_factor says what is measured"
        yield "max_accumulated_residual_diff_threshold", "DBPrune has no such limit, in cache-dit neither"
        yield "warmup_interval", "DBPrune computes every warm-up step"
    if chosen not in METHODS:
        return
    own = OF_DBCACHE[-2:] if chosen in MASKS else ()
    yield from ((key, f"it belongs to DBCache; {chosen} has cache_options") for key in OF_DBCACHE if key not in own)


def _idle_calibrators(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the keys of calibrators that are off, with the reason."""
    on = next(iter(calibrators(settings)), "none")
    owners = {"taylorseer": ("TaylorSeer", TAYLOR), "dmd": ("DMD", DMD), "foca": ("FoCa", ("enable_encoder_foca",))}
    for calibrator, (name, keys) in owners.items():
        if on in LADDERS and calibrator == "taylorseer":  # they take all of them but the weights
            yield from (
                [("calibrated_weights", f"they replace TaylorSeer's, and {on} is on")] if on != calibrator else ()
            )
        elif on != calibrator:
            yield from ((key, f"it belongs to {name}, which is off") for key in keys)
    if on not in OF_RESIDUALS:
        yield "calibrator_cache_type", "it belongs to DMD and FoCa; TaylorSeer has taylorseer_cache_type"
    if on == "dmd":
        yield "dmd_svd_precision", "what is decomposed are inner products, in float64"
    if on == "none":
        yield "enable_encoder_calibrator", "no calibrator is on"
        switches = [key for key in SWITCHES if _set(settings, CACHE + key)]
        yield from ((key, "enable_calibrator is false") for key in switches)
        if not switches:
            yield "enable_calibrator", "no calibrator is on"


def _idle_masks(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the keys that a mask, or its absence, leaves without effect, with the reason."""
    mask, bins = (settings.get(f"{CACHE}{key}") for key in ("steps_computation_mask", "scm_compute_bins"))
    preset = mask is not None and mask.value != "none"
    if bins is not None and preset:
        yield "steps_computation_mask", "the bins win over a preset"
    if bins is None and not preset:
        yield from ((key, "there is no mask") for key in ("steps_computation_policy", "num_inference_steps"))
    elif settings[f"{CACHE}steps_computation_policy"].value == "static":
        # A threshold of 1 says that nothing is measured, which is what a static mask does.
        measured = settings[f"{CACHE}residual_diff_threshold"].value < 1
        ignored = IGNORED_BY_STATIC if measured else IGNORED_BY_STATIC[1:]
        yield from ((key, "a static mask skips whatever it says") for key in ignored)


def _refused(settings: Settings, section: str) -> list[Problem]:
    """Refuse the keys of a section that this version refuses whatever else is set."""
    known = {path: reason for path, reason in REFUSED.items() if path.startswith(section) and _set(settings, path)}
    return [_refuse(settings, path, why, cure) for path, (why, cure) in known.items()]


def _cache(settings: Settings, facts: Facts) -> list[Problem]:
    found = _refused(settings, CACHE)
    if settings[f"{CACHE}cfg_compute_first"].value and not settings[f"{CACHE}cfg_diff_compute_separate"].value:
        why = "with cfg_diff_compute_separate: false the change is measured on the conditional branch"
        found.append(_refuse(settings, f"{CACHE}cfg_compute_first", why, "write cfg_compute_first: false"))
    return found + _method(settings, facts) + _steps(settings, facts) + _blocks(settings, facts)


def _method(settings: Settings, facts: Facts) -> list[Problem]:
    """Refuse a method that there is not, options that it does not have, and a denoiser that it does not fit."""
    path, mask = f"{CACHE}cache_type", settings.get(f"{CACHE}steps_computation_mask")
    chosen = settings[path].value
    if chosen == "DBPrune":
        return _pruning(settings, facts)
    if chosen not in METHODS:
        return []
    if chosen in MASKS and (f"{CACHE}scm_compute_bins" in settings or (mask is not None and mask.value != "none")):
        other = next(settings[f"{CACHE}{key}"] for key in MASK_KEYS if f"{CACHE}{key}" in settings)
        why = f"{chosen} is a mask itself, and there is another ({other.place})"
        return [_refuse(settings, path, why, "leave one of the two out")]
    options = settings[f"{CACHE}cache_options"].value
    if chosen == "TeaCache" and facts.experts not in (None, 1) and not {"polynomial", "threshold"} <= options.keys():
        why = "TeaCache needs a polynomial, and none was published for two experts"
        return [
            _refuse(settings, path, why, "give threshold and polynomial in cache_options: [1, 0] takes changes as is")
        ]
    if chosen == "SeaCache" and facts.packed:
        why = "SeaCache filters latents along rows and columns, and this model packs them into tokens"
        return [_refuse(settings, path, why, "write cache_type: EasyCache")]
    if chosen == "MagCache" and "ratios" not in options:
        why = "MagCache needs the ratios of the model, which MagCacheConfig(calibrate=True) of diffusers prints"
        return [_refuse(settings, path, why, "write cache_options: {ratios: [1.0, ...]}")]
    config = CacheConfig(cache_type=chosen, cache_options=options, Fn_compute_blocks=0)
    place = f"{CACHE}cache_options" if options else path
    cure = "docs/configuration.md lists the options of every method"
    wrong = [(text, options.get(name)) for name, text in faults(config).items()]
    if wrong:
        typed = [(text, unquoted(given) if isinstance(given, str) else "") for text, given in wrong]
        return [_refuse(settings, place, text, hint or cure) for text, hint in typed]
    try:
        made = method(config)
        if facts.denoiser is not None:
            made(facts.denoiser)
    except (TypeError, ValueError) as error:
        return [_refuse(settings, place, str(error), cure)]
    return []


def _pruning(settings: Settings, facts: Facts) -> list[Problem]:
    """Refuse what DBPrune cannot do, and blocks that there are not."""
    dynamic, keep = f"{CACHE}enable_dynamic_prune_threshold", f"{CACHE}non_prune_block_ids"
    found = []
    if settings[dynamic].value:
        why = "the threshold would follow changes of other blocks at the same step, and here each block has its own"
        found.append(_refuse(settings, dynamic, why, "write false, and choose residual_diff_threshold"))
    if facts.blocks is not None and any(index >= facts.blocks for index in settings[keep].value):
        why = f"{list(settings[keep].value)}, but the denoiser has {facts.blocks} blocks, the first of them 0"
        found.append(_refuse(settings, keep, why, f"give indices of 0 to {facts.blocks - 1}"))
    front, back = (settings[f"{CACHE}{key}"].value for key in ("Fn_compute_blocks", "Bn_compute_blocks"))
    span = Span(front=front, back=back, keep=settings[keep].value)
    if not found and facts.blocks is not None and front + back <= facts.blocks and not span.left(facts.blocks):
        others = f" and non_prune_block_ids {list(span.keep)}" if span.keep else ""
        why = f"{front} first and {back} last blocks{others} leave none of {facts.blocks} to prune"
        path = keep if front + back < facts.blocks else f"{CACHE}{'Fn' if front else 'Bn'}_compute_blocks"
        found.append(_refuse(settings, path, why, "make them fewer"))
    return found


def _steps(settings: Settings, facts: Facts) -> list[Problem]:
    mask = settings.get(f"{CACHE}steps_computation_mask")
    several = facts.experts not in (None, 1)  # each has steps of its own, which the schedule divides
    if mask is None or not isinstance(mask.value, tuple) or several or facts.steps in (None, len(mask.value)):
        return []
    why = f"the mask has {len(mask.value)} entries, but the run has {facts.steps} steps"
    cure = f"give {facts.steps} entries, run {len(mask.value)} steps, or use a preset, which fits any number"
    return [_refuse(settings, f"{CACHE}steps_computation_mask", why, cure)]


def _blocks(settings: Settings, facts: Facts) -> list[Problem]:
    front, back = (settings[f"{CACHE}{key}"].value for key in ("Fn_compute_blocks", "Bn_compute_blocks"))
    if facts.blocks is None or front + back <= facts.blocks:
        return []
    path = f"{CACHE}Fn_compute_blocks" if front else f"{CACHE}Bn_compute_blocks"
    why = f"{front} first and {back} last blocks, but the denoiser has {facts.blocks}"
    return [_refuse(settings, path, why, f"make them fewer than {facts.blocks} together")]


# ------------------------------------------------------------------------------ the rest


def _sizes(settings: Settings, facts: Facts) -> tuple[dict[str, Setting], list[str], list[Problem]]:
    filled, notes, misfits = settle_sizes(settings, facts)
    now = {**settings, **filled}
    idle = {"backend": "there is one engine"}
    idle |= without_effect(
        {size: now[PARALLEL + size].value for size in (*SIZES, "cfg_size") if PARALLEL + size in now}
    )
    if not settings.get(PARALLEL + "use_ray", Setting(value=False, place="")).value:
        idle |= dict.fromkeys(RAY, "use_ray is off")
    notes += [
        f"{settings[PARALLEL + key].place}: {key} has no effect: {why}"
        for key, why in idle.items()
        if _set(settings, PARALLEL + key)
    ]
    return filled, notes, misfits


def _attention(settings: Settings, facts: Facts) -> list[Problem]:
    """Refuse an attention backend that does not run here: it is tried on a few numbers."""
    path = next((each for each in ("attention_backend", f"{PARALLEL}attention_backend") if each in settings), None)
    if path is None:
        return []
    ring, rotate = settings.get(f"{PARALLEL}ring_size"), settings.get(f"{PARALLEL}ring_rotate_method")
    parts = ring is not None and ring.value != 1 and rotate is not None and rotate.value == "p2p"
    dtype = None if facts.dtype is None else getattr(torch, facts.dtype)
    name = settings[path].value
    if (why := unsupported(name) or obstacle(name, facts.device, dtype, parts)) is None:
        return []
    cure = f"write one that does: {', '.join(working(facts.device, dtype))}"
    return [_refuse(settings, path, f"{name} does not run here: {why}", cure)]
