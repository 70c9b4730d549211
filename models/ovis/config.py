"""Names and shapes of an Ovis-Image transformer's parameters, as its config determines them."""

from collections.abc import Mapping
from typing import Any

from pure.models.common import placements as split
from pure.models.common.shapes import TIME_WIDTH, Shapes, affine, check_axes, double, settings, single, stack
from pure.sharding import Part, Sharding

CLASS = "OvisImageTransformer2DModel"
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
    check_axes(found)
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
    shapes |= affine("x_embedder", found["in_channels"], width)
    shapes |= affine("context_embedder", found["joint_attention_dim"], width)
    shapes |= affine("timestep_embedder.linear_1", TIME_WIDTH, width)
    shapes |= affine("timestep_embedder.linear_2", width, width)
    shapes |= affine("norm_out.linear", width, 2 * width)
    shapes |= affine("proj_out", width, found["patch_size"] ** 2 * (found["out_channels"] or found["in_channels"]))
    inner = WIDENING * width
    return shapes | stack(found, double(width, head, inner, 2 * inner), single(width, head, inner, 2 * inner))


def sharding(config: Mapping[str, Any]) -> Sharding:
    """Return how the parameters are split over ranks.

    Raises:
        CheckpointError: see `check_config`.

    >>> sharding({}).find("transformer_blocks.0.ff.net.0.proj.weight").parts
    (Part(count=12288, width=1), Part(count=12288, width=1))
    """
    found = check_config(config)
    heads = Part(found["num_attention_heads"], found["attention_head_dim"])
    inner = Part(WIDENING * heads.features)
    wide = (inner, inner)  # of which the second gates the first
    return Sharding(heads.count, split.double(heads, (inner,), wide) + split.single(heads, (inner,), wide))
