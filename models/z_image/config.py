"""Names and shapes of a Z-Image transformer's parameters, as its config determines them."""

from collections.abc import Iterator, Mapping
from typing import Any

from pure.models.common.placements import placements
from pure.models.common.shapes import Shapes, affine, prefixed, settings
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

CLASS = "ZImageTransformer2DModel"
PATCH = 2  # latents that a token is wide and high
TIME_WIDTH = 256  # numbers that stand for a timestep before it is embedded, and at most after it
TIME_INNER = 1024  # width of the network that embeds it
DEFAULTS: Mapping[str, Any] = {
    "all_patch_size": (2,),
    "all_f_patch_size": (1,),
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "norm_eps": 1e-5,
    "qk_norm": True,
    "cap_feat_dim": 2560,
    "siglip_feat_dim": None,
    "rope_theta": 256.0,
    "t_scale": 1000.0,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1024, 512, 512],
}


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer, with defaults for what the config leaves out.

    Raises:
        CheckpointError: it is another class, has an option that is not implemented, or contradicts itself.

    >>> check_config({"n_layers": 6})["dim"]
    3840
    """
    found = settings(config, CLASS, DEFAULTS)
    if found["siglip_feat_dim"] is not None:
        raise CheckpointError(
            f"siglip_feat_dim is {found['siglip_feat_dim']}: the omni variant, which reads pictures, is not "
            "implemented; use a text-to-image checkpoint, where it is null"
        )
    if found["dim"] % found["n_heads"]:
        raise CheckpointError(f"dim {found['dim']} must be a multiple of n_heads {found['n_heads']}")
    axes, width = found["axes_dims"], found["dim"] // found["n_heads"]
    if sum(axes) != width:
        raise CheckpointError(f"axes_dims {list(axes)} sums to {sum(axes)}; it must sum to dim / n_heads = {width}")
    if any(axis % 2 for axis in axes):
        raise CheckpointError(f"axes_dims {list(axes)} must be even: features are rotated in pairs")
    if len(axes) != 3 or len(found["axes_lens"]) != 3:
        raise CheckpointError(
            f"axes_dims {list(axes)} and axes_lens {list(found['axes_lens'])} must have 3 entries each"
        )
    if len(found["all_patch_size"]) != len(found["all_f_patch_size"]) or (PATCH, 1) not in _patches(found):
        raise CheckpointError(
            f"all_patch_size {tuple(found['all_patch_size'])} and all_f_patch_size {tuple(found['all_f_patch_size'])} "
            f"must pair up, and contain {PATCH} with 1: images are cut into patches of {PATCH} x {PATCH}"
        )
    return found


def parameter_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shape of every parameter by its name in the checkpoint.

    Raises:
        CheckpointError: see `check_config`.

    >>> parameter_shapes({"in_channels": 16})["all_x_embedder.2-1.weight"]
    (3840, 64)
    """
    found = check_config(config)
    width, time = found["dim"], min(found["dim"], TIME_WIDTH)
    shapes: Shapes = {"x_pad_token": (1, width), "cap_pad_token": (1, width)}
    shapes["cap_embedder.0.weight"] = (found["cap_feat_dim"],)
    for name, inputs, outputs in _outer(found, width, time):
        shapes |= affine(name, inputs, outputs)
    plain = _layer(width, width // found["n_heads"], found["qk_norm"])
    modulated = plain | affine("adaLN_modulation.0", time, 4 * width)
    for i in range(found["n_layers"]):
        shapes |= prefixed(f"layers.{i}.", modulated)
    for i in range(found["n_refiner_layers"]):
        shapes |= prefixed(f"noise_refiner.{i}.", modulated) | prefixed(f"context_refiner.{i}.", plain)
    return shapes


def sharding(config: Mapping[str, Any]) -> Sharding:
    """Return how the parameters are split over ranks: of all layers, those of the refiners too.

    Raises:
        CheckpointError: see `check_config`.

    >>> sharding({}).find("noise_refiner.0.attention.to_q.weight").parts
    (Part(count=30, width=128),)
    """
    found = check_config(config)
    heads = Part(found["n_heads"], found["dim"] // found["n_heads"])
    inner = Part(_inner(found["dim"]))
    layers = placements(
        ("layers.*.", "noise_refiner.*.", "context_refiner.*."),
        column={"attention.to_[qkv]": (heads,), "feed_forward.w[13]": (inner,)},
        row={"attention.to_out.0": (heads,), "feed_forward.w2": (inner,)},
    )
    return Sharding(heads.count, layers)


def _inner(width: int) -> int:
    """Return the width of a feed-forward network."""
    return int(width / 3 * 8)


def _patches(found: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(found["all_patch_size"], found["all_f_patch_size"], strict=False))


def _outer(found: Mapping[str, Any], width: int, time: int) -> Iterator[tuple[str, int, int]]:
    yield "t_embedder.mlp.0", TIME_WIDTH, TIME_INNER
    yield "t_embedder.mlp.2", TIME_INNER, time
    yield "cap_embedder.1", found["cap_feat_dim"], width
    for patch, frames in _patches(found):
        numbers = patch * patch * frames * found["in_channels"]
        yield f"all_x_embedder.{patch}-{frames}", numbers, width
        yield f"all_final_layer.{patch}-{frames}.linear", width, numbers
        yield f"all_final_layer.{patch}-{frames}.adaLN_modulation.1", time, width


def _layer(width: int, head: int, normed: bool) -> Shapes:
    shapes: Shapes = {}
    for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
        shapes[f"{name}.weight"] = (width,)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes |= affine(f"attention.{name}", width, width, bias=False)
    if normed:
        shapes |= {f"attention.{name}.weight": (head,) for name in ("norm_q", "norm_k")}
    wide = _inner(width)
    for name, inputs, outputs in (("w1", width, wide), ("w2", wide, width), ("w3", width, wide)):
        shapes |= affine(f"feed_forward.{name}", inputs, outputs, bias=False)
    return shapes
