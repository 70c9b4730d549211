"""What transformers with a stream for the image and one for the text have in common.

Shapes: B samples, N image tokens, T text tokens, S = T + N, D width, C width of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Block, Denoiser, Ending, PerToken, Shared, state
from pure.attention import attend
from pure.models.common.layers import (
    Attend,
    Params,
    attend_jointly,
    clip,
    embed_number,
    feed,
    gelu,
    heads,
    linear,
    linear_of_slice,
    modulate,
    rotary_tables,
    rotate,
)
from pure.sharding import Sharding

Tables = tuple[torch.Tensor, torch.Tensor]

TEXT_FIRST = PerToken(tables=(("rotary", ("text", "image")),))


@state
class Conditioning:
    """What an image is made from, besides noise, where that is text alone."""

    text: torch.Tensor  # (B, T, width of the text encoder)
    ids: Shared  # (S, 3) positions, text tokens first


@state
class Prepared:
    """What does not depend on the step, where that is text alone."""

    text: torch.Tensor  # (B, T, D)
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C)


@state
class Hidden:
    """The two streams; tokens of pictures to edit follow the image."""

    image: torch.Tensor  # (B, N, D)
    text: torch.Tensor  # (B, T, D)


@state
class Context:
    """What every block of a step reads."""

    temb: torch.Tensor  # (B, D): all that modulates blocks, such as time, embedded, summed and activated
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C)


@attrs.frozen
class Prepare:
    """Embed the text, and tabulate the rotary embedding.

    Attributes:
        axes: widths of the rotary embedding, which sum to C.
        embed_text: from parameters and text to (B, T, D).
    """

    axes: tuple[int, ...]
    embed_text: Callable[[Params, torch.Tensor], torch.Tensor]

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step."""
        return Prepared(
            text=self.embed_text(params, conditioning.text),
            rotary=Shared(value=rotary_tables(conditioning.ids.value, self.axes)),
        )


def embed(params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor) -> tuple[Hidden, Context]:
    """Embed latents (B, N, channels) and timesteps (B,), which run from 1 to 0."""
    temb = embed_number(params, "timestep_embedder", timestep, latents.dtype)
    hidden = Hidden(image=linear(params, "x_embedder", latents), text=prepared.text)
    # Every block begins by activating temb: once is enough.
    return hidden, Context(temb=F.silu(temb), rotary=prepared.rotary)


def image_stream(hidden: Any) -> torch.Tensor:
    """Return the stream whose change is measured."""
    return hidden.image


def two_streams(
    prepare: Callable[..., Any],
    embed: Callable[..., Any],
    blocks: tuple[Block, ...],
    head: Callable[..., torch.Tensor],
    sharding: Sharding,
    per_token: PerToken = TEXT_FIRST,
) -> Denoiser:
    """Return the denoiser of such pieces; the head reads the image."""
    return Denoiser(
        prepare=prepare,
        embed=embed,
        blocks=blocks,
        head=head,
        attend=attend,
        probe=image_stream,
        streams=("image", "text"),
        reads=("image",),
        sharding=sharding,
        per_token=per_token,
    )


def stack(
    doubles: int, double: Callable[..., Hidden], singles: int, single: Callable[..., Hidden]
) -> tuple[Block, ...]:
    """Return so many blocks `double`, which have weights of their own for each stream, then so many `single`.

    `double` is called as `pure.Ending` says.

    >>> blocks = stack(1, joint_block, 2, joined_block)
    >>> [block.prefix for block in blocks]
    ['transformer_blocks.0.', 'single_transformer_blocks.0.', 'single_transformer_blocks.1.']
    """
    return (
        *(Block(Ending(double), f"transformer_blocks.{i}.") for i in range(doubles)),
        *(Block(single, f"single_transformer_blocks.{i}.") for i in range(singles)),
    )


def joint_block(
    params: Params,
    hidden: Hidden,
    modulations: Sequence[Sequence[torch.Tensor]],
    rotary: Tables,
    attend: Attend,
    last: bool,
    activate: Callable[[torch.Tensor], torch.Tensor] = gelu,
    project: Callable[..., torch.Tensor] = linear_of_slice,
    maps: tuple[str, str] = ("net.0.proj", "net.2"),
) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other.

    Args:
        params: of the block.
        hidden: see `Hidden`.
        modulations: of the image, then of the text: twice shift, scale and gate, each (B, D).
        rotary: see `Context`.
        attend: see `pure.Denoiser`.
        last: leave the text as it came.
        activate: of the feed-forward networks; see `layers.feed`.
        project: what projects attended image and text, slices of one tensor.
        maps: names of the affine maps of the feed-forward networks.
    """
    (shift, scale, gate, *image_rest), (text_shift, text_scale, text_gate, *text_rest) = modulations
    x, y = modulate(hidden.image, shift, scale), modulate(hidden.text, text_shift, text_scale)
    x, y = attend_jointly(params, x, y, rotary, attend, last, project)
    options: Any = {"activate": activate, "maps": maps}
    image = feed(params, "ff", hidden.image + gate.unsqueeze(1) * x, *image_rest, **options)
    if y is None:
        return Hidden(image=image, text=hidden.text)
    text = feed(
        params, "ff_context", hidden.text + text_gate.unsqueeze(1) * y, *text_rest, activate=activate, maps=maps
    )
    return Hidden(image=image, text=clip(text))


def modulated_block(
    params: Params,
    hidden: Hidden,
    context: Context,
    attend: Attend,
    last: bool,
    activate: Callable[[torch.Tensor], torch.Tensor] = gelu,
    project: Callable[..., torch.Tensor] = linear_of_slice,
) -> Hidden:
    """Run `joint_block` with modulations that are affine maps of its own of `context.temb`."""
    names = "norm1.linear", "norm1_context.linear"
    modulations = [linear(params, name, context.temb).chunk(6, dim=1) for name in names]
    return joint_block(params, hidden, modulations, context.rotary.value, attend, last, activate, project)


def joined_block(
    params: Params,
    hidden: Hidden,
    context: Context,
    attend: Attend,
    activate: Callable[[torch.Tensor], torch.Tensor],
) -> Hidden:
    """Run one block on text and image as one sequence, attention and feed-forward network side by side."""
    both, rotary = torch.cat([hidden.text, hidden.image], dim=1), context.rotary.value
    shift, scale, gate = linear(params, "norm.linear", context.temb).chunk(3, dim=1)
    x = modulate(both, shift, scale)
    wide = activate(linear(params, "proj_mlp", x))
    q, k = heads(params, "to_q", x, "norm_q"), heads(params, "to_k", x, "norm_k")
    attended = attend(rotate(q, rotary), rotate(k, rotary), heads(params, "to_v", x)).flatten(2)
    out = gate.unsqueeze(1) * linear(params, "proj_out", torch.cat([attended, wide], dim=2))
    return parted(clip(both + out), hidden)


def parted(both: torch.Tensor, hidden: Hidden) -> Hidden:
    """Return the streams of one sequence (B, S, D), text first, of the lengths they have in `hidden`."""
    tokens = hidden.text.shape[1]
    return Hidden(image=both[:, tokens:], text=both[:, :tokens])


def head(params: Params, hidden: Hidden, context: Any) -> torch.Tensor:
    """Normalise the image, modulate it by `context.temb` and project it: (B, N, channels)."""
    scale, shift = linear(params, "norm_out.linear", context.temb).chunk(2, dim=1)
    return linear(params, "proj_out", modulate(hidden.image, shift, scale))
