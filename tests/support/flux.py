"""FLUX in miniature for the laws: one dual block and three single ones, 8 numbers wide."""

import torch

import pure
from pure.models.flux.config import FluxConfig
from pure.models.flux.denoiser import Conditioning, flux
from pure.testing import toys
from pure.testing.situation import Model
from tests.support.adder import drawn

FLUX = {
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "pooled_projection_dim": 8,
    "axes_dims_rope": (2, 2, 4),
}


def _flux(guidance: bool) -> Model:
    config = {**FLUX, "guidance_embeds": guidance}
    params = drawn(FluxConfig.read(config), 0.12)
    ids = torch.cat([torch.zeros(3, 3), torch.cartesian_prod(torch.zeros(1), torch.arange(2.0), torch.arange(2.0))])
    text, pooled = toys.rows((3, 8), 1000), toys.rows((8,), 2000)

    def conditioning(seeds):
        scale = torch.tensor([2.0 + seed % 3 for seed in seeds]) if guidance else None
        return Conditioning(text=text(seeds), pooled=pooled(seeds), guidance=scale, ids=pure.Shared(value=ids))

    name = "flux-dev" if guidance else "flux-schnell"
    return Model(
        name=name, denoiser=flux(config), params=params, conditioning=conditioning, latents=toys.rows((4, 4), 3000)
    )


FLUX_DEV, FLUX_SCHNELL = _flux(True), _flux(False)
