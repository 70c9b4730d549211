"""Qwen-Image and Qwen-Image-Edit as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `QwenImageTransformer2DModel`,
in its order: predictions are equal to the last bit, where the width of a head is a multiple
of 32, as it is in every checkpoint. With other widths they differ by rounding: the rotation
is done in real numbers, and a product of complex ones may be fused at the end of a row.
(Of complex numbers inductor makes no code.)

Edits are conditioned on reference pictures: their tokens follow those of the picture that
is made, through all blocks, and are dropped from the prediction.

Shapes: B samples, N tokens of the picture, R tokens of the reference pictures, T text tokens,
S = T + N + R, D width, H heads, C width of a head.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Block, Denoiser, Ending, PerToken, Shared, state, static
from pure.models.common.layers import THETA, Attend, Params, after, clip, gelu, linear, perceptron, rms_norm, rotate
from pure.models.common.streams import Hidden, two_streams
from pure.models.qwen_image.config import QwenImageConfig, sharding

EPSILON = 1e-6
PER_TOKEN = PerToken(
    tables=(("rotary", ("text", "image")),), masks=(("mask", ("text", "image")),), counts=(("tokens", "image"),)
)


@state
class Conditioning:
    """What an image is made from, besides noise."""

    text: torch.Tensor  # (B, T, width of the text encoder), padded at the end where prompts differ in length
    mask: torch.Tensor | None  # (B, T) bool, False at padding; None where there is none
    reference: torch.Tensor | None  # (B, R, channels) packed latents of reference pictures; None for text-to-image
    ids: Shared  # (S, 3) positions, see `positions`


@state
class Prepared:
    """What does not depend on the step."""

    text: torch.Tensor  # (B, T, D)
    mask: torch.Tensor | None  # (B, 1, 1, S) bool
    reference: torch.Tensor | None  # (B, R, channels): a token is smaller before it is embedded than after
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C)


@state
class Context:
    """What every block of a step reads."""

    temb: torch.Tensor  # (B, D) time, embedded and activated
    still: torch.Tensor | None  # (B, D) time 0 for reference tokens; None where they share the time of the others
    mask: torch.Tensor | None  # as in Prepared
    rotary: Shared  # as in Prepared
    tokens: int = static()  # N


def qwen_image(config: QwenImageConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a Qwen-Image transformer.

    It is one for text-to-image and edits; what it does with `Conditioning.reference` depends
    on `zero_cond_t`, which Qwen-Image-Edit-2511 sets: reference tokens then are at time 0.

    Args:
        config: the contents of its `config.json`, or the record read from it.

    Raises:
        CheckpointError: the config has an option that is not implemented, or contradicts itself.

    >>> qwen_image({"num_layers": 2}).blocks[1].prefix
    'transformer_blocks.1.'
    """
    found = QwenImageConfig.read(config)
    blocks = tuple(Block(Ending(block), f"transformer_blocks.{i}.") for i in range(found.num_layers))
    prepare, embed = Prepare(found.axes_dims_rope), Embed(found.zero_cond_t)
    return two_streams(prepare, embed, blocks, head, sharding(found), PER_TOKEN)


