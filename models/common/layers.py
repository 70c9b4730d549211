"""Layers that the families have in common: affine maps, embeddings of numbers, modulation, rotary positions.

Every function takes a parameter group and a name in it; the order of operations is that
of diffusers, so that predictions are equal to the last bit.

Shapes: B samples, S tokens, D width, H heads, C width of a head.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from pure.block import Params

THETA = 10000.0
FP16_MAX = 65504.0


def linear(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply the affine map `name` to the last dimension; it has a bias if there is one under its name."""
    return F.linear(x, params[name + ".weight"], params.get(name + ".bias"))


def perceptron(
    params: Params, name: str, x: torch.Tensor, activate: Callable[[torch.Tensor], torch.Tensor] = F.silu
) -> torch.Tensor:
    """Apply two affine maps with an activation between them."""
    return linear(params, name + ".linear_2", activate(linear(params, name + ".linear_1", x)))


def embed_number(params: Params, name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Embed one number per sample, (B,) to (B, D), by way of sines and cosines."""
    frequencies = params[name + ".linear_1.weight"].shape[-1] // 2
    return perceptron(params, name, sinusoids(value.to(dtype) * 1000, frequencies).to(dtype))


def sinusoids(value: torch.Tensor, frequencies: int) -> torch.Tensor:
    """Return cosines, then sines of numbers (...) at frequencies that fall from 1: (..., 2 frequencies), fp32."""
    exponents = -math.log(THETA) * torch.arange(frequencies, dtype=torch.float32, device=value.device)
    angles = value.float().unsqueeze(-1) * torch.exp(exponents / frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Divide the features of x by their root mean square, taken in fp32, and multiply by `weight`.

    `torch.nn.functional.rms_norm` rounds once less in half precision.
    """
    x = x * torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + eps)
    return (x.to(weight.dtype) if weight.dtype in (torch.float16, torch.bfloat16) else x) * weight


def modulations(params: Params, name: str, temb: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
    """Return `parts` modulations, each (B, 1, D), by the affine map `name` of an embedding (B, D)."""
    return linear(params, name, temb).unsqueeze(1).chunk(parts, dim=-1)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalise tokens (B, tokens, D), then scale and shift them by (B, 1 or tokens, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return GELU of x, by way of tanh."""
    return F.gelu(x, approximate="tanh")


def feed(
    params: Params,
    name: str,
    x: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    gate: torch.Tensor,
    *,
    activate: Callable[[torch.Tensor], torch.Tensor] = gelu,
    maps: tuple[str, str] = ("net.0.proj", "net.2"),
) -> torch.Tensor:
    """Add the feed-forward network `name` to tokens (B, tokens, D), modulated by (B, 1 or tokens, D) each.

    Args:
        params: of the block.
        name: of the network.
        x: tokens.
        shift: added before the network.
        scale: factor of the tokens before the network, less 1.
        gate: factor of the result.
        activate: applied between the two affine maps.
        maps: names of the two in the network.
    """
    wide = activate(linear(params, f"{name}.{maps[0]}", modulate(x, shift, scale)))
    return x + gate * linear(params, f"{name}.{maps[1]}", wide)


def clip(x: torch.Tensor) -> torch.Tensor:
    """Keep fp16 finite, as the reference does; other types pass."""
    return x.clip(-FP16_MAX, FP16_MAX) if x.dtype == torch.float16 else x


def cosines_and_sines(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosine and the sine of angles."""
    return angles.cos(), angles.sin()


def polar(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same by way of complex numbers, whose bits are others."""
    turns = torch.polar(torch.ones_like(angles), angles)
    return turns.real, turns.imag


def rotary_tables(
    ids: torch.Tensor,
    axes: tuple[int, ...],
    theta: float = THETA,
    dtype: torch.dtype = torch.float64,
    turn: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = cosines_and_sines,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines (..., S, 1, C), fp32, of positions (..., S, axes), repeated for the halves of a pair.

    Angles are taken in `dtype`.
    """
    cosines, sines = [], []
    for axis, width in enumerate(axes):
        rates = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=dtype, device=ids.device) / width))
        cosine, sine = turn(ids[..., axis, None].float() * rates)
        cosines.append(cosine.repeat_interleave(2, dim=-1).float())
        sines.append(sine.repeat_interleave(2, dim=-1).float())
    return torch.cat(cosines, dim=-1).unsqueeze(-2), torch.cat(sines, dim=-1).unsqueeze(-2)


def rotate(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate pairs of features of x (B, S, H, C) by the angles of its token."""
    cosine, sine = tables
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(3)
    return (x.float() * cosine + turned.float() * sine).to(x.dtype)


def after(tables: tuple[torch.Tensor, torch.Tensor], tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tables of `rotary_tables` without those of the first tokens."""
    cosine, sine = tables
    return cosine[tokens:], sine[tokens:]


def head_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Divide heads (B, S, H, C) by their root mean square, and multiply by `weight` (C,)."""
    return F.rms_norm(x, weight.shape, weight, 1e-6)


def heads(
    params: Params,
    name: str,
    x: torch.Tensor,
    norm: str = "",
    normalise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = head_norm,
) -> torch.Tensor:
    """Project tokens (B, S, D) and split them into heads (B, S, H, C), normalised if `norm` names a weight."""
    x = linear(params, "attn." + name, x).unflatten(-1, (-1, *params["attn.norm_q.weight"].shape))
    return normalise(x, params[f"attn.{norm}.weight"]) if norm else x


def linear_of_slice(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply the affine map `name` to a slice of tokens as torch does with weights that require a gradient.

    Of what is not contiguous it rounds the product before it adds the bias. Without a gradient it
    also takes the product in another way, hence the copy.
    """
    if x.is_contiguous():
        return linear(params, name, x)
    product, bias = F.linear(x.contiguous(), params[name + ".weight"]), params.get(name + ".bias")
    return product if bias is None else product + bias


def linear_of_copy(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply the affine map `name` to a slice of tokens, which the reference copies first."""
    return linear(params, name, x.contiguous())
