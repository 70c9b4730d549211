"""Ovis-Image in miniature: a random diffusers transformer, its inputs, and a model for the laws.

Shapes: B samples, N image tokens, T text tokens.
"""

import torch
from diffusers import OvisImageTransformer2DModel

import pure
from pure.models.ovis import Conditioning, ovis
from pure.models.ovis.config import OvisConfig
from pure.testing import toys
from pure.testing.situation import Model
from tests.support.adder import drawn
from tests.support.flux2 import slowed

CONFIG = {
    "patch_size": 1,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}
LAW_CONFIG = {
    **CONFIG,
    "num_layers": 1,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "axes_dims_rope": (2, 2, 4),
}


def transformer(seed: int = 0, **changes) -> OvisImageTransformer2DModel:
    """A random diffusers transformer, `CONFIG` with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OvisImageTransformer2DModel(**{**CONFIG, **changes}).eval()


def positions(text: int, rows: int, columns: int) -> torch.Tensor:
    """Positions (S, 3): text on the diagonal of rows and columns, the image on a grid."""
    along = torch.arange(text).float()[:, None] * torch.tensor([0.0, 1.0, 1.0])
    grid = torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
    return torch.cat([along, grid])


def call(
    model: OvisImageTransformer2DModel, batch: int = 1, text: int = 8, rows: int = 4, columns: int = 4, seed: int = 0
) -> dict:
    """Arguments of the transformer's forward: random inputs, samples at different timesteps."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(model.dtype)

    ids = positions(text, rows, columns)
    return {
        "hidden_states": normal(batch, rows * columns, config["in_channels"]),
        "encoder_hidden_states": normal(batch, text, config["joint_attention_dim"]),
        "timestep": torch.linspace(0.9, 0.1, batch + 2)[1:-1].to(model.dtype),
        "img_ids": ids[text:],
        "txt_ids": ids[:text],
    }


def conditioning(call: dict) -> Conditioning:
    """The conditioning that says the same as arguments of the forward."""
    ids = pure.Shared(value=torch.cat([call["txt_ids"], call["img_ids"]]))
    return Conditioning(text=call["encoder_hidden_states"], ids=ids)


def inputs(call: dict) -> tuple[Conditioning, torch.Tensor, torch.Tensor]:
    """Conditioning, latents and timesteps that say the same as arguments of the transformer's forward."""
    return conditioning(call), call["hidden_states"], call["timestep"]


def _model() -> Model:
    params = slowed(drawn(OvisConfig.read(LAW_CONFIG), 0.15))
    ids, text = pure.Shared(value=positions(3, 2, 2)), toys.rows((3, 8), 1000)

    def conditioned(seeds: tuple[int, ...]) -> Conditioning:
        return Conditioning(text=text(seeds), ids=ids)

    return Model(
        name="ovis", denoiser=ovis(LAW_CONFIG), params=params, conditioning=conditioned, latents=toys.rows((4, 4), 3000)
    )


OVIS = _model()
