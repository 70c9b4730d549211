"""Z-Image in miniature: a random diffusers transformer, its inputs, and models for the laws.

Shapes: B samples, latents (B, channels, height, width).
"""

from collections.abc import Sequence

import torch
from diffusers import ZImageTransformer2DModel

from pure.models.z_image.config import ZImageConfig
from pure.models.z_image.denoiser import Conditioning, z_image
from pure.testing import toys
from pure.testing.situation import Model
from tests.support.adder import drawn

CONFIG = {
    "all_patch_size": (2,),
    "all_f_patch_size": (1,),
    "in_channels": 4,
    "dim": 64,
    "n_layers": 3,
    "n_refiner_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "cap_feat_dim": 32,
    "axes_dims": [4, 4, 8],
    "axes_lens": [256, 32, 32],
}
LAW_CONFIG = {
    **CONFIG,
    "in_channels": 1,
    "dim": 16,
    "n_layers": 4,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 8,
    "axes_dims": [4, 2, 2],
    "t_scale": 5.0,  # steps should be alike, not unrelated
}


def transformer(seed: int = 0, **changes) -> ZImageTransformer2DModel:
    """A random diffusers transformer, `CONFIG` with changes; padding tokens are random, not 0 as they begin."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZImageTransformer2DModel(**{**CONFIG, **changes}).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("pad_token"):
                torch.nn.init.normal_(parameter)
    return model


def call(
    model: ZImageTransformer2DModel, texts: Sequence[int] = (8,), rows: int = 4, columns: int = 4, seed: int = 0
) -> dict:
    """Arguments of the transformer's forward, one sample for each length of text, at different timesteps."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(model.dtype)

    return {
        "x": [normal(config["in_channels"], 1, 2 * rows, 2 * columns) for _ in texts],
        "t": 1 - torch.linspace(0.9, 0.1, len(texts) + 2)[1:-1],
        "cap_feats": [normal(length, config["cap_feat_dim"]) for length in texts],
    }


def latents(call: dict) -> torch.Tensor:
    """The latents (B, channels, height, width) of arguments of the forward."""
    return torch.stack([each[:, 0] for each in call["x"]])


def conditioning(call: dict) -> Conditioning:
    """The conditioning that says the same as arguments of the forward."""
    texts, (height, width) = call["cap_feats"], call["x"][0].shape[2:]
    lengths = [len(text) for text in texts]
    return Conditioning(
        text=torch.nn.utils.rnn.pad_sequence(texts, batch_first=True),
        lengths=None if len(set(lengths)) == 1 else torch.tensor(lengths),
        ragged=len({-(-length // 32) for length in lengths}) > 1,
        grid=(height // 2, width // 2),
    )


def _model(name: str, ragged: bool) -> Model:
    params = drawn(ZImageConfig.read(LAW_CONFIG), 0.1)

    def conditioned(seeds: tuple[int, ...]) -> Conditioning:
        text = torch.stack([toys.normal(40 if ragged else 5, 8, seed=1000 + seed) for seed in seeds])
        lengths = torch.tensor([40 - 5 * (seed % 4) for seed in seeds]) if ragged else None
        return Conditioning(text=text, lengths=lengths, ragged=ragged, grid=(2, 3))

    def noise(seeds: tuple[int, ...]) -> torch.Tensor:
        return torch.stack([toys.normal(1, 4, 6, seed=3000 + seed) for seed in seeds])

    return Model(name=name, denoiser=z_image(LAW_CONFIG), params=params, conditioning=conditioned, latents=noise)


Z_IMAGE, Z_IMAGE_RAGGED = _model("z-image", ragged=False), _model("z-image-ragged", ragged=True)
