"""FLUX.1 as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `FluxTransformer2DModel`, in
its order: predictions are equal to the last bit. What does not depend on the step is
computed once per request, in `Prepare`. The pieces are those of `pure.models.common.streams`,
which the families after it share.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from pure import Denoiser
from pure.models.common.layers import Params, linear_of_copy, modulate, modulations
from pure.models.common.streams import (
    Conditioning,
    Context,
    Double,
    Embed,
    Hidden,
    Prepare,
    Single,
    head,
    stack,
    two_streams,
)
from pure.models.flux.config import FluxConfig, sharding
from pure.plan import Published

__all__ = ["Conditioning", "flux"]

EMBEDDER = "time_text_embed."


@attrs.frozen
class Modulated:
    """What the first block's attention reads of the image: a record, so that a saved state names the same one."""

    published = Published(polynomial=(498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861), threshold=0.4)

    def __call__(self, params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
        """Return the image (B, N, D), normalised and modulated."""
        shift, scale, *_ = modulations(params, "transformer_blocks.0.norm1.linear", context.temb, 6)
        return modulate(hidden.image, shift, scale)


def flux(config: FluxConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a FLUX.1 transformer; see `FluxConfig.read` for the config and its errors.

    >>> flux({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    found = FluxConfig.read(config)
    blocks = stack(found.num_layers, Double(project=linear_of_copy), found.num_single_layers, Single())
    prepare = Prepare(axes=found.axes_dims_rope, embedder=EMBEDDER)
    return two_streams(prepare, Embed(embedder=EMBEDDER), blocks, head, sharding(found), modulated=Modulated())
