"""Ovis-Image as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `OvisImageTransformer2DModel`,
in its order: predictions are equal to the last bit. The blocks are those of FLUX.1 with
gated feed-forward networks; the step is told by the timestep alone.

Shapes: B samples, N image tokens, T text tokens, S = T + N, D width, H heads, C width of a head.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from pure import Denoiser
from pure.models.common.layers import Attend, Params, linear
from pure.models.common.streams import (
    Context,
    Hidden,
    Prepare,
    embed,
    head,
    joined_block,
    modulated_block,
    stack,
    two_streams,
)
from pure.models.ovis.config import OvisConfig, sharding


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
    return two_streams(Prepare(found.axes_dims_rope, embed_text), embed, blocks, head, sharding(found))


def embed_text(params: Params, text: torch.Tensor) -> torch.Tensor:
    """Normalise and project text embeddings to (B, T, D)."""
    text = F.rms_norm(text, text.shape[-1:], params["context_embedder_norm.weight"], 1e-6)
    return linear(params, "context_embedder", text)


def double(params: Params, hidden: Hidden, context: Context, attend: Attend, last: bool = False) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other (see `pure.Ending`)."""
    return modulated_block(params, hidden, context, attend, last, gated)


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on text and image as one sequence, attention and feed-forward network side by side."""
    return joined_block(params, hidden, context, attend, gated)


def gated(x: torch.Tensor) -> torch.Tensor:
    """Return the first half of the features, gated by the activated second half."""
    wide, gate = x.chunk(2, dim=-1)
    return wide * F.silu(gate)
