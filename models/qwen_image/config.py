"""Names and shapes of a Qwen-Image transformer's parameters, as its config determines them."""

from collections.abc import Mapping
from typing import Any

from pure.models.common.placements import placements
from pure.models.common.shapes import EVERY_NORM, TIME_WIDTH, Shapes, affine, norms, prefixed, projections, settings
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

CLASS = "QwenImageTransformer2DModel"
WIDENING = 4  # of the feed-forward networks
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
    "zero_cond_t": False,
    "use_additional_t_cond": False,
    "use_layer3d_rope": False,
}
# The first checkpoints set it, and nothing has ever read it.
UNREAD = {"pooled_projection_dim"}
REFUSED: Mapping[str, str] = {
    "guidance_embeds": "this class has no parameters to embed a guidance scale with; set it to false and use "
    "classifier-free guidance",
    "use_layer3d_rope": "it belongs to Qwen-Image-Layered, which makes several layers at once; load Qwen-Image, "
    "Qwen-Image-Edit, -2509 or -2511",
    "use_additional_t_cond": "it belongs to Qwen-Image-Layered, which makes several layers at once; load Qwen-Image, "
    "Qwen-Image-Edit, -2509 or -2511",
}


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer, with defaults for what the config leaves out.

    Raises:
        CheckpointError: it is another class, has an option that is not implemented, or contradicts itself.

    >>> check_config({"num_layers": 6})["attention_head_dim"]
    128
    """
    found = settings({key: value for key, value in config.items() if key not in UNREAD}, CLASS, DEFAULTS)
    for option, reason in REFUSED.items():
        if found[option]:
            raise CheckpointError(f"{option} is set, which is not implemented: {reason}")
    axes, width = found["axes_dims_rope"], found["attention_head_dim"]
    if len(axes) != 3 or sum(axes) != width or any(axis % 2 for axis in axes):
        raise CheckpointError(
            f"axes_dims_rope {tuple(axes)} should be three even numbers (frame, row, column) that sum to "
            f"attention_head_dim {width}"
        )
    return found


def parameter_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shape of every parameter by its name in the checkpoint.

    Raises:
        CheckpointError: see `check_config`.

    >>> parameter_shapes({"in_channels": 64})["img_in.weight"]
    (3072, 64)
    """
    found = check_config(config)
    head, width = found["attention_head_dim"], found["attention_head_dim"] * found["num_attention_heads"]
    text, out = found["joint_attention_dim"], found["out_channels"] or found["in_channels"]
    shapes: Shapes = {"txt_norm.weight": (text,)}
    shapes |= affine("img_in", found["in_channels"], width)
    shapes |= affine("txt_in", text, width)
    shapes |= affine("time_text_embed.timestep_embedder.linear_1", TIME_WIDTH, width)
    shapes |= affine("time_text_embed.timestep_embedder.linear_2", width, width)
    shapes |= affine("norm_out.linear", width, 2 * width)
    shapes |= affine("proj_out", width, found["patch_size"] ** 2 * out)
    for i in range(found["num_layers"]):
        shapes |= prefixed(f"transformer_blocks.{i}.", _block(width, head))
    return shapes


def sharding(config: Mapping[str, Any]) -> Sharding:
    """Return how the parameters are split over ranks.

    Raises:
        CheckpointError: see `check_config`.

    >>> sharding({}).find("transformer_blocks.7.attn.to_add_out.weight").parts
    (Part(count=24, width=128),)
    """
    found = check_config(config)
    heads = Part(found["num_attention_heads"], found["attention_head_dim"])
    inner = Part(WIDENING * heads.features)
    blocks = placements(
        "transformer_blocks.*.",
        column={
            "attn.to_[qkv]": (heads,),
            "attn.add_[qkv]_proj": (heads,),
            "img_mlp.net.0.proj": (inner,),
            "txt_mlp.net.0.proj": (inner,),
        },
        row={
            "attn.to_out.0": (heads,),
            "attn.to_add_out": (heads,),
            "img_mlp.net.2": (inner,),
            "txt_mlp.net.2": (inner,),
        },
        gathered={"img_mod.1": (Part(6 * heads.features),), "txt_mod.1": (Part(6 * heads.features),)},
    )
    return Sharding(heads.count, blocks)


def _block(width: int, head: int) -> Shapes:
    shapes = norms(*EVERY_NORM, head=head) | projections(width)
    for stream in ("img", "txt"):
        shapes |= affine(f"{stream}_mod.1", width, 6 * width)
        shapes |= affine(f"{stream}_mlp.net.0.proj", width, WIDENING * width)
        shapes |= affine(f"{stream}_mlp.net.2", WIDENING * width, width)
    return shapes
