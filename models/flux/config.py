"""Names and shapes of a FLUX.1 transformer's parameters, as its config determines them."""

from collections.abc import Mapping
from typing import Any

from pure.models.common import placements as split
from pure.models.common.shapes import Shapes, affine, check_axes, double, embedders, settings, single, stack
from pure.sharding import Part, Sharding

CLASS = "FluxTransformer2DModel"
WIDENING = 4  # of the feed-forward networks
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer, with defaults for what the config leaves out.

    Raises:
        CheckpointError: it is another class, has an option that is not implemented, or contradicts itself.

    >>> check_config({"num_layers": 6})["attention_head_dim"]
    128
    """
    found = settings(config, CLASS, DEFAULTS)
    check_axes(found)
    return found


def parameter_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shape of every parameter by its name in the checkpoint.

    Raises:
        CheckpointError: see `check_config`.

    >>> parameter_shapes({"in_channels": 64})["x_embedder.weight"]
    (3072, 64)
    """
    found = check_config(config)
    head, width = found["attention_head_dim"], found["attention_head_dim"] * found["num_attention_heads"]
    inner = WIDENING * width
    shapes = affine("x_embedder", found["in_channels"], width)
    shapes |= affine("context_embedder", found["joint_attention_dim"], width)
    shapes |= embedders("time_text_embed", width, found["pooled_projection_dim"], found["guidance_embeds"])
    shapes |= affine("norm_out.linear", width, 2 * width)
    shapes |= affine("proj_out", width, found["patch_size"] ** 2 * (found["out_channels"] or found["in_channels"]))
    return shapes | stack(found, double(width, head, inner, inner), single(width, head, inner, inner))


def sharding(config: Mapping[str, Any]) -> Sharding:
    """Return how the parameters are split over ranks.

    Raises:
        CheckpointError: see `check_config`.

    >>> sharding({}).find("single_transformer_blocks.7.proj_out.weight").parts
    (Part(count=24, width=128), Part(count=12288, width=1))
    """
    found = check_config(config)
    heads = Part(found["num_attention_heads"], found["attention_head_dim"])
    inner = (Part(WIDENING * heads.features),)
    return Sharding(heads.count, split.double(heads, inner, inner) + split.single(heads, inner, inner))
