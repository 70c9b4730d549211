"""Wan in miniature, made offline: random transformers, their inputs, and the models of the law suite.

Shapes: B samples, T text tokens, S tokens of the video.
"""

import math
from pathlib import Path
from typing import Any

import attrs
import torch
from diffusers import WanTransformer3DModel

from pure import Experts
from pure.models.wan.config import WanConfig
from pure.models.wan.denoiser import Conditioning, wan
from pure.testing import toys
from pure.testing.situation import Model
from tests.support.adder import drawn

CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 256,
    "ffn_dim": 64,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}
# What makes each kind of checkpoint, besides sizes.
KINDS: dict[str, dict[str, Any]] = {
    "t2v": {},
    "without-norm": {"cross_attn_norm": False},
    "i2v-2.1": {"in_channels": 36, "image_dim": 24, "added_kv_proj_dim": 48},
    "flf2v-2.1": {"in_channels": 36, "image_dim": 24, "added_kv_proj_dim": 48, "pos_embed_seq_len": 10},
    "i2v-2.2": {"in_channels": 36},
    "patches": {"patch_size": (2, 1, 2), "eps": 1e-4, "out_channels": 5, "freq_dim": 64},
}
TEXT_OF_IMAGE_MODELS = 512  # diffusers takes the last 512 tokens for the text, whatever was given


def transformer(seed: int = 0, **changes: Any) -> WanTransformer3DModel:
    """A random diffusers transformer, `CONFIG` with changes; norms and positions are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WanTransformer3DModel(**{**CONFIG, **changes}).eval()
        for name, tensor in model.named_parameters():
            if "norm" in name or "pos_embed" in name:
                tensor.data = tensor.data + 0.1 * torch.randn(tensor.shape)
    return model


def narrowed(model: WanTransformer3DModel, dtype: torch.dtype, folder: Path) -> WanTransformer3DModel:
    """The model in another type, as diffusers loads it: with some parameters in fp32."""
    model.save_pretrained(folder)
    return WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype).eval()


@attrs.frozen(eq=False, kw_only=True)
class Call:
    """Random inputs: what diffusers' forward takes, and the same as we take it."""

    reference: dict[str, Any]
    latents: torch.Tensor
    timestep: torch.Tensor
    conditioning: Conditioning


def call(
    model: WanTransformer3DModel,
    batch: int = 1,
    text: int = 8,
    grid: tuple[int, int, int] = (3, 2, 4),
    *,
    per_token: bool = False,
    first: bool = False,
    seed: int = 0,
) -> Call:
    """Inputs of a model, samples at different timesteps.

    `per_token` gives every token a timestep of its own; `first` a clean first frame, with timestep 0.
    """
    config, generator, dtype = model.config, torch.Generator().manual_seed(seed), model.dtype
    sides = [side * patch for side, patch in zip(grid, config["patch_size"], strict=True)]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    own, image = min(config["in_channels"], CONFIG["in_channels"]), None
    latents, beside = normal(batch, own, *sides), normal(batch, config["in_channels"] - own, *sides)
    given = normal(batch, own, 1, *sides[1:]) if first else None
    if config["image_dim"] is not None:
        text = TEXT_OF_IMAGE_MODELS
        image = normal(batch, config["pos_embed_seq_len"] or 5, config["image_dim"])
    embedded = normal(batch, text, config["text_dim"])
    # The pipelines' own: whole numbers.
    timestep = torch.linspace(950, 50, batch + 2)[1:-1].round()
    times = timestep
    if per_token:
        times = timestep[:, None].repeat(1, math.prod(grid))
        if first:
            times[:, : grid[1] * grid[2]] = 0
    whole = latents if given is None else torch.cat([given, latents[:, :, 1:]], dim=2)
    return Call(
        reference={
            "hidden_states": torch.cat([whole, beside], dim=1),
            "timestep": times,
            "encoder_hidden_states": embedded,
            "encoder_hidden_states_image": _pairs(image) if config["pos_embed_seq_len"] else image,
        },
        latents=latents,
        timestep=timestep,
        conditioning=Conditioning(
            text=embedded, image=image, beside=beside if beside.shape[1] else None, first=given, grid=grid
        ),
    )


def _pairs(image: torch.Tensor | None) -> torch.Tensor | None:
    """Embeddings of a first and a last frame as the forward takes them: as two samples."""
    return image if image is None else image.unflatten(1, (2, -1)).flatten(0, 1)


SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 2,
    "out_channels": 2,
    "text_dim": 6,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 4,
}


def _model(name: str, *, image: bool = False, beside: bool = False, first: bool = False, last: bool = False) -> Model:
    """A model of the law suite: two frames of 1 x 2 tokens, three text tokens, four blocks."""
    config: dict[str, Any] = {**SMALL, "cross_attn_norm": not first}
    if image:
        config |= {"image_dim": 5, "added_kv_proj_dim": 16, **({"pos_embed_seq_len": 4} if last else {})}
    if beside:
        config["in_channels"] = 5
    params = drawn(WanConfig.read(config), 0.3)

    def conditioning(seeds: tuple[int, ...]) -> Conditioning:
        return Conditioning(
            text=toys.rows((3, 6), 1000)(seeds),
            image=toys.rows((4 if last else 2, 5), 2000)(seeds) if image else None,
            beside=toys.rows((3, 2, 2, 4), 3000)(seeds) if beside else None,
            first=toys.rows((2, 1, 2, 4), 4000)(seeds) if first else None,
            grid=(2, 1, 2),
        )

    return Model(
        name=name,
        denoiser=wan(config, expand_timesteps=first),
        params=params,
        conditioning=conditioning,
        latents=lambda seeds: toys.rows((2, 2, 2, 4), 5000)(seeds),
    )


WAN_T2V = _model("wan-t2v")
WAN_I2V = _model("wan-i2v", image=True, beside=True)
WAN_TI2V = _model("wan-ti2v", first=True)
MODELS = (WAN_T2V, WAN_I2V, WAN_TI2V)
# Wan 2.2: two transformers of one shape, each with weights of its own.


def _experts(name: str, one: Model) -> Model:
    return Model(
        name=name,
        denoiser=Experts({"high": one.first, "low": one.first}),
        params={"high": one.params, "low": {name: 1.1 * tensor for name, tensor in one.params.items()}},
        conditioning=one.conditioning,
        latents=one.latents,
    )


WAN_EXPERTS = _experts("wan-experts", WAN_T2V)
WAN_FLF = _model("wan-flf", image=True, beside=True, last=True)  # a first and a last frame
WAN_I2V_EXPERTS = _experts("wan-i2v-experts", _model("wan-i2v-2.2", beside=True))
