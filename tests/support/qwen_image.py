"""Qwen-Image in miniature: random transformers, inputs for them, and models for the laws.

Shapes: B samples, N tokens of the picture, R tokens of reference pictures, T text tokens.
"""

from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel

import pure
from pure.models.qwen_image.config import QwenImageConfig
from pure.models.qwen_image.denoiser import Conditioning, positions, qwen_image
from pure.testing import toys
from pure.testing.situation import Model
from tests.support.adder import drawn

CONFIG: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (8, 12, 12),
}


def transformer(seed: int = 0, **changes) -> QwenImageTransformer2DModel:
    """A random diffusers transformer, `CONFIG` with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QwenImageTransformer2DModel(**{**CONFIG, **changes}).eval()


def call(
    model: QwenImageTransformer2DModel,
    batch: int = 1,
    text: int = 7,
    pictures: tuple[tuple[int, int], ...] = ((3, 4),),
    lengths: tuple[int, ...] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of the transformer's forward: random inputs, samples at different timesteps.

    `pictures` are (rows, columns) of tokens, the one that is made first; `lengths` how many
    text tokens of each sample are not padding.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(model.dtype)

    tokens = sum(rows * columns for rows, columns in pictures)
    mask = None if lengths is None else torch.arange(text)[None] < torch.tensor(lengths)[:, None]
    return {
        "hidden_states": normal(batch, tokens, config["in_channels"]),
        "encoder_hidden_states": normal(batch, text, config["joint_attention_dim"]),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.linspace(0.9, 0.1, batch + 2)[1:-1].to(model.dtype),
        "img_shapes": [[(1, rows, columns) for rows, columns in pictures]] * batch,
    }


def latents(call: dict[str, Any]) -> torch.Tensor:
    """The tokens (B, N, channels) of the picture that is made."""
    (_, rows, columns), *_ = call["img_shapes"][0]
    return call["hidden_states"][:, : rows * columns]


def conditioning(call: dict[str, Any]) -> Conditioning:
    """The conditioning that says the same as arguments of the transformer's forward."""
    text, pictures = call["encoder_hidden_states"], [shape[1:] for shape in call["img_shapes"][0]]
    tokens = latents(call).shape[1]
    return Conditioning(
        text=text,
        mask=call["encoder_hidden_states_mask"],
        reference=call["hidden_states"][:, tokens:] if len(pictures) > 1 else None,
        ids=pure.Shared(value=positions(text.shape[1], *pictures)),
    )


def _model(name: str, *references: tuple[int, int], masked: bool = False, **changes) -> Model:
    """A model for the laws: 2 x 2 tokens, 3 text tokens, of which some samples use fewer if `masked`."""
    small = {"in_channels": 4, "out_channels": 1, "attention_head_dim": 8, "joint_attention_dim": 8}
    config = {**CONFIG, **small, "axes_dims_rope": (2, 2, 4), "num_layers": 4, **changes}
    params = drawn(QwenImageConfig.read(config), 0.12)
    ids = positions(3, (2, 2), *references)
    tokens = sum(rows * columns for rows, columns in references)

    def rows(seeds: tuple[int, ...], offset: int, *shape: int) -> torch.Tensor:
        return torch.stack([toys.normal(*shape, seed=offset + seed) for seed in seeds])

    def conditioning(seeds: tuple[int, ...]) -> Conditioning:
        lengths = torch.tensor([[1 + seed % 3] for seed in seeds])
        return Conditioning(
            text=rows(seeds, 1000, 3, 8),
            mask=torch.arange(3)[None] < lengths if masked else None,
            reference=rows(seeds, 2000, tokens, 4) if references else None,
            ids=pure.Shared(value=ids),
        )

    return Model(
        name=name,
        denoiser=qwen_image(config),
        params=params,
        conditioning=conditioning,
        latents=lambda seeds: rows(seeds, 3000, 4, 4),
    )


QWEN_IMAGE = _model("qwen-image", masked=True)
QWEN_EDIT = _model("qwen-edit", (1, 2), (2, 1), zero_cond_t=True)
