"""Quantisation: a function of the parameters, which leaves code and denoiser as they are.

    quantised = quantize(pipeline.params, pipeline.denoiser, Quantization(kind="int8_weight_only"))

Everything that takes parameters takes quantised ones: transforms, guidance, experts and
compilation work as before. Where the parameters are sharded, quantise the shards.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs
import torch

from pure import Denoiser, Experts
from pure.checks import check_argument, flag, refuse, shown
from pure.experts import denoisers_of
from pure.transforms.quantize.kinds import KINDS, require_torchao, unfit, unsupported

SUFFIX = ".weight"
FALLBACK = "float8_per_tensor"
FALLS = ("float8_per_row", "float8_per_block")  # may become the above where a shape does not allow them
NamedTensors = Mapping[str, Any]
P = TypeVar("P", bound=Mapping[str, Any])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _kind(settings: Any, field: attrs.Attribute, value: Any) -> None:
    if not isinstance(value, str) or value not in KINDS:
        raise refuse(settings, field.name, value, f"no kind is called {shown(value)}; kinds: {[*KINDS]}")


def _plan(settings: Any, field: attrs.Attribute, value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        raise refuse(settings, field.name, value, "give a tuple of pairs (part of a name, kind)")
    for part, name in value:
        if not isinstance(part, str) or not part:
            raise refuse(settings, field.name, value, f"{shown(part)} is no part of a name")
        if not isinstance(name, str) or name not in KINDS:
            raise refuse(settings, field.name, value, f"no kind is called {shown(name)}; kinds: {[*KINDS]}")


def _names(settings: Any, field: attrs.Attribute, value: Any) -> None:
    # An empty name is contained in every name; a plain string would be taken letter by letter.
    if not isinstance(value, tuple) or not all(isinstance(name, str) and name for name in value):
        raise refuse(settings, field.name, value, "give a tuple of parts of names, none of them empty")


@attrs.frozen(kw_only=True)
class Quantization:
    """Which weights are quantised, and to which kind.

    Attributes:
        kind: what weights become; the names are those of `KINDS`.
        exclude: layers whose name contains one of these stay as they are.
        blocks: only layers in the denoiser's stack of blocks, where nearly all weights are; else all
            layers, the embeddings and the head among them.
        fallback: where the shape of a weight allows no float8 scales per row or block, let it have
            one scale; else it stays as it is.
        plan: pairs of a part of a name and a kind, for layers that should become another kind than
            the others; if several fit a layer, the longest counts.

    Raises:
        ValueError: there is no such kind, or a name is empty.

    >>> Quantization(kind="int8_weight_only", exclude=("norm",)).kind
    'int8_weight_only'
    """

    kind: str = attrs.field(default="float8_per_row", validator=_kind)
    exclude: tuple[str, ...] = attrs.field(
        default=("embedder", "embed", "modulation", "mod"), converter=_tuple, validator=_names
    )
    blocks: bool = attrs.field(default=True, validator=flag)
    fallback: bool = attrs.field(default=True, validator=flag)
    plan: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_tuple, validator=_plan)


QuantizationSettings = Quantization | Mapping[str, Quantization]


@attrs.frozen
class QuantizedLayer:
    """What becomes of one linear layer.

    Attributes:
        expert: name of the expert it belongs to; empty where there is one denoiser.
        name: of the layer; its weight is called so, with ".weight" behind.
        kind: what its weight becomes; empty if it stays as it is.
        reason: why it stays, or becomes another kind than the one set; else empty.
    """

    expert: str
    name: str
    kind: str
    reason: str


def quantize(params: P, denoiser: Denoiser | Experts, settings: QuantizationSettings = Quantization()) -> P:
    """Return the parameters as dicts, the weights of linear layers quantised; all others are shared with `params`.

    Args:
        params: of the denoiser; of experts a dict of dicts. Nothing in it is changed.
        denoiser: what they belong to; it says where the blocks are.
        settings: which weights become what; for experts also a mapping by name, and those
            left out stay as they are.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        ValueError: the device cannot compute with a kind, a mapping names an expert that is not
            there, or no layer is left to quantise.
        TypeError: an argument is of another kind.
    """
    layers = survey(params, denoiser, settings)
    require_torchao()
    if not any(layer.kind for layer in layers):
        reasons = sorted({layer.reason for layer in layers}) or ["there is no linear layer"]
        raise ValueError(f"nothing would be quantised: {'; '.join(reasons)}")
    kinds = {(layer.expert, layer.name + SUFFIX): layer.kind for layer in layers if layer.kind}
    made: Any = {
        expert: {name: _made(tensor, kinds.get((expert, name))) for name, tensor in own.items()}
        for expert, own in ((name, params[name] if name else params) for name in denoisers_of(denoiser))
    }
    return made if isinstance(denoiser, Experts) else made[""]


def _made(tensor: torch.Tensor, kind: str | None) -> torch.Tensor:
    return tensor if kind is None else KINDS[kind].make(tensor.detach().contiguous())


def survey(
    params: NamedTensors, denoiser: Denoiser | Experts, settings: QuantizationSettings = Quantization()
) -> tuple[QuantizedLayer, ...]:
    """Say for every linear layer what `quantize` makes of it, and why some stay as they are.

    Raises:
        ValueError: the device cannot compute with a kind, or a mapping names an expert that is not there.
        TypeError: an argument is of another kind.
    """
    _check_arguments(params, denoiser, settings)
    names = tuple(denoiser.denoisers) if isinstance(denoiser, Experts) else ()
    if isinstance(settings, Mapping) and (unknown := sorted(settings.keys() - set(names))):
        raise ValueError(f"there are settings for {', '.join(unknown)}; experts: {', '.join(names) or 'none'}")
    if not isinstance(denoiser, Experts):
        return () if isinstance(settings, Mapping) else tuple(_layers("", params, denoiser, settings))
    each = settings if isinstance(settings, Mapping) else dict.fromkeys(names, settings)
    found = [_layers(name, params[name], denoiser.denoisers[name], one) for name, one in each.items()]
    return tuple(layer for layers in found for layer in layers)


def _check_arguments(params: object, denoiser: object, settings: object) -> None:
    check_argument(
        denoiser, (Denoiser, Experts), "the order is (params, denoiser, settings), with a Denoiser or Experts"
    )
    for each in settings.values() if isinstance(settings, Mapping) else (settings,):
        check_argument(each, Quantization, "settings are a Quantization, or a mapping of such by expert")
    check_argument(params, Mapping, "params is a dict of tensors by name, such as pipeline.params")
    groups = [params.get(name) for name in denoiser.denoisers] if isinstance(denoiser, Experts) else [params]  # type: ignore
    for each in groups:
        check_argument(each, Mapping, "params of experts are a dict of a dict of tensors for each")
        for tensor in each.values():  # type: ignore
            check_argument(tensor, torch.Tensor, "params is a dict of tensors by name")


def _layers(expert: str, params: NamedTensors, denoiser: Denoiser, settings: Quantization) -> Iterator[QuantizedLayer]:
    prefixes = tuple({block.prefix for block in denoiser.blocks if block.prefix})
    for name, weight in params.items():
        if name.endswith(SUFFIX) and weight.ndim == 2:
            layer = name.removesuffix(SUFFIX)
            outside = settings.blocks and not name.startswith(prefixes)
            kind, reason = ("", "it is outside of the blocks") if outside else _choice(layer, weight, settings)
            yield QuantizedLayer(expert, layer, kind, reason)


def _choice(layer: str, weight: torch.Tensor, settings: Quantization) -> tuple[str, str]:
    """Return what the weight of a layer becomes, and why it differs from the setting."""
    if part := next((part for part in settings.exclude if part in layer), ""):
        return "", f"its name contains {part!r}"
    fitting = [pair for pair in settings.plan if pair[0] in layer]
    kind = max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else settings.kind
    if reason := unsupported(kind, weight.device):
        raise ValueError(f"{layer}: {reason}; take float8_weight_only or int8_weight_only")
    reason = unfit(kind, weight)
    if reason and settings.fallback and kind in FALLS and not unfit(FALLBACK, weight):
        return FALLBACK, reason
    return ("", reason) if reason else (kind, "")


def nbytes(params: Any) -> int:
    """Return the bytes that parameters occupy, of quantised ones values and scales; experts are added up.

    >>> nbytes({"weight": torch.zeros(2, 3)})
    24
    """
    if isinstance(params, Mapping):
        return sum(map(nbytes, params.values()))
    check_argument(params, torch.Tensor, "params is a dict of tensors by name")
    parts = getattr(params, "__tensor_flatten__", None)
    if parts is None:
        return params.nbytes
    return sum(nbytes(getattr(params, name)) for name in parts()[0])
