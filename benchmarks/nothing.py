"""A denoiser whose pieces do nothing, to measure what a step costs besides the model."""

from typing import Any

import torch

import pure
from pure.attention import attend
from pure.models.adapt.whole import as_it_is
from pure.models.common.streams import image_stream


@pure.state
class Hidden:
    """One stream."""

    image: torch.Tensor  # (B, N, D)


@pure.state
class Empty:
    """No conditioning, no context."""


def embed(params: pure.Params, prepared: Empty, latents: torch.Tensor, timestep: torch.Tensor) -> tuple[Hidden, Empty]:
    """Call the latents hidden."""
    return Hidden(image=latents), prepared


def block(params: pure.Params, hidden: Hidden, context: Empty, attend: Any) -> Hidden:
    """Return what it got."""
    return hidden


def head(params: pure.Params, hidden: Hidden, context: Empty) -> torch.Tensor:
    """Call hidden the prediction."""
    return hidden.image


def nothing() -> tuple[pure.Denoiser, dict[str, torch.Tensor], Empty, torch.Tensor]:
    """Return denoiser, parameters, conditioning and latents of a model of 18 empty blocks."""
    denoiser = pure.Denoiser(
        prepare=as_it_is,
        embed=embed,
        blocks=tuple(pure.Block(block, "") for _ in range(18)),
        head=head,
        attend=attend,
        probe=image_stream,
        streams=("image",),
    )
    return denoiser, {}, Empty(), torch.zeros(1, 4, 8)
