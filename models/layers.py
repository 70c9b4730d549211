"""What the families have in common: affine maps, embeddings of numbers, modulation, rotary positions.

Every function takes a parameter group and a name in it; the order of operations is that
of diffusers, so that predictions are equal to the last bit.

Shapes: B samples, S tokens, D width, H heads, C width of a head.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

Params = Mapping[str, torch.Tensor]

FREQUENCIES = 128  # sines and cosines each that stand for a timestep
THETA = 10000.0
FP16_MAX = 65504.0


def linear(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply the affine map `name` to the last dimension; it has a bias if there is one under its name."""
    return F.linear(x, params[name + ".weight"], params.get(name + ".bias"))


def perceptron(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply two affine maps with a SiLU between them."""
    return linear(params, name + ".linear_2", F.silu(linear(params, name + ".linear_1", x)))


def embed_number(params: Params, name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Embed one number per sample, (B,) to (B, D), by way of sines and cosines."""
    exponents = -math.log(THETA) * torch.arange(FREQUENCIES, dtype=torch.float32, device=value.device)
    angles = (value.to(dtype) * 1000)[:, None].float() * torch.exp(exponents / FREQUENCIES)
    return perceptron(params, name, torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalise tokens (B, tokens, D), then scale and shift them by (B, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def feed(
    params: Params, name: str, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    """Add the gated feed-forward network `name` to tokens (B, tokens, D)."""
    wide = F.gelu(linear(params, name + ".net.0.proj", modulate(x, shift, scale)), approximate="tanh")
    return x + gate.unsqueeze(1) * linear(params, name + ".net.2", wide)


def clip(x: torch.Tensor) -> torch.Tensor:
    """Keep fp16 finite, as the reference does; other types pass."""
    return x.clip(-FP16_MAX, FP16_MAX) if x.dtype == torch.float16 else x


def rotary_tables(ids: torch.Tensor, axes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines (S, 1, C) of positions (S, axes), each repeated for the two halves of a pair."""
    cosines, sines = [], []
    for axis, width in enumerate(axes):
        rates = 1.0 / (THETA ** (torch.arange(0, width, 2, dtype=torch.float64, device=ids.device) / width))
        angles = torch.outer(ids[:, axis].float(), rates)
        cosines.append(angles.cos().repeat_interleave(2, dim=1).float())
        sines.append(angles.sin().repeat_interleave(2, dim=1).float())
    return torch.cat(cosines, dim=-1).unsqueeze(1), torch.cat(sines, dim=-1).unsqueeze(1)


def rotate(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate pairs of features of x (B, S, H, C) by the angles of its token."""
    cosine, sine = tables
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(3)
    return (x.float() * cosine + turned.float() * sine).to(x.dtype)
