"""FLUX.2 (dev and klein) as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `Flux2Transformer2DModel`, in
its order: predictions are equal to the last bit. One departure costs nothing: the blocks
that see text and image as one sequence keep them as two streams, so that all blocks have
one signature; the numbers are the same.

Shapes: B samples, N image tokens, R reference tokens, T text tokens, S = T + N + R, D width,
H heads, C width of a head.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Denoiser, Shared, state
from pure.models.common import streams
from pure.models.common.layers import Attend, Params, clip, embed_number, linear, modulate, rotary_tables, rotate
from pure.models.common.streams import Hidden, joint_block, parted, stack, two_streams
from pure.models.flux2.config import Flux2Config, sharding
from pure.tree import static


@state
class Conditioning:
    """What an image is made from, besides noise."""

    text: torch.Tensor  # (B, T, width of the text encoder's layers side by side)
    guidance: torch.Tensor | None  # (B,) embedded guidance scale; None where the checkpoint embeds none
    reference: torch.Tensor | None  # (B, R, channels) packed latents of the images to edit; None for none
    ids: Shared  # (S, 4) positions: text first, then the image, then the references


@state
class Prepared:
    """What does not depend on the step."""

    text: torch.Tensor  # (B, T, D)
    guidance: torch.Tensor | None  # (B, D)
    reference: torch.Tensor | None  # (B, R, channels)
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C)


@state
class Context:
    """What every block of a step reads: the modulations are those of the whole model."""

    temb: torch.Tensor  # (B, D): time and guidance, embedded, summed and activated
    image: torch.Tensor  # (B, 6 D) shifts, scales and gates of the image in double blocks
    text: torch.Tensor  # (B, 6 D) likewise of the text
    both: torch.Tensor  # (B, 3 D) shift, scale and gate of single blocks
    rotary: Shared  # as in Prepared
    tokens: int | None = static(default=None)  # N where references follow, None where the image is all there is


def flux2(config: Flux2Config | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a FLUX.2 transformer.

    Args:
        config: the contents of its `config.json`, or the record read from it.

    Raises:
        CheckpointError: the config has an option that is not implemented, or contradicts itself.

    >>> flux2({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    found = Flux2Config.read(config)
    prepare = Prepare(found.axes_dims_rope, found.rope_theta)
    blocks = stack(found.num_layers, double, found.num_single_layers, single)
    return two_streams(prepare, embed, blocks, head, sharding(found))


@attrs.frozen
class Prepare:
    """Project text and guidance, and tabulate the rotary embedding; `axes` are its widths, which sum to C."""

    axes: tuple[int, ...]
    theta: float

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step."""
        text, guidance = conditioning.text, conditioning.guidance
        if guidance is not None:
            guidance = embed_number(params, "time_guidance_embed.guidance_embedder", guidance, text.dtype)
        return Prepared(
            text=linear(params, "context_embedder", text),
            guidance=guidance,
            reference=conditioning.reference,
            rotary=Shared(value=rotary_tables(conditioning.ids.value, self.axes, self.theta)),
        )


def embed(params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor) -> tuple[Hidden, Context]:
    """Embed latents (B, N, channels) and timesteps (B,), which run from 1 to 0."""
    temb = embed_number(params, "time_guidance_embed.timestep_embedder", timestep, latents.dtype)
    if prepared.guidance is not None:
        temb = temb + prepared.guidance
    temb, tokens = F.silu(temb), None
    if prepared.reference is not None:
        # Embedded together with the image, not once in `prepare`: products of other sizes may round otherwise.
        latents, tokens = torch.cat([latents, prepared.reference.to(latents.dtype)], dim=1), latents.shape[1]
    context = Context(
        temb=temb,
        image=linear(params, "double_stream_modulation_img.linear", temb),
        text=linear(params, "double_stream_modulation_txt.linear", temb),
        both=linear(params, "single_stream_modulation.linear", temb),
        rotary=prepared.rotary,
        tokens=tokens,
    )
    return Hidden(image=linear(params, "x_embedder", latents), text=prepared.text), context


def double(params: Params, hidden: Hidden, context: Context, attend: Attend, last: bool = False) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other (see `pure.Ending`)."""
    modulations = [of_stream.chunk(6, dim=-1) for of_stream in (context.image, context.text)]
    names = ("linear_in", "linear_out")
    return joint_block(params, hidden, modulations, context.rotary.value, attend, last, swiglu, maps=names)


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on text and image as one sequence, attention and feed-forward network side by side."""
    both, rotary = torch.cat([hidden.text, hidden.image], dim=1), context.rotary.value
    shift, scale, gate = context.both.chunk(3, dim=-1)
    wide = linear(params, "attn.to_qkv_mlp_proj", modulate(both, shift, scale))
    # Queries, keys, values and two halves of a network go in; values and one half go out.
    width, head = wide.shape[-1] - 2 * params["attn.to_out.weight"].shape[1], params["attn.norm_q.weight"].shape
    q, k, v = (x.unflatten(-1, (-1, *head)) for x in wide[..., : 3 * width].chunk(3, dim=-1))
    q = F.rms_norm(q, head, params["attn.norm_q.weight"], 1e-6)
    k = F.rms_norm(k, head, params["attn.norm_k.weight"], 1e-6)
    attended = attend(rotate(q, rotary), rotate(k, rotary), v).flatten(2)
    out = linear(params, "attn.to_out", torch.cat([attended, swiglu(wide[..., 3 * width :])], dim=-1))
    return parted(clip(both + gate.unsqueeze(1) * out), hidden)


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """Return the second half of the features, gated by the activated first half."""
    gate, wide = x.chunk(2, dim=-1)
    return F.silu(gate) * wide


def head(params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
    """Return the predicted velocity of the image (B, N, channels)."""
    return streams.head(params, hidden, context)[:, : context.tokens]
