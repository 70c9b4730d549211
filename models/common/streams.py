"""Building blocks of transformers with a stream for the image and one for the text.

The fields of `Prepare`, `Embed`, `Double` and `Single` are the differences from FLUX.1; all
their operations are those of diffusers, in its order, so that predictions are equal to the last bit.

Shapes: B samples, N image tokens, R tokens of pictures to edit, T text tokens, S = T + N + R, D width,
H heads, C width of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Block, Denoiser, Ending, PerToken, Shared, state, static
from pure.attention import Attend, attend
from pure.models.common.layers import (
    THETA,
    Params,
    after,
    clip,
    embed_number,
    feed,
    gelu,
    head_norm,
    heads,
    linear,
    linear_of_slice,
    modulate,
    modulations,
    perceptron,
    rotary_tables,
    rotate,
)
from pure.sharding import Sharding

Tables = tuple[torch.Tensor, torch.Tensor]

STREAMS = ("text", "image")
PER_TOKEN = PerToken(tables=(("rotary", STREAMS),), masks=(("mask", STREAMS),), counts=(("tokens", "image"),))


@state
class Conditioning:
    """What an image is made from, besides noise; fields without a meaning for a family are None."""

    text: torch.Tensor  # (B, T, width of the text encoder), padded at the end where there is a mask
    ids: Shared  # (S, axes) positions: text first, then the image, then the pictures to edit
    pooled: torch.Tensor | None = None  # (B, width of the pooled embedding)
    guidance: torch.Tensor | None = None  # (B,) embedded guidance scale; None where the checkpoint embeds none
    mask: torch.Tensor | None = None  # (B, T) bool, False at padding; None where there is none
    reference: torch.Tensor | None = None  # (B, R, channels) packed latents of the pictures to edit


@state
class Prepared:
    """What does not depend on the step."""

    text: torch.Tensor  # (B, T, D)
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C)
    added: tuple[torch.Tensor, ...] = ()  # (B, D) each: guidance and pooled text, embedded, in the order they are added
    mask: torch.Tensor | None = None  # (B, 1, 1, S) bool; None where all tokens are seen
    reference: torch.Tensor | None = None  # (B, R, channels): a token is smaller before it is embedded than after


@state
class Hidden:
    """The two streams; tokens of pictures to edit follow the image."""

    image: torch.Tensor  # (B, N + R, D)
    text: torch.Tensor  # (B, T, D)


@state
class Context:
    """What every block of a step reads."""

    temb: torch.Tensor  # (B, D): all that modulates blocks, such as time, embedded, summed and activated
    rotary: Shared  # as in Prepared
    still: torch.Tensor | None = None  # (B, D) time 0 for pictures to edit; None where they share that of the image
    shared: tuple[torch.Tensor, ...] = ()  # (B, 1, parts D) each: modulations that blocks have in common
    mask: torch.Tensor | None = None  # as in Prepared
    tokens: int | None = static(default=None)  # N where pictures to edit follow, None where the image is all there is


def project_text(params: Params, text: torch.Tensor) -> torch.Tensor:
    """Project text embeddings to (B, T, D)."""
    return linear(params, "context_embedder", text)


@attrs.frozen(kw_only=True)
class Prepare:
    """Embed all but latents and time, and tabulate the rotary embedding.

    Attributes:
        axes: widths of the rotary embedding, which sum to C.
        theta: base of its rates.
        embed_text: from parameters and text to (B, T, D).
        embedder: prefix of the names of the embedders of guidance and pooled text.
        tabulate: from positions, `axes` and `theta` to the tables.
    """

    axes: tuple[int, ...]
    theta: float = THETA
    embed_text: Callable[[Params, torch.Tensor], torch.Tensor] = project_text
    embedder: str = ""
    tabulate: Callable[..., Tables] = rotary_tables

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step."""
        ids, mask = conditioning.ids.value, conditioning.mask
        if mask is not None:
            pictures = torch.ones(len(mask), len(ids) - mask.shape[1], dtype=torch.bool, device=mask.device)
            mask = torch.cat([mask.to(torch.bool), pictures], dim=1)[:, None, None]
        return Prepared(
            text=self.embed_text(params, conditioning.text),
            rotary=Shared(value=self.tabulate(ids, self.axes, self.theta)),
            added=embed_constants(params, self.embedder, conditioning.guidance, conditioning.pooled, conditioning.text),
            mask=mask,
            reference=conditioning.reference,
        )


