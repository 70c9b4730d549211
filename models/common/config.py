"""The config of a transformer as a typed record, and the parameters it describes.

Shapes: D width of a token.
"""

import importlib
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import attrs
import torch

from pure.models.errors import CheckpointError
from pure.sharding import Part

NAMES = {
    int: "a whole number from 0 on",
    float: "a number",
    bool: "true or false",
    str: "a text",
    types.NoneType: "null",
}


@attrs.frozen(kw_only=True)
class TransformerConfig:
    """Base of the families' configs: a field is an argument of the transformer's class, with its default.

    Attributes:
        transformer: name of the class whose parameters the family reads.
        library: the module it is imported from.
        ignored: options that checkpoints set and nothing reads.
    """

    transformer: ClassVar[str]
    library: ClassVar[str] = "diffusers"
    ignored: ClassVar[tuple[str, ...]] = ()

    def __attrs_post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse fields that contradict each other or are not implemented; families override it.

        Raises:
            CheckpointError: they are.
        """

    @classmethod
    def read(cls, config: "TransformerConfig | Mapping[str, Any]") -> Self:
        """Return the record of the contents of a `config.json`; what it leaves out has the transformer's defaults.

        A record that was read before is returned as it is.

        Raises:
            CheckpointError: the class or a value's type is another, an option is on that is not implemented, or
                options contradict each other (see `check`).

        >>> from pure.models.flux.config import FluxConfig
        >>> FluxConfig.read({"num_layers": 6, "axes_dims_rope": [64, 32, 32]}).axes_dims_rope
        (64, 32, 32)
        """
        if isinstance(config, cls):
            return config
        name = config.transformer if isinstance(config, TransformerConfig) else config.get("_class_name", "")
        if isinstance(config, TransformerConfig) or name not in ("", cls.transformer):
            raise CheckpointError(f"the transformer is a {name}; supported is {cls.transformer}")
        fields = {field.name: get_type_hints(cls)[field.name] for field in attrs.fields(cls)}
        # An option of a later version that is switched off changes nothing.
        known = fields.keys() | set(cls.ignored)
        unknown = sorted(key for key in config.keys() - known if key[0] != "_" and config[key])
        if unknown:
            raise CheckpointError(
                f"the transformer's config sets {', '.join(unknown)}, which is not implemented; "
                f"known are {', '.join(fields)}"
            )
        return cls(**{key: typed(key, config[key], kind) for key, kind in fields.items() if key in config})


@attrs.frozen(kw_only=True)
class HeadsConfig(TransformerConfig):
    """A config with the fields that most diffusers transformers share.

    Attributes:
        rotary: name of the field with the widths of the rotary embedding, one for each of `axis_count`.
    """

    rotary: ClassVar[str] = "axes_dims_rope"
    axis_count: ClassVar[int] = 3

    in_channels: int
    out_channels: int | None
    num_layers: int
    attention_head_dim: int
    num_attention_heads: int

    @property
    def heads(self) -> Part:
        """The heads of the attention; they have D features together."""
        return Part(self.num_attention_heads, self.attention_head_dim)

    @property
    def channels(self) -> int:
        """Channels of a prediction."""
        return self.out_channels or self.in_channels

    def check(self) -> None:
        """Refuse a rotary embedding that is not as wide as a head; see the base."""
        widths = getattr(self, self.rotary)
        check_axes(self.rotary, widths, self.axis_count, "attention_head_dim", self.attention_head_dim)


def check_axes(name: str, widths: tuple[int, ...], axes: int, whole: str, width: int) -> None:
    """Refuse widths of a rotary embedding that are not pairs of features of every axis, or not a head together."""
    if len(widths) != axes or any(each % 2 for each in widths) or sum(widths) != width:
        raise CheckpointError(
            f"{name} {widths} must be {axes} even numbers, one for each axis, that sum to {whole} {width}"
        )


def typed(name: str, value: Any, kind: Any) -> Any:
    """Return a value of a JSON file as a field of type `kind`.

    Raises:
        CheckpointError: it has another type.

    >>> typed("axes", [16, 56, 56], tuple[int, ...]), typed("theta", 256, float)
    ((16, 56, 56), 256.0)
    """
    kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for each in kinds:
        if get_origin(each) is tuple and isinstance(value, list | tuple):
            if all(_whole(part) for part in value):
                return tuple(value)
        elif each is float and type(value) is int:
            return float(value)
        elif _whole(value) if each is int else type(value) is each:
            return value
    wanted = " or ".join(NAMES.get(each, "a list of whole numbers from 0 on") for each in kinds)
    raise CheckpointError(f"{name} is {value!r}; it must be {wanted}")


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its name, as the transformer's own class has them.

    The class is built on the meta device, which takes no memory and no random numbers.

    Raises:
        CheckpointError: the class cannot be built from this config.

    >>> from pure.models.flux.config import FluxConfig
    >>> parameter_shapes(FluxConfig(num_layers=1, num_single_layers=1))["x_embedder.weight"]
    (3072, 64)
    """
    fields = {field.name: getattr(config, field.name) for field in attrs.fields(type(config))}
    try:
        with torch.device("meta"):
            module = getattr(importlib.import_module(config.library), config.transformer)(**fields)
    except Exception as error:
        raise CheckpointError(f"{config.library} makes no {config.transformer} of this config: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
