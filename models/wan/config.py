"""Names and shapes of a Wan transformer's parameters, as its config determines them.

One class serves Wan 2.1 (text and image to video), both experts of Wan 2.2 A14B, and TI2V-5B.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pure.models.common.placements import placements
from pure.models.common.shapes import Shapes, affine, prefixed, settings
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

CLASS = "WanTransformer3DModel"
MODULATIONS = 6  # shift, scale and gate, of attention and of the feed-forward network
NORM = "rms_norm_across_heads"
# Checkpoints of Wan 2.1 image-to-video store a norm that nothing reads.
UNREAD = ("norm_added_q",)
# Parts of names whose tensors diffusers keeps in fp32 when it loads a checkpoint in a narrower type.
IN_FP32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
DEFAULTS: Mapping[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "qk_norm": NORM,
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "rope_max_seq_len": 1024,
    "pos_embed_seq_len": None,
}


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer, with defaults for what the config leaves out.

    Raises:
        CheckpointError: it is another class, has an option that is not implemented, or contradicts itself.

    >>> check_config({"num_layers": 30})["attention_head_dim"]
    128
    """
    found = settings(config, CLASS, DEFAULTS)
    found["patch_size"] = tuple(found["patch_size"])
    found["out_channels"] = found["out_channels"] or found["in_channels"]
    width, added = found["num_attention_heads"] * found["attention_head_dim"], found["added_kv_proj_dim"]
    if len(found["patch_size"]) != 3:
        raise CheckpointError(f"patch_size {found['patch_size']} should be three numbers: frames, rows, columns")
    if found["attention_head_dim"] % 2:
        raise CheckpointError(f"attention_head_dim {found['attention_head_dim']} is odd; positions rotate pairs")
    if found["freq_dim"] % 2:
        raise CheckpointError(f"freq_dim {found['freq_dim']} is odd; a timestep becomes pairs of sine and cosine")
    if found["qk_norm"] != NORM:
        raise CheckpointError(f"qk_norm {found['qk_norm']!r} is not implemented; supported is {NORM!r}")
    if (found["image_dim"] is None) != (added is None):
        raise CheckpointError(
            f"image_dim {found['image_dim']} and added_kv_proj_dim {added} contradict each other: "
            "blocks attend to an image if it is embedded; set both or neither"
        )
    if added not in (None, width):
        raise CheckpointError(
            f"added_kv_proj_dim {added} must be the width {width} (num_attention_heads x attention_head_dim), "
            "in which the image is embedded"
        )
    if found["pos_embed_seq_len"] is not None and added is None:
        raise CheckpointError(
            f"pos_embed_seq_len {found['pos_embed_seq_len']} belongs to an embedded image, and image_dim is null"
        )
    return found


def rotary_axes(head: int) -> tuple[int, int, int]:
    """Return how many features of a head say frame, row and column.

    >>> rotary_axes(128)
    (44, 42, 42)
    """
    side = 2 * (head // 6)
    return head - 2 * side, side, side


def parameter_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shape of every parameter by its name in the checkpoint.

    Raises:
        CheckpointError: see `check_config`.

    >>> parameter_shapes({"num_layers": 1})["patch_embedding.weight"]
    (5120, 16, 1, 2, 2)
    """
    found = check_config(config)
    width, patch = found["num_attention_heads"] * found["attention_head_dim"], found["patch_size"]
    shapes: Shapes = {
        "scale_shift_table": (1, 2, width),
        "patch_embedding.weight": (width, found["in_channels"], *patch),
        "patch_embedding.bias": (width,),
    }
    for name, inputs, outputs in _outer(found, width):
        shapes |= affine(name, inputs, outputs)
    if found["image_dim"] is not None:
        shapes |= prefixed("condition_embedder.image_embedder.", _image(found, width))
    block = _block(found, width)
    for i in range(found["num_layers"]):
        shapes |= prefixed(f"blocks.{i}.", block)
    return shapes


def sharding(config: Mapping[str, Any]) -> Sharding:
    """Return how the parameters are split over ranks.

    Queries and keys are normalised over all heads, for which the ranks add one number per token.

    Raises:
        CheckpointError: see `check_config`.

    >>> sharding({}).find("blocks.7.attn1.norm_q.weight").parts
    (Part(count=40, width=128),)
    """
    found = check_config(config)
    heads, inner = Part(found["num_attention_heads"], found["attention_head_dim"]), Part(found["ffn_dim"])
    blocks = placements(
        "blocks.*.",
        column={"attn[12].to_[qkv]": (heads,), "attn2.add_[kv]_proj": (heads,), "ffn.net.0.proj": (inner,)},
        row={"attn[12].to_out.0": (heads,), "ffn.net.2": (inner,)},
        norm={"attn[12].norm_[qk]": (heads,), "attn2.norm_added_k": (heads,)},
    )
    return Sharding(heads.count, blocks)


def _outer(found: Mapping[str, Any], width: int) -> Iterator[tuple[str, int, int]]:
    for name, inputs in {"time_embedder": found["freq_dim"], "text_embedder": found["text_dim"]}.items():
        yield f"condition_embedder.{name}.linear_1", inputs, width
        yield f"condition_embedder.{name}.linear_2", width, width
    yield "condition_embedder.time_proj", width, MODULATIONS * width
    yield "proj_out", width, math.prod(found["patch_size"]) * found["out_channels"]


def _image(found: Mapping[str, Any], width: int) -> Shapes:
    inputs, tokens = found["image_dim"], found["pos_embed_seq_len"]
    shapes = _norm("norm1", inputs) | _norm("norm2", width)
    shapes |= affine("ff.net.0.proj", inputs, inputs) | affine("ff.net.2", inputs, width)
    return shapes if tokens is None else shapes | {"pos_embed": (1, tokens, inputs)}


def _block(found: Mapping[str, Any], width: int) -> Shapes:
    shapes: Shapes = {"scale_shift_table": (1, MODULATIONS, width)}
    for attention in ("attn1", "attn2"):
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= affine(f"{attention}.{name}", width, width)
        shapes |= {f"{attention}.{name}.weight": (width,) for name in ("norm_q", "norm_k")}
    if found["added_kv_proj_dim"] is not None:
        shapes |= affine("attn2.add_k_proj", width, width) | affine("attn2.add_v_proj", width, width)
        shapes["attn2.norm_added_k.weight"] = (width,)
    if found["cross_attn_norm"]:
        shapes |= _norm("norm2", width)
    shapes |= affine("ffn.net.0.proj", width, found["ffn_dim"])
    return shapes | affine("ffn.net.2", found["ffn_dim"], width)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
