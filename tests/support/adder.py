"""A denoiser whose blocks add what they are told, and random parameters for any transformer."""

from collections.abc import Sequence

import torch

from pure import Block, Denoiser
from pure.models.common.config import TransformerConfig, parameter_shapes
from pure.testing.toys import TwoStreams, attend, image_of, normal


def drawn(config: TransformerConfig, scale: float) -> dict[str, torch.Tensor]:
    """Return random parameters of the transformer of a config."""
    return {
        name: scale * normal(*shape, seed=i) for i, (name, shape) in enumerate(sorted(parameter_shapes(config).items()))
    }


# Adder: every block adds a number and a multiple of the timestep to the image, a tenth of it to the text; float64.


def adder_prepare(params, conditioning):
    return {"text": conditioning}


def adder_embed(params, prepared, latents, timestep):
    return TwoStreams(image=latents, text=prepared["text"]), {"time": timestep}


def adder_block(params, hidden, context, attend):
    added = params["amount"] + params["drift"] * context["time"][:, None, None]
    return TwoStreams(image=hidden.image + added, text=hidden.text + added / 10)


def adder_head(params, hidden, context):
    return hidden.image


def adder(amounts: Sequence[float], drift: float = 0.0) -> tuple[Denoiser, dict[str, torch.Tensor]]:
    """Return a denoiser whose block i adds `amounts[i]` + `drift` x timestep, and its parameters.

    Conditioning is the text (B, 1, D), latents are (B, N, D).
    """
    params = {}
    for i, amount in enumerate(amounts):
        params[f"blocks.{i}.amount"] = torch.tensor(float(amount), dtype=torch.float64)
        params[f"blocks.{i}.drift"] = torch.tensor(drift, dtype=torch.float64)
    denoiser = Denoiser(
        prepare=adder_prepare,
        embed=adder_embed,
        blocks=tuple(Block(adder_block, f"blocks.{i}.") for i in range(len(amounts))),
        head=adder_head,
        attend=attend,
        probe=image_of,
        streams=("image", "text"),
        reads=("image",),
    )
    return denoiser, params
