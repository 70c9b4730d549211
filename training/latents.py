"""Encode the training pictures once, so that the denoiser trains on latents alone.

Shapes: P pairs, V variants of each, T = 64 image tokens, C = 32 channels.
"""

from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training import data
from training.budget import load, save

CACHE = "latents.pt"
TOKENS_PER_SIDE = data.RESOLUTION // 8


def pack(latents: Tensor) -> Tensor:
    """(B, 8, 16, 16) to (B, 64, 32), as ``FluxPipeline`` packs 2 x 2 patches."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(tokens: Tensor) -> Tensor:
    """The inverse of ``pack``."""
    batch, _, channels = tokens.shape
    side = TOKENS_PER_SIDE
    patches = tokens.view(batch, side, side, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, 2 * side, 2 * side)


def image_ids() -> Tensor:
    """Positions of the image tokens, (64, 3): zero, row, column."""
    side = torch.arange(TOKENS_PER_SIDE, dtype=torch.float32)
    row, column = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).reshape(-1, 3)


@torch.no_grad()
def encode(vae: AutoencoderKL, emoji: Tensor, *, variants: int, seed: int = 0) -> dict[str, Tensor]:
    """Latents of random pictures of all seen pairs, and their statistics.

    Returns:
        ``tokens``: (P, V, 64, 32) in half precision, shifted and scaled;
        ``shift`` and ``scale``: scalars such that tokens = (latent - shift) * scale.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for pair in data.pairs(held_out=False):
        pictures = data.images(emoji, [pair] * variants, generator=generator)
        rows.append(pack(cast(Any, vae.encode(pictures)).latent_dist.mean))
    latents = torch.stack(rows)
    shift, scale = latents.mean(), 1 / latents.std()
    tokens = ((latents - shift) * scale).half()
    return {"tokens": tokens, "shift": shift, "scale": scale}


def cached(vae: AutoencoderKL, emoji: Tensor, work: Path, *, variants: int) -> dict[str, Tensor]:
    """``encode``, done once per work folder."""
    path = work / CACHE
    if (found := load(path)) is None:
        found = encode(vae, emoji, variants=variants)
        save(path, found)
    return found
