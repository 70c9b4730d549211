"""Ovis-Image as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `OvisImageTransformer2DModel`,
in its order: predictions are equal to the last bit. The blocks are those of FLUX.1 with
gated feed-forward networks; the step is told by the timestep alone.

Shapes: B samples, N image tokens, T text tokens, S = T + N, D width, H heads, C width of a head.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Block, Denoiser, Shared, state
from pure.models.attention import attend
from pure.models.layers import attend_jointly, clip, embed_number, heads, linear, modulate, rotary_tables, rotate
from pure.models.ovis_parameters import check_config

Params = Mapping[str, torch.Tensor]
Attend = Callable[..., torch.Tensor]


@state
class Conditioning:
    """What an image is made from, besides noise."""

    text: torch.Tensor  # (B, T, width of the text encoder)
    ids: Shared  # (S, 3) positions, text tokens first


@state
class Prepared:
    """What does not depend on the step."""

    text: torch.Tensor  # (B, T, D)
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C)


@state
class Hidden:
    """The two streams."""

    image: torch.Tensor  # (B, N, D)
    text: torch.Tensor  # (B, T, D)


@state
class Context:
    """What every block of a step reads."""

    temb: torch.Tensor  # (B, D): time, embedded and activated
    rotary: Shared  # as in Prepared


def ovis(config: Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of an Ovis-Image transformer.

    Args:
        config: the contents of its `config.json`; what is left out has diffusers' defaults.

    Raises:
        CheckpointError: the config has an option that is not implemented, or contradicts itself.

    >>> ovis({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
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
    """Normalise and project the text, and tabulate the rotary embedding; `axes` are its widths, which sum to C."""

    axes: tuple[int, ...]

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step."""
        text = conditioning.text
        text = F.rms_norm(text, text.shape[-1:], params["context_embedder_norm.weight"], 1e-6)
        return Prepared(
            text=linear(params, "context_embedder", text),
            rotary=Shared(value=rotary_tables(conditioning.ids.value, self.axes)),
        )


def embed(params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor) -> tuple[Hidden, Context]:
    """Embed latents (B, N, channels) and timesteps (B,), which run from 1 to 0."""
    temb = embed_number(params, "timestep_embedder", timestep, latents.dtype)
    hidden = Hidden(image=linear(params, "x_embedder", latents), text=prepared.text)
    # Every block begins by activating temb: once is enough.
    return hidden, Context(temb=F.silu(temb), rotary=prepared.rotary)


def double(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other."""
    image, text = hidden.image, hidden.text
    shift, scale, gate, *image_rest = linear(params, "norm1.linear", context.temb).chunk(6, dim=1)
    text_shift, text_scale, text_gate, *text_rest = linear(params, "norm1_context.linear", context.temb).chunk(6, dim=1)
    x, y = modulate(image, shift, scale), modulate(text, text_shift, text_scale)
    x, y = attend_jointly(params, x, y, context.rotary.value, attend)
    image = feed(params, "ff", image + gate.unsqueeze(1) * x, *image_rest)
    text = feed(params, "ff_context", text + text_gate.unsqueeze(1) * y, *text_rest)
    return Hidden(image=image, text=clip(text))


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on text and image as one sequence, attention and feed-forward network side by side."""
    both, rotary = torch.cat([hidden.text, hidden.image], dim=1), context.rotary.value
    shift, scale, gate = linear(params, "norm.linear", context.temb).chunk(3, dim=1)
    x = modulate(both, shift, scale)
    wide = gated(linear(params, "proj_mlp", x))
    q, k = heads(params, "to_q", x, "norm_q"), heads(params, "to_k", x, "norm_k")
    attended = attend(rotate(q, rotary), rotate(k, rotary), heads(params, "to_v", x)).flatten(2)
    out = gate.unsqueeze(1) * linear(params, "proj_out", torch.cat([attended, wide], dim=2))
    both = clip(both + out)
    tokens = hidden.text.shape[1]
    return Hidden(image=both[:, tokens:], text=both[:, :tokens])


def feed(
    params: Params, name: str, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    """Add the gated feed-forward network `name` to tokens (B, tokens, D)."""
    wide = gated(linear(params, name + ".net.0.proj", modulate(x, shift, scale)))
    return x + gate.unsqueeze(1) * linear(params, name + ".net.2", wide)


def gated(x: torch.Tensor) -> torch.Tensor:
    """Return the first half of the features, gated by the activated second half."""
    wide, gate = x.chunk(2, dim=-1)
    return wide * F.silu(gate)


def head(params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
    """Return the predicted velocity (B, N, channels)."""
    scale, shift = linear(params, "norm_out.linear", context.temb).chunk(2, dim=1)
    return linear(params, "proj_out", modulate(hidden.image, shift, scale))


def image_stream(hidden: Hidden) -> torch.Tensor:
    """Return the stream whose change is measured."""
    return hidden.image
