"""Names and shapes of a HunyuanVideo transformer's parameters, as its config determines them."""

from collections.abc import Mapping
from typing import Any

from pure.models.common import placements as split
from pure.models.common.shapes import Shapes, affine, check_axes, double, embedders, prefixed, settings, single, stack
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

CLASS = "HunyuanVideoTransformer3DModel"
REFINER_WIDENING = 4  # of the feed-forward networks of the text refiner
TEXT, CONCAT, REPLACE = None, "latent_concat", "token_replace"
DEFAULTS: Mapping[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "num_layers": 20,
    "num_single_layers": 40,
    "num_refiner_layers": 2,
    "mlp_ratio": 4.0,
    "patch_size": 2,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "guidance_embeds": True,
    "text_embed_dim": 4096,
    "pooled_projection_dim": 768,
    "rope_theta": 256.0,
    "rope_axes_dim": (16, 56, 56),
    "image_condition_type": TEXT,
}


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer, with defaults for what the config leaves out.

    Raises:
        CheckpointError: it is another class, has an option that is not implemented, or contradicts itself.

    >>> check_config({"num_layers": 6})["attention_head_dim"]
    128
    """
    found = settings(config, CLASS, DEFAULTS)
    found["out_channels"] = found["out_channels"] or found["in_channels"]
    check_axes(found, "rope_axes_dim")
    kind = found["image_condition_type"]
    if found["qk_norm"] != "rms_norm":
        raise CheckpointError(f"qk_norm is {found['qk_norm']!r}; implemented is 'rms_norm', which all checkpoints have")
    if kind not in (TEXT, CONCAT, REPLACE):
        raise CheckpointError(
            f"image_condition_type is {kind!r}; implemented are None (text to video), {CONCAT!r} and {REPLACE!r}"
        )
    out = found["out_channels"]
    # The image's latents and a mask beside the latents, or nothing.
    wanted = 2 * out + 1 if kind == CONCAT else out
    if found["in_channels"] != wanted:
        raise CheckpointError(
            f"in_channels is {found['in_channels']}; with out_channels {out} and image_condition_type {kind!r} "
            f"it must be {wanted}: a prediction has the shape of the latents"
        )
    if kind == REPLACE and found["patch_size_t"] != 1:
        raise CheckpointError(
            f"patch_size_t is {found['patch_size_t']}; with image_condition_type {kind!r} it must be 1: "
            "the image takes the place of one frame"
        )
    return found


def parameter_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shape of every parameter by its name in the checkpoint.

    Raises:
        CheckpointError: see `check_config`.

    >>> parameter_shapes({})["x_embedder.proj.weight"]
    (3072, 16, 1, 2, 2)
    """
    found = check_config(config)
    head, width = found["attention_head_dim"], found["attention_head_dim"] * found["num_attention_heads"]
    wide = int(width * found["mlp_ratio"])
    patch = (found["patch_size_t"], found["patch_size"], found["patch_size"])
    shapes: Shapes = {
        "x_embedder.proj.weight": (width, found["in_channels"], *patch),
        "x_embedder.proj.bias": (width,),
    }
    shapes |= embedders("time_text_embed", width, found["pooled_projection_dim"], found["guidance_embeds"])
    shapes |= prefixed("context_embedder.", _refiner(width, found["text_embed_dim"], found["num_refiner_layers"]))
    shapes |= stack(found, double(width, head, wide, wide), single(width, head, wide, wide))
    shapes |= affine("norm_out.linear", width, 2 * width)
    return shapes | affine("proj_out", width, patch[0] * patch[1] * patch[2] * found["out_channels"])


def sharding(config: Mapping[str, Any]) -> Sharding:
    """Return how the parameters are split over ranks: of all blocks, those of the text refiner too.

    Raises:
        CheckpointError: see `check_config`.

    >>> sharding({}).find("context_embedder.token_refiner.refiner_blocks.0.ff.net.2.weight").parts
    (Part(count=12288, width=1),)
    """
    found = check_config(config)
    heads = Part(found["num_attention_heads"], found["attention_head_dim"])
    inner, wide = (Part(int(heads.features * found["mlp_ratio"])),), (Part(REFINER_WIDENING * heads.features),)
    refiner = split.placements(
        "context_embedder.token_refiner.refiner_blocks.*.",
        column={"attn.to_[qkv]": (heads,), "ff.net.0.proj": wide},
        row={"attn.to_out.0": (heads,), "ff.net.2": wide},
        gathered={"norm_out.linear": (Part(2 * heads.features),)},
    )
    return Sharding(heads.count, split.double(heads, inner, inner) + split.single(heads, inner, inner) + refiner)


def _refiner(width: int, text: int, layers: int) -> Shapes:
    shapes = embedders("time_text_embed", width, text, guidance=False) | affine("proj_in", text, width)
    block: Shapes = {f"{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        block |= affine(f"attn.{name}", width, width)
    block |= affine("ff.net.0.proj", width, REFINER_WIDENING * width)
    block |= affine("ff.net.2", REFINER_WIDENING * width, width)
    block |= affine("norm_out.linear", width, 2 * width)
    for i in range(layers):
        shapes |= prefixed(f"token_refiner.refiner_blocks.{i}.", block)
    return shapes
