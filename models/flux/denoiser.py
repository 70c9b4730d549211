"""FLUX.1 as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `FluxTransformer2DModel`, in
its order: predictions are equal to the last bit. What does not depend on the step is
computed once per request, in `Prepare`.

Shapes: B samples, N image tokens, T text tokens, S = T + N, D width, H heads, C width of a head.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Denoiser, Shared, state
from pure.models.common.layers import Attend, Params, embed_number, gelu, linear, perceptron, rotary_tables
from pure.models.common.streams import Context, Hidden, head, joined_block, modulated_block, stack, two_streams
from pure.models.flux.config import FluxConfig, sharding


@state
class Conditioning:
    """What an image is made from, besides noise."""

    text: torch.Tensor  # (B, T, width of the text encoder)
    pooled: torch.Tensor  # (B, width of the pooled embedding)
    guidance: torch.Tensor | None  # (B,) embedded guidance scale; None where the checkpoint embeds none
    ids: Shared  # (S, 3) fp32 positions, text tokens first


@state
class Prepared:
    """What does not depend on the step."""

    text: torch.Tensor  # (B, T, D)
    pooled: torch.Tensor  # (B, D)
    guidance: torch.Tensor | None  # (B, D)
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C)


def flux(config: FluxConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a FLUX.1 transformer.

    Args:
        config: the contents of its `config.json`, or the record read from it.

    Raises:
        CheckpointError: the config has an option that is not implemented, or contradicts itself.

    >>> flux({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    found = FluxConfig.read(config)
    blocks = stack(found.num_layers, double, found.num_single_layers, single)
    return two_streams(Prepare(found.axes_dims_rope), embed, blocks, head, sharding(found))


@attrs.frozen
class Prepare:
    """Project text and guidance, and tabulate the rotary embedding; `axes` are its widths, which sum to C."""

    axes: tuple[int, ...]

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step."""
        guidance = conditioning.guidance
        if guidance is not None:
            guidance = embed_number(params, "time_text_embed.guidance_embedder", guidance, conditioning.pooled.dtype)
        return Prepared(
            text=linear(params, "context_embedder", conditioning.text),
            pooled=perceptron(params, "time_text_embed.text_embedder", conditioning.pooled),
            guidance=guidance,
            rotary=Shared(value=rotary_tables(conditioning.ids.value, self.axes)),
        )


def embed(params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor) -> tuple[Hidden, Context]:
    """Embed latents (B, N, channels) and timesteps (B,), which run from 1 to 0."""
    temb = embed_number(params, "time_text_embed.timestep_embedder", timestep, latents.dtype)
    if prepared.guidance is not None:
        temb = temb + prepared.guidance
    hidden = Hidden(image=linear(params, "x_embedder", latents), text=prepared.text)
    # Every block begins by activating temb: once is enough.
    return hidden, Context(temb=F.silu(temb + prepared.pooled), rotary=prepared.rotary)


def double(params: Params, hidden: Hidden, context: Context, attend: Attend, last: bool = False) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other (see `pure.Ending`)."""
    return modulated_block(params, hidden, context, attend, last, gelu, linear_of_copy)


def linear_of_copy(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply the affine map `name` to a slice of tokens, which the reference copies first, other than its successors."""
    return linear(params, name, x.contiguous())


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on text and image as one sequence, attention and perceptron side by side."""
    return joined_block(params, hidden, context, attend, gelu)
