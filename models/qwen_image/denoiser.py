"""Qwen-Image and Qwen-Image-Edit as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `QwenImageTransformer2DModel`,
in its order: predictions are equal to the last bit, where the width of a head is a multiple
of 32, as it is in every checkpoint. With other widths they differ by rounding: the rotation
is done in real numbers, and a product of complex ones may be fused at the end of a row.
(Of complex numbers inductor makes no code.)

Edits are conditioned on reference pictures: their tokens follow those of the picture that
is made, through all blocks, and are dropped from the prediction.

Shapes: B samples, N tokens of the picture, R tokens of the reference pictures, T text tokens,
S = T + N + R, D width, H heads, C width of a head.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pure import Denoiser
from pure.models.common.layers import (
    THETA,
    Params,
    linear,
    linear_of_copy,
    modulations,
    perceptron,
    polar,
    rms_norm,
    rotary_tables,
)
from pure.models.common.streams import Conditioning, Context, Double, Embed, Prepare, head, stack, two_streams
from pure.models.qwen_image.config import QwenImageConfig, sharding

__all__ = ["Conditioning", "positions", "qwen_image"]


def qwen_image(config: QwenImageConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a Qwen-Image transformer; see `QwenImageConfig.read` for the config and its errors.

    It is one for text-to-image and edits; what it does with `Conditioning.reference` depends
    on `zero_cond_t`, which Qwen-Image-Edit-2511 sets: reference tokens then are at time 0.

    >>> qwen_image({"num_layers": 2}).blocks[1].prefix
    'transformer_blocks.1.'
    """
    found = QwenImageConfig.read(config)
    double = Double(
        modulations=own_modulations,
        norm=rms_norm,
        project=linear_of_copy,
        feeds=("img_mlp", "txt_mlp"),
        clips_image=True,
    )
    prepare = Prepare(axes=found.axes_dims_rope, embed_text=embed_text, tabulate=rotary)
    embed = Embed(embedder="time_text_embed.", image="img_in", embed_time=embed_time, zero_reference=found.zero_cond_t)
    return two_streams(prepare, embed, stack(found.num_layers, double), head, sharding(found))


def positions(text: int, *pictures: tuple[int, int]) -> torch.Tensor:
    """Return (S, 3) fp32 positions of `text` tokens, then of pictures of (rows, columns) tokens each.

    A picture is centred at 0 and has its number as first coordinate: 0 the one that is made,
    then the reference pictures. Text lies on the diagonal, beyond the largest picture.

    Raises:
        ValueError: there is no picture.

    >>> positions(2, (1, 2))
    tensor([[ 1.,  1.,  1.],
            [ 2.,  2.,  2.],
            [ 0., -1., -1.],
            [ 0., -1.,  0.]])
    """
    if not pictures:
        raise ValueError("positions need the size of the picture that is made; give (rows, columns)")
    diagonal = torch.arange(text).float() + max(side // 2 for picture in pictures for side in picture)
    grids = [
        torch.cartesian_prod(torch.tensor([float(number)]), _centred(rows), _centred(columns))
        for number, (rows, columns) in enumerate(pictures)
    ]
    return torch.cat([diagonal[:, None].expand(-1, 3), *grids])


def _centred(length: int) -> torch.Tensor:
    return torch.arange(length).float() - (length - length // 2)


def embed_text(params: Params, text: torch.Tensor) -> torch.Tensor:
    """Normalise and project text embeddings to (B, T, D)."""
    return linear(params, "txt_in", rms_norm(text, params["txt_norm.weight"]))


def rotary(ids: torch.Tensor, axes: tuple[int, ...], theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines (S, 1, C) of positions (S, axes), each repeated for the two halves of a pair."""
    return rotary_tables(ids, axes, theta, torch.float32, polar)


def embed_time(params: Params, name: str, time: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Embed one time per sample, (B,) to (B, D), by way of sines and cosines."""
    half = params[name + ".linear_1.weight"].shape[-1] // 2
    exponents = -math.log(THETA) * torch.arange(half, dtype=torch.float32, device=time.device)
    angles = 1000 * (time[:, None].to(dtype).float() * torch.exp(exponents / half))
    return perceptron(params, name, torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


def own_modulations(params: Params, context: Context, tokens: int) -> Sequence[Sequence[torch.Tensor]]:
    """Return modulations of the block's own; of the image (B, N + R, D) each where its `tokens` are at two times."""
    text = modulations(params, "txt_mod.1", context.temb, 6)
    if context.still is None:
        return modulations(params, "img_mod.1", context.temb, 6), text
    both = modulations(params, "img_mod.1", torch.cat([context.temb, context.still]), 6)
    made = tokens if context.tokens is None else context.tokens
    sizes = made, tokens - made
    spread = (zip(each.chunk(2), sizes, strict=True) for each in both)
    return [torch.cat([part.expand(-1, size, -1) for part, size in each], dim=1) for each in spread], text
