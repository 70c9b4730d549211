"""Names and shapes of an Ovis-Image transformer's parameters, as its config determines them."""

from collections.abc import Iterator, Mapping
from typing import Any

from pure.models.errors import CheckpointError
from pure.models.shapes import Shapes, affine, prefixed, settings

CLASS = "OvisImageTransformer2DModel"
TIME_WIDTH = 256  # numbers that stand for a timestep before it is embedded
WIDENING = 4  # of the feed-forward networks
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": 64,
    "num_layers": 6,
    "num_single_layers": 27,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 2048,
    "axes_dims_rope": (16, 56, 56),
}


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer, with defaults for what the config leaves out.

    Raises:
        CheckpointError: it is another class, has an option that is not implemented, or contradicts itself.

    >>> check_config({"num_layers": 3})["num_single_layers"]
    27
    """
    found = settings(config, CLASS, DEFAULTS)
    axes, width = found["axes_dims_rope"], found["attention_head_dim"]
    if sum(axes) != width:
        raise CheckpointError(
            f"axes_dims_rope {tuple(axes)} sums to {sum(axes)}; it must sum to attention_head_dim {width}"
        )
    return found


def parameter_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shape of every parameter by its name in the checkpoint.

    Raises:
        CheckpointError: see `check_config`.

    >>> parameter_shapes({"in_channels": 32})["x_embedder.weight"]
    (3072, 32)
    """
    found = check_config(config)
    head, width = found["attention_head_dim"], found["attention_head_dim"] * found["num_attention_heads"]
    shapes: Shapes = {"context_embedder_norm.weight": (found["joint_attention_dim"],)}
    for name, inputs, outputs in _outer(found, width):
        shapes |= affine(name, inputs, outputs)
    for i in range(found["num_layers"]):
        shapes |= prefixed(f"transformer_blocks.{i}.", _double(width, head))
    for i in range(found["num_single_layers"]):
        shapes |= prefixed(f"single_transformer_blocks.{i}.", _single(width, head))
    return shapes


def _outer(found: Mapping[str, Any], width: int) -> Iterator[tuple[str, int, int]]:
    yield "x_embedder", found["in_channels"], width
    yield "context_embedder", found["joint_attention_dim"], width
    yield "timestep_embedder.linear_1", TIME_WIDTH, width
    yield "timestep_embedder.linear_2", width, width
    yield "norm_out.linear", width, 2 * width
    yield "proj_out", width, found["patch_size"] ** 2 * (found["out_channels"] or found["in_channels"])


def _double(width: int, head: int) -> Shapes:
    shapes = _norms("norm_q", "norm_k", "norm_added_q", "norm_added_k", head=head)
    for name in ("norm1", "norm1_context"):
        shapes |= affine(f"{name}.linear", width, 6 * width)
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        shapes |= affine(f"attn.{name}", width, width)
    for name in ("ff", "ff_context"):
        shapes |= affine(f"{name}.net.0.proj", width, 2 * WIDENING * width)
        shapes |= affine(f"{name}.net.2", WIDENING * width, width)
    return shapes


def _single(width: int, head: int) -> Shapes:
    shapes = _norms("norm_q", "norm_k", head=head)
    for name in ("to_q", "to_k", "to_v"):
        shapes |= affine(f"attn.{name}", width, width)
    shapes |= affine("norm.linear", width, 3 * width)
    shapes |= affine("proj_mlp", width, 2 * WIDENING * width)
    return shapes | affine("proj_out", (WIDENING + 1) * width, width)


def _norms(*names: str, head: int) -> Shapes:
    return {f"attn.{name}.weight": (head,) for name in names}
