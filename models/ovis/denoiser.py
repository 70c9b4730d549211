"""Ovis-Image as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `OvisImageTransformer2DModel`,
in its order: predictions are equal to the last bit. The blocks are those of FLUX.1 with
gated feed-forward networks; the step is told by the timestep alone.

Shapes: B samples, N image tokens, T text tokens, S = T + N, D width, H heads, C width of a head.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Denoiser, Shared, state
from pure.models.common.layers import Attend, Params, embed_number, linear, modulate, rotary_tables
from pure.models.common.streams import Context, Hidden, head, joined_block, joint_block, stack, two_streams
from pure.models.ovis.config import OvisConfig, sharding


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


def ovis(config: OvisConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of an Ovis-Image transformer.

    Args:
        config: the contents of its `config.json`, or the record read from it.

    Raises:
        CheckpointError: the config has an option that is not implemented, or contradicts itself.

    >>> ovis({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    found = OvisConfig.read(config)
    blocks = stack(found.num_layers, double, found.num_single_layers, single)
    return two_streams(Prepare(found.axes_dims_rope), embed, blocks, head, sharding(found))


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


def double(params: Params, hidden: Hidden, context: Context, attend: Attend, last: bool = False) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other (see `pure.Ending`)."""
    norms = "norm1.linear", "norm1_context.linear"
    modulations = [linear(params, name, context.temb).chunk(6, dim=1) for name in norms]
    return joint_block(params, hidden, modulations, context.rotary.value, attend, feed, last)


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on text and image as one sequence, attention and feed-forward network side by side."""
    return joined_block(params, hidden, context, attend, gated)


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
