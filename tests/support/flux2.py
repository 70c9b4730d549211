"""FLUX.2 in miniature: a random diffusers transformer, its inputs, and models for the laws.

Shapes: B samples, N image tokens, R reference tokens, T text tokens.
"""

import torch
from diffusers import Flux2Transformer2DModel

import pure
from pure.models.flux2.config import Flux2Config
from pure.models.flux2.denoiser import Conditioning, flux2
from pure.testing import toys
from pure.testing.situation import Model
from tests.support.adder import drawn

CONFIG = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "timestep_guidance_channels": 256,
    "axes_dims_rope": (4, 4, 4, 4),
    "guidance_embeds": True,
}
LAW_CONFIG = {
    **CONFIG,
    "num_layers": 1,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "timestep_guidance_channels": 32,
    "axes_dims_rope": (2, 2, 2, 2),
}


def transformer(seed: int = 0, **changes) -> Flux2Transformer2DModel:
    """A random diffusers transformer, `CONFIG` with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Flux2Transformer2DModel(**{**CONFIG, **changes}).eval()


def positions(text: int, rows: int, columns: int, references: tuple[tuple[int, int], ...] = ()) -> torch.Tensor:
    """Positions (S, 4) of text, an image, and references: each image has a time of its own."""

    def grid(time: int, rows: int, columns: int) -> torch.Tensor:
        return torch.cartesian_prod(torch.tensor([time]), torch.arange(rows), torch.arange(columns), torch.arange(1))

    zero = torch.arange(1)
    images = [grid(0, rows, columns), *(grid(10 * (i + 1), *size) for i, size in enumerate(references))]
    return torch.cat([torch.cartesian_prod(zero, zero, zero, torch.arange(text)), *images])


def call(
    model: Flux2Transformer2DModel,
    batch: int = 1,
    text: int = 8,
    rows: int = 4,
    columns: int = 4,
    references: tuple[tuple[int, int], ...] = (),
    seed: int = 0,
) -> dict:
    """Arguments of the transformer's forward: random inputs, samples at different timesteps; references follow."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(model.dtype)

    ids = positions(text, rows, columns, references)
    return {
        "hidden_states": normal(batch, len(ids) - text, config["in_channels"]),
        "encoder_hidden_states": normal(batch, text, config["joint_attention_dim"]),
        "timestep": torch.linspace(0.9, 0.1, batch + 2)[1:-1].to(model.dtype),
        "img_ids": ids[text:],
        "txt_ids": ids[:text],
        "guidance": torch.linspace(1.5, 4.5, batch) if config["guidance_embeds"] else None,
    }


def conditioning(call: dict, tokens: int | None = None) -> Conditioning:
    """The conditioning that says the same as arguments of the forward; references begin after `tokens`."""
    return Conditioning(
        text=call["encoder_hidden_states"],
        guidance=call["guidance"],
        reference=None if tokens is None else call["hidden_states"][:, tokens:],
        ids=pure.Shared(value=torch.cat([call["txt_ids"], call["img_ids"]])),
    )


def inputs(call: dict, tokens: int | None = None) -> tuple[Conditioning, torch.Tensor, torch.Tensor]:
    """Conditioning, latents and timesteps that say the same as arguments of the forward."""
    return conditioning(call, tokens), call["hidden_states"][:, :tokens], call["timestep"]


def slowed(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters whose timestep is heard most at slow frequencies: steps should be alike, not unrelated."""
    name = next(name for name in params if name.endswith("timestep_embedder.linear_1.weight"))
    weight = params[name]  # (D, frequencies)
    rates = 1000 * 10000 ** -torch.linspace(0, 1, weight.shape[1] // 2 + 1)[:-1]
    return {**params, name: 3 * weight / (1 + rates).repeat(2)}


def _model(name: str, guidance: bool, reference: bool) -> Model:
    config = {**LAW_CONFIG, "guidance_embeds": guidance}
    params = slowed(drawn(Flux2Config.read(config), 0.3))
    ids = pure.Shared(value=positions(3, 2, 2, ((1, 2),) if reference else ()))
    text, images = toys.rows((3, 8), 1000), toys.rows((2, 4), 2000)

    def conditioned(seeds: tuple[int, ...]) -> Conditioning:
        scale = torch.tensor([2.0 + seed % 3 for seed in seeds]) if guidance else None
        images_of = images(seeds) if reference else None
        return Conditioning(text=text(seeds), guidance=scale, reference=images_of, ids=ids)

    return Model(
        name=name, denoiser=flux2(config), params=params, conditioning=conditioned, latents=toys.rows((4, 4), 3000)
    )


FLUX2_DEV = _model("flux2-dev", guidance=True, reference=False)
FLUX2_KLEIN = _model("flux2-klein", guidance=False, reference=True)