def positions(text: int, *pictures: tuple[int, int]) -> torch.Tensor:
    """Return (S, 3) fp32 positions of `text` tokens, then of pictures of (rows, columns) tokens each.

    A picture is centred at 0 and has its number as first coordinate: 0 the one that is made,
    then the reference pictures. Text lies on the diagonal, beyond the largest picture.

    Raises:
        ValueError: there is no picture.

    >>> positions(2, (1, 2))
    tensor([[ 1.,  1.,  1.],
            [ 2.,  2.,  2.],
            [ 0., -1., -1.],
            [ 0., -1.,  0.]])
    """
    if not pictures:
        raise ValueError("positions need the size of the picture that is made; give (rows, columns)")
    diagonal = torch.arange(text).float() + max(side // 2 for picture in pictures for side in picture)
    grids = [
        torch.cartesian_prod(torch.tensor([float(number)]), _centred(rows), _centred(columns))
        for number, (rows, columns) in enumerate(pictures)
    ]
    return torch.cat([diagonal[:, None].expand(-1, 3), *grids])


def _centred(length: int) -> torch.Tensor:
    return torch.arange(length).float() - (length - length // 2)


@attrs.frozen
class Prepare:
    """Project the text and tabulate the rotary embedding; `axes` are its widths, which sum to C."""

    axes: tuple[int, ...]

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step."""
        ids, mask = conditioning.ids.value, conditioning.mask
        if mask is not None:
            pictures = torch.ones(len(mask), len(ids) - mask.shape[1], dtype=torch.bool, device=mask.device)
            mask = torch.cat([mask.to(torch.bool), pictures], dim=1)[:, None, None]
        return Prepared(
            text=linear(params, "txt_in", rms_norm(conditioning.text, params["txt_norm.weight"])),
            mask=mask,
            reference=conditioning.reference,
            rotary=Shared(value=rotary(ids, self.axes)),
        )


def rotary(ids: torch.Tensor, axes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines (S, 1, C) of positions (S, axes), each repeated for the two halves of a pair."""
    turns = []
    for axis, width in enumerate(axes):
        rates = 1.0 / torch.pow(THETA, torch.arange(0, width, 2, device=ids.device).float().div(width))
        angles = torch.outer(ids[:, axis].float(), rates)
        turns.append(torch.polar(torch.ones_like(angles), angles))  # its bits are not those of cos and sin
    both = torch.cat(turns, dim=1).repeat_interleave(2, dim=1).unsqueeze(1)
    return both.real.contiguous(), both.imag.contiguous()


@attrs.frozen
class Embed:
    """Embed latents and time; with `zero_reference` reference tokens are at time 0."""

    zero_reference: bool

    def __call__(
        self, params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Hidden, Context]:
        """Embed latents (B, N, channels) and timesteps (B,), which run from 1 to 0.

        Raises:
            ValueError: the positions in the conditioning are those of other sizes.
        """
        reference, tokens = prepared.reference, latents.shape[1]
        both = latents if reference is None else torch.cat([latents, reference], dim=1)
        length, known = prepared.text.shape[1] + both.shape[1], len(prepared.rotary.value[0])
        if length != known:
            raise ValueError(
                f"{prepared.text.shape[1]} text tokens, {tokens} tokens of the picture and {both.shape[1] - tokens} of "
                f"reference pictures are {length}, and there are positions for {known}; give Conditioning.ids the "
                "positions(...) of these sizes"
            )
        time = timestep.to(latents.dtype)
        # Not in `prepare`, though it is constant: alone its bits would be others.
        time = torch.cat([time, time * 0]) if self.zero_reference else time
        temb = F.silu(embed_time(params, "time_text_embed.timestep_embedder", time, latents.dtype))
        temb, still = temb.chunk(2) if self.zero_reference else (temb, None)
        hidden = Hidden(image=linear(params, "img_in", both), text=prepared.text)
        return hidden, Context(temb=temb, still=still, mask=prepared.mask, rotary=prepared.rotary, tokens=tokens)


def embed_time(params: Params, name: str, time: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Embed one time per sample, (B,) to (B, D), by way of sines and cosines."""
    half = params[name + ".linear_1.weight"].shape[-1] // 2
    exponents = -math.log(THETA) * torch.arange(half, dtype=torch.float32, device=time.device)
    angles = 1000 * (time[:, None].float() * torch.exp(exponents / half))
    return perceptron(params, name, torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


def block(params: Params, hidden: Hidden, context: Context, attend: Attend, last: bool = False) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other (see `pure.Ending`)."""
    image, text, tokens = hidden.image, hidden.text, hidden.text.shape[1]
    shift, scale, gate, *image_rest = image_modulations(params, context, image.shape[1])
    text_shift, text_scale, text_gate, *text_rest = modulations(params, "txt_mod.1", context.temb)
    x, y = modulate(image, shift, scale), modulate(text, text_shift, text_scale)
    q, tables = heads(params, "to_q", x, "norm_q"), context.rotary.value
    k = torch.cat([heads(params, "add_k_proj", y, "norm_added_k"), heads(params, "to_k", x, "norm_k")], dim=1)
    v = torch.cat([heads(params, "add_v_proj", y), heads(params, "to_v", x)], dim=1)
    if last:
        x = attend(rotate(q, after(tables, tokens)), rotate(k, tables), v, context.mask).flatten(2)
    else:
        q = torch.cat([heads(params, "add_q_proj", y, "norm_added_q"), q], dim=1)
        attended = attend(rotate(q, tables), rotate(k, tables), v, context.mask).flatten(2)
        x, y = attended[:, tokens:].contiguous(), attended[:, :tokens].contiguous()
        text = text + text_gate * linear(params, "attn.to_add_out", y)
        text = clip(feed(params, "txt_mlp", text, *text_rest))
    image = image + gate * linear(params, "attn.to_out.0", x)
    return Hidden(image=clip(feed(params, "img_mlp", image, *image_rest)), text=text)


def modulations(params: Params, name: str, temb: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return twice shift, scale and gate, each (B, 1, D), of time (B, D)."""
    return linear(params, name, temb).unsqueeze(1).chunk(6, dim=-1)


def image_modulations(params: Params, context: Context, tokens: int) -> tuple[torch.Tensor, ...]:
    """Return `modulations` of the image stream; (B, N + R, D) each where its `tokens` are at different times."""
    if context.still is None:
        return modulations(params, "img_mod.1", context.temb)
    both = modulations(params, "img_mod.1", torch.cat([context.temb, context.still]))
    sizes = context.tokens, tokens - context.tokens
    return tuple(
        torch.cat([part.expand(-1, size, -1) for part, size in zip(each.chunk(2), sizes, strict=True)], dim=1)
        for each in both
    )


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalise tokens (B, tokens, D), then scale and shift them by (B, 1, D) or (B, tokens, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


def feed(
    params: Params, name: str, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    """Add the gated feed-forward network `name` to tokens (B, tokens, D)."""
    wide = gelu(linear(params, name + ".net.0.proj", modulate(x, shift, scale)))
    return x + gate * linear(params, name + ".net.2", wide)


def heads(params: Params, name: str, x: torch.Tensor, norm: str = "") -> torch.Tensor:
    """Project tokens (B, S, D) and split them into heads (B, S, H, C), normalised if `norm` names a weight."""
    x = linear(params, "attn." + name, x).unflatten(-1, (-1, *params["attn.norm_q.weight"].shape))
    return rms_norm(x, params["attn." + norm + ".weight"]) if norm else x


def head(params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
    """Return the predicted velocity (B, N, channels) of the picture that is made."""
    scale, shift = linear(params, "norm_out.linear", context.temb).unsqueeze(1).chunk(2, dim=-1)
    # Reference tokens are dropped last: of fewer rows a product has other bits.
    return linear(params, "proj_out", modulate(hidden.image, shift, scale))[:, : context.tokens]