def embed_constants(
    params: Params, embedder: str, guidance: torch.Tensor | None, pooled: torch.Tensor | None, text: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Embed guidance scales (B,) and pooled text, those there are, to (B, D) each; `text` has the type."""
    found = ()
    if guidance is not None:
        found += (embed_number(params, embedder + "guidance_embedder", guidance, text.dtype),)
    if pooled is not None:
        found += (perceptron(params, embedder + "text_embedder", pooled),)
    return found


@attrs.frozen(kw_only=True)
class Embed:
    """Embed latents and time.

    Attributes:
        embedder: prefix of the name of the time's embedder.
        image: name of the image's embedder.
        embed_time: as `layers.embed_number`.
        zero_reference: pictures to edit are at time 0.
        shared: names of affine maps of the time to modulations that blocks have in common.
    """

    embedder: str = ""
    image: str = "x_embedder"
    embed_time: Callable[..., torch.Tensor] = embed_number
    zero_reference: bool = False
    shared: tuple[str, ...] = ()

    def __call__(
        self, params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Hidden, Context]:
        """Embed latents (B, N, channels) and timesteps (B,), which run from 1 to 0.

        Raises:
            ValueError: the positions in the conditioning are those of other sizes.
        """
        reference, tokens, both = prepared.reference, latents.shape[1], latents
        if reference is not None:
            # Embedded together with the image, not once in `prepare`: products of other sizes may round otherwise.
            both = torch.cat([latents, reference.to(latents.dtype)], dim=1)
        _check_positions(prepared, tokens, both.shape[1])
        # Time 0 is not in `prepare`, though it is constant: alone its bits would be others.
        time = torch.cat([timestep, timestep * 0]) if self.zero_reference else timestep
        temb = self.embed_time(params, self.embedder + "timestep_embedder", time, latents.dtype)
        for each in prepared.added:
            temb = temb + each
        temb = F.silu(temb)  # every block begins with it: once is enough
        temb, still = temb.chunk(2) if self.zero_reference else (temb, None)
        context = Context(
            temb=temb,
            still=still,
            shared=tuple(linear(params, name, temb).unsqueeze(1) for name in self.shared),
            mask=prepared.mask,
            rotary=prepared.rotary,
            tokens=None if reference is None else tokens,
        )
        return Hidden(image=linear(params, self.image, both), text=prepared.text), context


def _check_positions(prepared: Prepared, tokens: int, both: int) -> None:
    text, known = prepared.text.shape[1], len(prepared.rotary.value[0])
    if text + both != known:
        raise ValueError(
            f"{text} text tokens, {tokens} tokens of the image and {both - tokens} of pictures to edit are "
            f"{text + both}, and there are positions for {known}; give Conditioning.ids the positions of these sizes"
        )


def image_stream(hidden: Any) -> torch.Tensor:
    """Return the stream whose change is measured."""
    return hidden.image


def two_streams(
    prepare: Callable[..., Any],
    embed: Callable[..., Any],
    blocks: tuple[Block, ...],
    head: Callable[..., torch.Tensor],
    sharding: Sharding,
    per_token: PerToken = PER_TOKEN,
    modulated: Callable[..., torch.Tensor] | None = None,
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
        modulated=modulated,
    )


def stack(
    doubles: int, double: Callable[..., Hidden], singles: int = 0, single: Callable[..., Hidden] | None = None
) -> tuple[Block, ...]:
    """Return so many blocks `double`, which have weights of their own for each stream, then so many `single`.

    `double` is called as `pure.Ending` says.

    >>> blocks = stack(1, Double(), 2, Single())
    >>> [block.prefix for block in blocks]
    ['transformer_blocks.0.', 'single_transformer_blocks.0.', 'single_transformer_blocks.1.']
    """
    first = tuple(Block(Ending(double), f"transformer_blocks.{i}.") for i in range(doubles))
    if single is None:
        return first
    return first + tuple(Block(single, f"single_transformer_blocks.{i}.") for i in range(singles))


def own_modulations(params: Params, context: Context, tokens: int) -> Sequence[Sequence[torch.Tensor]]:
    """Return modulations that are affine maps of the block's own of `context.temb`; see `Double`."""
    return [modulations(params, name, context.temb, 6) for name in ("norm1.linear", "norm1_context.linear")]


@attrs.frozen(kw_only=True)
class Double:
    """A block with weights of its own for image and text, which attend to each other, text first.

    Attributes:
        modulations: from parameters, context and the number of image tokens to those of the image, then of the text:
            twice shift, scale and gate, each (B, 1 or tokens, D).
        norm: of queries and keys, by the weight that is its second argument.
        project: affine map of attended image and text, which are slices of one tensor.
        feeds: names of the feed-forward networks of image and text.
        maps: names of their two affine maps.
        activate: between the two.
        clips_image: keep the image finite in fp16, too, and not only the text.
    """

    modulations: Callable[..., Sequence[Sequence[torch.Tensor]]] = own_modulations
    norm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = head_norm
    project: Callable[..., torch.Tensor] = linear_of_slice
    feeds: tuple[str, str] = ("ff", "ff_context")
    maps: tuple[str, str] = ("net.0.proj", "net.2")
    activate: Callable[[torch.Tensor], torch.Tensor] = gelu
    clips_image: bool = False

    def __call__(self, params: Params, hidden: Hidden, context: Context, attend: Attend, last: bool = False) -> Hidden:
        """Run the block; if `last`, leave the text as it came (see `pure.Ending`)."""
        options: Any = {"activate": self.activate, "maps": self.maps}
        of_image, of_text = self.modulations(params, context, hidden.image.shape[1])
        (shift, scale, gate, *image_rest), (text_shift, text_scale, text_gate, *text_rest) = of_image, of_text
        x, y = modulate(hidden.image, shift, scale), modulate(hidden.text, text_shift, text_scale)
        x, y = self._attend(params, x, y, context, attend, last)
        image = feed(params, self.feeds[0], hidden.image + gate * x, *image_rest, **options)
        image = clip(image) if self.clips_image else image
        if y is None:
            return Hidden(image=image, text=hidden.text)
        text = feed(params, self.feeds[1], hidden.text + text_gate * y, *text_rest, **options)
        return Hidden(image=image, text=clip(text))

    def _attend(
        self, params: Params, image: torch.Tensor, text: torch.Tensor, context: Context, attend: Attend, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Let image (B, N, D) and text (B, T, D) attend to each other; if `last`, the text gets nothing: None."""
        rotary, tokens, norm = context.rotary.value, text.shape[1], self.norm
        q, k = (heads(params, f"to_{name}", image, f"norm_{name}", norm) for name in ("q", "k"))
        k = torch.cat([heads(params, "add_k_proj", text, "norm_added_k", norm), k], dim=1)
        v = torch.cat([heads(params, "add_v_proj", text), heads(params, "to_v", image)], dim=1)
        if last:
            attended = attend(rotate(q, after(rotary, tokens)), rotate(k, rotary), v, context.mask).flatten(2)
            return self.project(params, "attn.to_out.0", attended), None
        q = torch.cat([heads(params, "add_q_proj", text, "norm_added_q", norm), q], dim=1)
        attended = attend(rotate(q, rotary), rotate(k, rotary), v, context.mask).flatten(2)
        image, text = attended[:, tokens:], attended[:, :tokens]
        return self.project(params, "attn.to_out.0", image), self.project(params, "attn.to_add_out", text)


@attrs.frozen
class Single:
    """A block on text and image as one sequence, attention and feed-forward network side by side."""

    activate: Callable[[torch.Tensor], torch.Tensor] = gelu

    def __call__(self, params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
        """Run the block."""
        both, rotary = torch.cat([hidden.text, hidden.image], dim=1), context.rotary.value
        shift, scale, gate = modulations(params, "norm.linear", context.temb, 3)
        x = modulate(both, shift, scale)
        wide = self.activate(linear(params, "proj_mlp", x))
        q, k = (rotate(heads(params, f"to_{name}", x, f"norm_{name}"), rotary) for name in ("q", "k"))
        attended = attend(q, k, heads(params, "to_v", x)).flatten(2)
        out = gate * linear(params, "proj_out", torch.cat([attended, wide], dim=2))
        return parted(clip(both + out), hidden)


def parted(both: torch.Tensor, hidden: Hidden) -> Hidden:
    """Return the streams of one sequence (B, S, D), text first, of the lengths they have in `hidden`."""
    tokens = hidden.text.shape[1]
    return Hidden(image=both[:, tokens:], text=both[:, :tokens])


def head(params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
    """Return the prediction (B, N, channels) of the image; pictures to edit are dropped."""
    # Dropped last: of fewer rows a product has other bits.
    return project(params, hidden.image, context.temb)[:, : context.tokens]


def project(params: Params, image: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
    """Normalise tokens (B, tokens, D), modulate them by `temb` (B, D) and project them: (B, tokens, channels)."""
    scale, shift = modulations(params, "norm_out.linear", temb, 2)
    return linear(params, "proj_out", modulate(image, shift, scale))
