"""Names and shapes of a HunyuanVideo transformer's parameters, as its config determines them."""

from collections.abc import Mapping
from typing import Any

from pure.models.errors import CheckpointError
from pure.models.shapes import Shapes, affine, prefixed, settings

CLASS = "HunyuanVideoTransformer3DModel"
TIME_WIDTH = 256  # numbers that stand for a timestep before it is embedded
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
    axes, width, kind = found["rope_axes_dim"], found["attention_head_dim"], found["image_condition_type"]
    if sum(axes) != width:
        raise CheckpointError(
            f"rope_axes_dim {tuple(axes)} sums to {sum(axes)}; it must sum to attention_head_dim {width}"
        )
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
    shapes |= _numbers("time_text_embed", width, found["pooled_projection_dim"], found["guidance_embeds"])
    shapes |= prefixed("context_embedder.", _refiner(width, found["text_embed_dim"], found["num_refiner_layers"]))
    for i in range(found["num_layers"]):
        shapes |= prefixed(f"transformer_blocks.{i}.", _double(width, head, wide))
    for i in range(found["num_single_layers"]):
        shapes |= prefixed(f"single_transformer_blocks.{i}.", _single(width, head, wide))
    shapes |= affine("norm_out.linear", width, 2 * width)
    return shapes | affine("proj_out", width, patch[0] * patch[1] * patch[2] * found["out_channels"])


def _numbers(name: str, width: int, pooled: int, guidance: bool) -> Shapes:
    """The embedding of time, pooled text and guidance."""
    embedders = {"timestep_embedder": TIME_WIDTH, "text_embedder": pooled}
    if guidance:
        embedders["guidance_embedder"] = TIME_WIDTH
    shapes: Shapes = {}
    for part, inputs in embedders.items():
        shapes |= affine(f"{name}.{part}.linear_1", inputs, width) | affine(f"{name}.{part}.linear_2", width, width)
    return shapes


def _refiner(width: int, text: int, layers: int) -> Shapes:
    shapes = _numbers("time_text_embed", width, text, guidance=False) | affine("proj_in", text, width)
    block: Shapes = {f"{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        block |= affine(f"attn.{name}", width, width)
    block |= affine("ff.net.0.proj", width, REFINER_WIDENING * width)
    block |= affine("ff.net.2", REFINER_WIDENING * width, width)
    block |= affine("norm_out.linear", width, 2 * width)
    for i in range(layers):
        shapes |= prefixed(f"token_refiner.refiner_blocks.{i}.", block)
    return shapes


def _double(width: int, head: int, wide: int) -> Shapes:
    shapes = _norms("norm_q", "norm_k", "norm_added_q", "norm_added_k", head=head)
    for name in ("norm1", "norm1_context"):
        shapes |= affine(f"{name}.linear", width, 6 * width)
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        shapes |= affine(f"attn.{name}", width, width)
    for name in ("ff", "ff_context"):
        shapes |= affine(f"{name}.net.0.proj", width, wide) | affine(f"{name}.net.2", wide, width)
    return shapes


def _single(width: int, head: int, wide: int) -> Shapes:
    shapes = _norms("norm_q", "norm_k", head=head)
    for name in ("to_q", "to_k", "to_v"):
        shapes |= affine(f"attn.{name}", width, width)
    shapes |= affine("norm.linear", width, 3 * width) | affine("proj_mlp", width, wide)
    return shapes | affine("proj_out", width + wide, width)


def _norms(*names: str, head: int) -> Shapes:
    return {f"attn.{name}.weight": (head,) for name in names}
