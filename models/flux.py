"""FLUX.1 as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `FluxTransformer2DModel`, in
its order: predictions are equal to the last bit. What does not depend on the step is
computed once per request, in `Prepare`.

Shapes: B samples, N image tokens, T text tokens, S = T + N, D width, H heads, C width of a head.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Block, Denoiser, Shared, state
from pure.models.attention import attend
from pure.models.flux_parameters import check_config
from pure.models.layers import clip, embed_number, feed, linear, modulate, perceptron, rotary_tables, rotate

Params = Mapping[str, torch.Tensor]
Attend = Callable[..., torch.Tensor]


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


@state
class Hidden:
    """The two streams."""

    image: torch.Tensor  # (B, N, D)
    text: torch.Tensor  # (B, T, D)


@state
class Context:
    """What every block of a step reads."""

    temb: torch.Tensor  # (B, D): time, guidance and pooled text, embedded, summed and activated
    rotary: Shared  # as in Prepared


def flux(config: Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a FLUX.1 transformer.

    Args:
        config: the contents of its `config.json`; what is left out has diffusers' defaults.

    Raises:
        CheckpointError: the config has an option that is not implemented, or contradicts itself.

    >>> flux({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    settings = check_config(config)
    doubles = tuple(Block(double, f"transformer_blocks.{i}.") for i in range(settings["num_layers"]))
    singles = tuple(Block(single, f"single_transformer_blocks.{i}.") for i in range(settings["num_single_layers"]))
    return Denoiser(
        prepare=Prepare(tuple(settings["axes_dims_rope"])),
        embed=embed,
        blocks=doubles + singles,
        head=head,
        attend=attend,
        probe=image_stream,
        streams=("image", "text"),
        reads=("image",),
    )


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


def double(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other."""
    image, text, rotary = hidden.image, hidden.text, context.rotary.value
    shift, scale, gate, *image_rest = linear(params, "norm1.linear", context.temb).chunk(6, dim=1)
    text_shift, text_scale, text_gate, *text_rest = linear(params, "norm1_context.linear", context.temb).chunk(6, dim=1)
    x, y = modulate(image, shift, scale), modulate(text, text_shift, text_scale)
    q = torch.cat([heads(params, "add_q_proj", y, "norm_added_q"), heads(params, "to_q", x, "norm_q")], dim=1)
    k = torch.cat([heads(params, "add_k_proj", y, "norm_added_k"), heads(params, "to_k", x, "norm_k")], dim=1)
    v = torch.cat([heads(params, "add_v_proj", y), heads(params, "to_v", x)], dim=1)
    attended = attend(rotate(q, rotary), rotate(k, rotary), v).flatten(2)
    tokens = text.shape[1]
    x, y = attended[:, tokens:].contiguous(), attended[:, :tokens].contiguous()
    image = image + gate.unsqueeze(1) * linear(params, "attn.to_out.0", x)
    text = text + text_gate.unsqueeze(1) * linear(params, "attn.to_add_out", y)
    image, text = feed(params, "ff", image, *image_rest), feed(params, "ff_context", text, *text_rest)
    return Hidden(image=image, text=clip(text))


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on text and image as one sequence, attention and perceptron side by side."""
    both, rotary = torch.cat([hidden.text, hidden.image], dim=1), context.rotary.value
    shift, scale, gate = linear(params, "norm.linear", context.temb).chunk(3, dim=1)
    x = modulate(both, shift, scale)
    wide = F.gelu(linear(params, "proj_mlp", x), approximate="tanh")
    q, k = heads(params, "to_q", x, "norm_q"), heads(params, "to_k", x, "norm_k")
    attended = attend(rotate(q, rotary), rotate(k, rotary), heads(params, "to_v", x)).flatten(2)
    out = gate.unsqueeze(1) * linear(params, "proj_out", torch.cat([attended, wide], dim=2))
    both = clip(both + out)
    tokens = hidden.text.shape[1]
    return Hidden(image=both[:, tokens:], text=both[:, :tokens])


def head(params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
    """Return the predicted velocity (B, N, channels)."""
    scale, shift = linear(params, "norm_out.linear", context.temb).chunk(2, dim=1)
    return linear(params, "proj_out", modulate(hidden.image, shift, scale))


def image_stream(hidden: Hidden) -> torch.Tensor:
    """Return the stream whose change is measured."""
    return hidden.image


def heads(params: Params, name: str, x: torch.Tensor, norm: str = "") -> torch.Tensor:
    """Project tokens (B, S, D) and split them into heads (B, S, H, C), normalised if `norm` names a weight."""
    width = params["attn.norm_q.weight"].shape
    x = linear(params, "attn." + name, x).unflatten(-1, (-1, *width))
    return F.rms_norm(x, width, params["attn." + norm + ".weight"], 1e-6) if norm else x
