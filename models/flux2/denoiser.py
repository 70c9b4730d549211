"""FLUX.2 (dev and klein) as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `Flux2Transformer2DModel`, in
its order: predictions are equal to the last bit. One departure costs nothing: the blocks
that see text and image as one sequence keep them as two streams, so that all blocks have
one signature; the numbers are the same. All blocks of a kind have their modulations in common.

Shapes: B samples, S tokens of text and image, D width, H heads, C width of a head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pure import Denoiser
from pure.attention import Attend
from pure.models.common.layers import Params, clip, head_norm, linear, modulate, rotate
from pure.models.common.streams import (
    Conditioning,
    Context,
    Double,
    Embed,
    Hidden,
    Prepare,
    head,
    parted,
    stack,
    two_streams,
)
from pure.models.flux2.config import Flux2Config, sharding

__all__ = ["Conditioning", "flux2"]

EMBEDDER = "time_guidance_embed."
SHARED = ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")


def flux2(config: Flux2Config | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a FLUX.2 transformer; see `Flux2Config.read` for the config and its errors.

    >>> flux2({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    found = Flux2Config.read(config)
    double = Double(modulations=shared_modulations, activate=swiglu, maps=("linear_in", "linear_out"))
    prepare = Prepare(axes=found.axes_dims_rope, theta=found.rope_theta, embedder=EMBEDDER)
    embed = Embed(embedder=EMBEDDER, shared=tuple(f"{name}.linear" for name in SHARED))
    blocks = stack(found.num_layers, double, found.num_single_layers, single)
    return two_streams(prepare, embed, blocks, head, sharding(found))


def shared_modulations(params: Params, context: Context, tokens: int) -> Sequence[Sequence[torch.Tensor]]:
    """Return what all double blocks have in common; see `Double`."""
    return [of_stream.chunk(6, dim=-1) for of_stream in context.shared[:2]]


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on text and image as one sequence, attention and feed-forward network side by side."""
    both, rotary = torch.cat([hidden.text, hidden.image], dim=1), context.rotary.value
    shift, scale, gate = context.shared[2].chunk(3, dim=-1)
    wide = linear(params, "attn.to_qkv_mlp_proj", modulate(both, shift, scale))
    # Queries, keys, values and two halves of a network go in; values and one half go out.
    width, head = wide.shape[-1] - 2 * params["attn.to_out.weight"].shape[1], params["attn.norm_q.weight"].shape
    *qk, v = (x.unflatten(-1, (-1, *head)) for x in wide[..., : 3 * width].chunk(3, dim=-1))
    q, k = (rotate(head_norm(x, params[f"attn.norm_{n}.weight"]), rotary) for n, x in zip("qk", qk, strict=True))
    attended = attend(q, k, v).flatten(2)
    out = linear(params, "attn.to_out", torch.cat([attended, swiglu(wide[..., 3 * width :])], dim=-1))
    return parted(clip(both + gate * out), hidden)


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """Return the second half of the features, gated by the activated first half."""
    gate, wide = x.chunk(2, dim=-1)
    return F.silu(gate) * wide
