"""Names and shapes of a FLUX.2 transformer's parameters, as its config determines them."""

from collections.abc import Iterator, Mapping
from typing import Any

from pure.models.common.placements import feeds, placements
from pure.models.common.shapes import EVERY_NORM, Shapes, affine, check_axes, norms, projections, settings, stack
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

CLASS = "Flux2Transformer2DModel"
EPSILON = 1e-6  # of every normalisation, in every published checkpoint
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 1,
    "in_channels": 128,
    "out_channels": None,
    "num_layers": 8,
    "num_single_layers": 48,
    "attention_head_dim": 128,
    "num_attention_heads": 48,
    "joint_attention_dim": 15360,
    "timestep_guidance_channels": 256,
    "mlp_ratio": 3.0,
    "axes_dims_rope": (32, 32, 32, 32),
    "rope_theta": 2000,
    "eps": EPSILON,
    "guidance_embeds": True,
}


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer, with defaults for what the config leaves out.

    Raises:
        CheckpointError: it is another class, has an option that is not implemented, or contradicts itself.

    >>> check_config({"num_layers": 5})["num_single_layers"]
    48
    """
    found = settings(config, CLASS, DEFAULTS)
    check_axes(found)
    if found["eps"] != EPSILON:
        raise CheckpointError(f"eps is {found['eps']}, which is not implemented; it must be {EPSILON}")
    if (channels := found["timestep_guidance_channels"]) % 2:
        raise CheckpointError(f"timestep_guidance_channels {channels} must be even: sines and cosines come in pairs")
    return found


def parameter_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shape of every parameter by its name in the checkpoint.

    Raises:
        CheckpointError: see `check_config`.

    >>> parameter_shapes({"in_channels": 64})["x_embedder.weight"]
    (6144, 64)
    """
    found = check_config(config)
    head, width = found["attention_head_dim"], found["attention_head_dim"] * found["num_attention_heads"]
    wide = int(width * found["mlp_ratio"])
    shapes: Shapes = {}
    for name, inputs, outputs in _outer(found, width):
        shapes |= affine(name, inputs, outputs, bias=False)
    return shapes | stack(found, _double(width, head, wide), _single(width, head, wide))


def _outer(found: Mapping[str, Any], width: int) -> Iterator[tuple[str, int, int]]:
    yield "x_embedder", found["in_channels"], width
    yield "context_embedder", found["joint_attention_dim"], width
    embedders = ("timestep_embedder", "guidance_embedder") if found["guidance_embeds"] else ("timestep_embedder",)
    for name in embedders:
        yield f"time_guidance_embed.{name}.linear_1", found["timestep_guidance_channels"], width
        yield f"time_guidance_embed.{name}.linear_2", width, width
    yield "double_stream_modulation_img.linear", width, 6 * width
    yield "double_stream_modulation_txt.linear", width, 6 * width
    yield "single_stream_modulation.linear", width, 3 * width
    yield "norm_out.linear", width, 2 * width
    yield "proj_out", width, found["patch_size"] ** 2 * (found["out_channels"] or found["in_channels"])


def _double(width: int, head: int, wide: int) -> Shapes:
    shapes = norms(*EVERY_NORM, head=head) | projections(width, bias=False)
    for name in ("ff", "ff_context"):
        shapes |= affine(f"{name}.linear_in", width, 2 * wide, bias=False)
        shapes |= affine(f"{name}.linear_out", wide, width, bias=False)
    return shapes


def _single(width: int, head: int, wide: int) -> Shapes:
    shapes = norms("norm_q", "norm_k", head=head)
    shapes |= affine("attn.to_qkv_mlp_proj", width, 3 * width + 2 * wide, bias=False)
    return shapes | affine("attn.to_out", width + wide, width, bias=False)


def sharding(config: Mapping[str, Any]) -> Sharding:
    """Return how the parameters are split over ranks.

    Raises:
        CheckpointError: see `check_config`.

    >>> sharding({}).find("single_transformer_blocks.7.attn.to_out.weight").parts
    (Part(count=48, width=128), Part(count=18432, width=1))
    """
    found = check_config(config)
    heads = Part(found["num_attention_heads"], found["attention_head_dim"])
    inner = Part(int(heads.features * found["mlp_ratio"]))
    double = placements(
        "transformer_blocks.*.",
        column={"attn.to_[qkv]": (heads,), "attn.add_[qkv]_proj": (heads,), **feeds("linear_in", (inner, inner))},
        row={"attn.to_out.0": (heads,), "attn.to_add_out": (heads,), **feeds("linear_out", (inner,))},
    )
    single = placements(
        "single_transformer_blocks.*.",
        column={"attn.to_qkv_mlp_proj": (heads, heads, heads, inner, inner)},
        row={"attn.to_out": (heads, inner)},
    )
    return Sharding(heads.count, double + single)
