"""HunyuanVideo in miniature: random transformers, inputs of any batch size, and models for the laws.

Shapes: B samples, T text tokens, F x Y x X latents in frames, rows and columns.
"""

from typing import Any

import torch
from diffusers import HunyuanVideoTransformer3DModel

from pure.models.hunyuan_video.config import CONCAT, REPLACE, HunyuanVideoConfig
from pure.models.hunyuan_video.denoiser import Conditioning, hunyuan_video
from pure.testing import toys
from pure.testing.situation import Model
from tests.support.adder import drawn

CONFIG = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "patch_size": 2,
    "patch_size_t": 1,
    "guidance_embeds": True,
    "text_embed_dim": 32,
    "pooled_projection_dim": 32,
    "rope_axes_dim": (4, 4, 8),
}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "concat": {"image_condition_type": CONCAT, "in_channels": 9, "guidance_embeds": False},
    "replace": {"image_condition_type": REPLACE},
}


def transformer(
    kind: str = "text", seed: int = 0, dtype: torch.dtype = torch.float32, **changes
) -> HunyuanVideoTransformer3DModel:
    """A random diffusers transformer, `CONFIG` with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = HunyuanVideoTransformer3DModel(**{**CONFIG, **KINDS[kind], **changes}).eval()
    torch.nn.Module.to(made, dtype)  # the class's own `to` warns
    return made


def mask(batch: int, text: int) -> torch.Tensor:
    """Which text tokens take part, (B, T): of every sample another number."""
    return torch.arange(text) < torch.tensor([max(1, text - 1 - 2 * i) for i in range(batch)])[:, None]


def inputs(
    model: HunyuanVideoTransformer3DModel,
    batch: int = 1,
    text: int = 8,
    size: tuple[int, int, int] = (3, 4, 6),
    masked: bool = True,
    seed: int = 0,
) -> tuple[Conditioning, torch.Tensor, torch.Tensor]:
    """Conditioning, latents (B, channels, F, Y, X) and timesteps (B,), samples at different ones."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(model.dtype)

    patch, channels = (config["patch_size_t"], config["patch_size"], config["patch_size"]), config["out_channels"]
    frames, rows, columns = (n // p for n, p in zip(size, patch, strict=True))
    conditioning = Conditioning(
        text=normal(batch, text, config["text_embed_dim"]),
        mask=mask(batch, text) if masked else None,
        pooled=normal(batch, config["pooled_projection_dim"]),
        guidance=torch.linspace(1.5, 4.5, batch).to(model.dtype) if config["guidance_embeds"] else None,
        image=normal(batch, channels, 1, *size[1:]) if config["image_condition_type"] else None,
        grid=(frames, rows, columns),
    )
    return conditioning, normal(batch, channels, *size), torch.linspace(900, 100, batch + 2)[1:-1]


def call(
    model: HunyuanVideoTransformer3DModel, conditioning: Conditioning, latents: torch.Tensor, timestep: torch.Tensor
) -> dict:
    """Arguments of the transformer's forward that say the same, as diffusers' pipelines make them."""
    image, seen, text = conditioning.image, latents, conditioning.text
    if image is not None and model.config["image_condition_type"] == CONCAT:
        beside = torch.zeros(latents.shape[0], latents.shape[1] + 1, *latents.shape[2:], dtype=latents.dtype)
        beside[:, :-1, :1], beside[:, -1, 0] = image, 1
        seen = torch.cat([latents, beside], dim=1)
    elif image is not None:
        seen = torch.cat([image, latents[:, :, 1:]], dim=2)
    weights = torch.ones(text.shape[:2]) if conditioning.mask is None else conditioning.mask
    return {
        "hidden_states": seen,
        "timestep": timestep,
        "encoder_hidden_states": text,
        "encoder_attention_mask": weights.to(latents.dtype),
        "pooled_projections": conditioning.pooled,
        "guidance": None if conditioning.guidance is None else conditioning.guidance * 1000,
    }


SMALL = {
    **CONFIG,
    "in_channels": 2,
    "out_channels": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "text_embed_dim": 8,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 2, 4),
}
TEXT = 4


def _model(kind: str) -> Model:
    config = {**SMALL, **KINDS[kind]}
    if kind == "concat":
        config["in_channels"] = 5
    params = drawn(HunyuanVideoConfig.read(config), 0.12)

    def rows(seeds: tuple[int, ...], *shape: int, offset: int) -> torch.Tensor:
        return torch.stack([toys.normal(*shape, seed=offset + seed) for seed in seeds])

    def conditioning(seeds: tuple[int, ...]) -> Conditioning:
        lengths = torch.tensor([2 + seed % 3 for seed in seeds])
        return Conditioning(
            text=rows(seeds, TEXT, 8, offset=1000),
            mask=torch.arange(TEXT) < lengths[:, None],
            pooled=rows(seeds, 8, offset=2000),
            guidance=torch.tensor([2.0 + seed % 3 for seed in seeds]) if config["guidance_embeds"] else None,
            image=rows(seeds, 2, 1, 4, 4, offset=4000) if kind != "text" else None,
            grid=(2, 2, 2),
        )

    return Model(
        name=f"hunyuan-{kind}",
        denoiser=hunyuan_video(config),
        params=params,
        conditioning=conditioning,
        latents=lambda seeds: rows(seeds, 2, 2, 4, 4, offset=3000),
    )


MODELS = tuple(_model(kind) for kind in KINDS)
