"""`quantize_config`: settings that are not supported here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch

from pure.configs.facts import Facts
from pure.configs.kinds import Wrong, show
from pure.configs.layer import Setting
from pure.configs.report import Problem, did_you_mean
from pure.configs.schema import QUANT, QuantizeConfig, key_of

__all__ = ["ALIASES", "COMPONENTS", "refusals"]

PREFIX = "quantize_config."
COMPONENTS = ("transformer", "transformer_2")
"""What can be quantised: the denoiser, and the second expert where there are two."""
ALIASES = {"float8": "float8_per_row", "int8": "int8_per_row", "float8_blockwise": "float8_per_block"}
"""Kinds that have another name in files than in `pure.transforms.quantize.kinds.KINDS`."""
KEYS = {field.name: key_of(field).kind for field in attrs.fields(QuantizeConfig)}
# What the keys of one component may be in the mapping form of `components_to_quantize`.
OWN = ("quant_type", "exclude_layers", "regional_quantize", "per_tensor_fallback", "precision_plan")
INSTEAD = "write float8, int8_weight_only or float8_weight_only"
# Keys that are refused unless they hold their default: why, and what would do.
REFUSED = {
    "repeated_blocks": (
        "it names Python classes, and there are none: the blocks are those that run in the denoiser's stack",
        "remove the key; exclude_layers leaves out single blocks, such as transformer_blocks.0.",
    ),
    "serialize_to": ("quantised weights are not written, they are made at every start", "remove the key"),
    "svdq_kwargs": ("SVDQuant is not implemented in this version", f"remove the key and {INSTEAD}"),
}
Reason = tuple[str, str, str]  # key, why it cannot be, what would do


def refusals(settings: Mapping[str, Setting], facts: Facts) -> list[Problem]:
    """Return the settings of a `quantize_config` that are not supported here.

    Args:
        settings: by path, none of them None; those without a source are defaults.
        facts: what is known of the run.
    """
    paths = [path for path in settings if path.startswith(PREFIX) and settings[path].given]
    if not paths:
        return []
    values = {path.removeprefix(PREFIX): settings[path].value for path in settings if path.startswith(PREFIX)}
    reasons = [*_keys(values), *_kinds(values), *_components(values, facts), *_device(values, facts)]
    if importlib.util.find_spec("torchao") is None:
        reasons = [(paths[0].removeprefix(PREFIX), "torchao is not installed", "pip install 'puredit[quant]'")]
    # A default that is refused is reported at the first key that a source gives.
    return [
        Problem(place=settings[path].place, path=path, found=why, allowed="", hint=cure)
        for key, why, cure in reasons
        for path in [PREFIX + key if PREFIX + key in paths else paths[0]]
    ]


def _keys(values: Mapping[str, Any]) -> Iterator[Reason]:
    for key, (why, cure) in REFUSED.items():
        if values.get(key):
            yield key, why, cure
    if (backend := values.get("backend")) in ("svdq", "cache_dit"):
        yield "backend", f"{backend} quantises with kernels of its own, which this version does not call", "write ao"


def _kinds(values: Mapping[str, Any]) -> Iterator[Reason]:
    """Yield what is wrong with every kind of weights that is named somewhere."""
    named = [("quant_type", values.get("quant_type"))]
    named += [("precision_plan", kind) for kind in (values.get("precision_plan") or {}).values()]
    if "" in (values.get("precision_plan") or {}):
        yield "precision_plan", "it has an empty name, which every layer contains", "write a part of a layer's name"
    for key, kind in named:
        if kind is not None and (reason := _kind(kind)):
            yield key, *reason


def _kind(kind: Any) -> tuple[str, str] | None:
    """Say why weights cannot become `kind`, and what would do."""
    if not isinstance(kind, str) or kind not in QUANT:
        return f"found {show(kind)}, which is no quant_type", did_you_mean(kind, QUANT) or INSTEAD
    if kind.startswith("nvfp4"):
        return f"{kind} needs kernels of the newest GPUs, which this version does not call", INSTEAD
    if kind.startswith("svdq"):
        return f"{kind}: SVDQuant, which calibrates on prompts, is not implemented in this version", INSTEAD
    return None


def _components(values: Mapping[str, Any], facts: Facts) -> Iterator[Reason]:
    key, chosen = "components_to_quantize", values.get("components_to_quantize")
    if chosen is None:
        return
    if not chosen:
        yield key, "it names no component", "remove the key, or name transformer"
    for name in chosen:
        if name not in COMPONENTS:
            yield key, f"{name} is a module of another library, which is used as it is", "name transformer only"
        elif name == COMPONENTS[1] and facts.experts == 1:
            yield key, f"the model has no {name}", "name transformer only"
        own = chosen[name] if isinstance(chosen, Mapping) else {}
        if own is not None and not isinstance(own, str | Mapping):
            yield key, f"{name}: found {show(own)}", "write a quant_type, or a mapping of keys such as quant_type"
            continue
        for reason in _own({"quant_type": own} if isinstance(own, str) else own or {}):
            yield key, f"{name}: {reason[0]}", reason[1]


def _own(keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the keys of one component."""
    wrong = set()
    for key, value in keys.items():
        if key not in OWN:
            wrong.add(key)
            yield f"{key} cannot be set for one component", did_you_mean(key, OWN) or f"keys: {', '.join(OWN)}"
            continue
        try:
            KEYS[key].parse(value)
        except Wrong as error:
            if key != "quant_type":  # of which more can be said
                wrong.add(key)
                yield (
                    f"{key}: found {error.found or show(value)}; allowed: {KEYS[key].allowed}",
                    str(error) or "change it",
                )
    yield from ((f"{key}: {why}", cure) for key, why, cure in _kinds({k: v for k, v in keys.items() if k not in wrong}))


def _device(values: Mapping[str, Any], facts: Facts) -> Iterator[Reason]:
    """Yield the kinds that the GPU cannot compute with; without a GPU all can be."""
    if facts.device != "cuda" or not torch.cuda.is_available():
        return
    from pure.transforms.quantize.kinds import KINDS, unsupported

    kind: str = canonical(values["quant_type"])
    if kind in KINDS and (why := unsupported(kind, torch.device("cuda"))):
        yield "quant_type", why, "write float8_weight_only or int8_weight_only"


def canonical(kind: str) -> str:
    """Return what the library calls a kind.

    >>> canonical("float8")
    'float8_per_row'
    """
    return ALIASES.get(kind, kind)
