"""What the parameter tables of the families have in common.

A table says, from a config, the name and shape of every parameter, so that a checkpoint is
checked before it is read.
"""

from collections.abc import Mapping
from typing import Any

from pure.models.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]

TIME_WIDTH = 256  # numbers that stand for a timestep before it is embedded
EVERY_NORM = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")  # of the heads of two streams


def settings(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer of class `name`, with `defaults` for what the config leaves out.

    Raises:
        CheckpointError: it is another class, or sets an option that is not implemented.

    >>> settings({"_class_name": "T", "layers": 3}, "T", {"layers": 2, "heads": 4})
    {'layers': 3, 'heads': 4}
    """
    if (found := config.get("_class_name", name)) != name:
        raise CheckpointError(f"the transformer is a {found}; supported is {name}")
    # An option of a later version that is switched off changes nothing.
    unknown = sorted(key for key in config.keys() - defaults.keys() if key[0] != "_" and config[key])
    if unknown:
        raise CheckpointError(
            f"the transformer's config sets {', '.join(unknown)}, which is not implemented; "
            f"known are {', '.join(defaults)}"
        )
    return {**defaults, **{key: value for key, value in config.items() if key in defaults}}


def affine(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    """Return the shapes of an affine map.

    >>> affine("to_q", 4, 8, bias=False)
    {'to_q.weight': (8, 4)}
    """
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    """Return the same shapes under names that begin with `prefix`.

    >>> prefixed("blocks.0.", {"scale": (2,)})
    {'blocks.0.scale': (2,)}
    """
    return {prefix + name: shape for name, shape in shapes.items()}


def check_axes(found: Mapping[str, Any], name: str = "axes_dims_rope") -> None:
    """Refuse settings whose rotary embedding, `name`, is not as wide as a head.

    Raises:
        CheckpointError: it is not.
    """
    axes, width = found[name], found["attention_head_dim"]
    if sum(axes) != width:
        raise CheckpointError(f"{name} {tuple(axes)} sums to {sum(axes)}; it must sum to attention_head_dim {width}")


def stack(found: Mapping[str, Any], double: Shapes, single: Shapes) -> Shapes:
    """Return the shapes of all blocks, those with weights for each stream and then the others.

    >>> list(stack({"num_layers": 1, "num_single_layers": 1}, {"a": (1,)}, {"b": (2,)}))
    ['transformer_blocks.0.a', 'single_transformer_blocks.0.b']
    """
    shapes: Shapes = {}
    for i in range(found["num_layers"]):
        shapes |= prefixed(f"transformer_blocks.{i}.", double)
    for i in range(found["num_single_layers"]):
        shapes |= prefixed(f"single_transformer_blocks.{i}.", single)
    return shapes


def projections(width: int, bias: bool = True) -> Shapes:
    """Return the shapes of what two streams that attend to each other are projected with, each on its own."""
    shapes: Shapes = {}
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        shapes |= affine(f"attn.{name}", width, width, bias)
    return shapes


def double(width: int, head: int, inner: int, wide: int) -> Shapes:
    """Return the shapes of a block of two streams, as in FLUX.1.

    Args:
        width: of a token.
        head: of a head.
        inner: of the feed-forward networks after their activation.
        wide: the same before it; larger where a part gates the other.
    """
    shapes = norms(*EVERY_NORM, head=head)
    for name in ("norm1", "norm1_context"):
        shapes |= affine(f"{name}.linear", width, 6 * width)
    shapes |= projections(width)
    for name in ("ff", "ff_context"):
        shapes |= affine(f"{name}.net.0.proj", width, wide) | affine(f"{name}.net.2", inner, width)
    return shapes


def single(width: int, head: int, inner: int, wide: int) -> Shapes:
    """Return the shapes of a block of one sequence, as in FLUX.1; see `double`."""
    shapes = norms("norm_q", "norm_k", head=head)
    for name in ("to_q", "to_k", "to_v"):
        shapes |= affine(f"attn.{name}", width, width)
    shapes |= affine("norm.linear", width, 3 * width) | affine("proj_mlp", width, wide)
    return shapes | affine("proj_out", width + inner, width)


def norms(*names: str, head: int) -> Shapes:
    """Return the shapes of normalisations of heads."""
    return {f"attn.{name}.weight": (head,) for name in names}


def embedders(name: str, width: int, pooled: int, guidance: bool) -> Shapes:
    """Return the shapes of the embedding of time, pooled text and perhaps guidance."""
    inputs = {"timestep_embedder": TIME_WIDTH, "text_embedder": pooled}
    if guidance:
        inputs["guidance_embedder"] = TIME_WIDTH
    shapes: Shapes = {}
    for part, size in inputs.items():
        shapes |= affine(f"{name}.{part}.linear_1", size, width) | affine(f"{name}.{part}.linear_2", width, width)
    return shapes
