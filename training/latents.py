"""Encode the training pictures once, so that the denoiser trains on latents alone.

Shapes: P pairs, V variants of each, 64 image tokens of 32 channels.
"""

from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pure.models.common.image import pack
from training import data
from training.budget import load, save

CACHE = "latents.pt"
TOKENS_PER_SIDE = data.RESOLUTION // 8


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
