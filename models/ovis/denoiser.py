"""Ovis-Image as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `OvisImageTransformer2DModel`,
in its order: predictions are equal to the last bit. The blocks are those of FLUX.1 with
gated feed-forward networks; of the step they are given the timestep alone.

Shapes: B samples, T text tokens, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from pure import Denoiser
from pure.models.common.layers import Params
from pure.models.common.streams import Double, Embed, Prepare, Single, head, project_text, stack, two_streams
from pure.models.ovis.config import OvisConfig, sharding


def ovis(config: OvisConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of an Ovis-Image transformer; see `OvisConfig.read` for the config and its errors.

    >>> ovis({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    found = OvisConfig.read(config)
    blocks = stack(found.num_layers, Double(activate=gated), found.num_single_layers, Single(gated))
    return two_streams(
        Prepare(axes=found.axes_dims_rope, embed_text=embed_text), Embed(), blocks, head, sharding(found)
    )


def embed_text(params: Params, text: torch.Tensor) -> torch.Tensor:
    """Normalise and project text embeddings to (B, T, D)."""
    text = F.rms_norm(text, text.shape[-1:], params["context_embedder_norm.weight"], 1e-6)
    return project_text(params, text)


def gated(x: torch.Tensor) -> torch.Tensor:
    """Return the first half of the features, gated by the activated second half."""
    wide, gate = x.chunk(2, dim=-1)
    return wide * F.silu(gate)
