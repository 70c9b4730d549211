"""Wan 2.1 and 2.2 as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `WanTransformer3DModel`, in its
order: predictions are equal to the last bit. What does not depend on the step is computed
once per request, in `Prepare`: above all the keys and values of every block's
cross-attention. They are stored together, and a block picks its own by its number
(`pure.Block.number`), so that all blocks share one compilation.

Shapes: B samples, L blocks, T text tokens, I tokens of an embedded image, S tokens of the
video, D width, H heads, C width of a head; latents are (B, channels, frames, rows, columns).
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Block, Denoiser, PerToken, Shared, state, static
from pure.attention import Attend, attend
from pure.models.common.layers import Params, gelu, linear, perceptron, rotary_tables, sinusoids
from pure.models.common.streams import image_stream
from pure.models.wan.config import WanConfig, sharding
from pure.plan import Published

Grid = tuple[int, int, int]

EMBEDDER = "condition_embedder."
MODULATIONS = 6  # shift, scale and gate, of attention and of the feed-forward network
PER_TOKEN = PerToken(tables=(("rotary", ("image",)),), counts=(("first", "image"),))
# Rows per sample in which timesteps of tokens are embedded. diffusers embeds one row per token,
# all equal but for the first frame. From four rows on, a matrix product gives a row the same bits
# however many others there are (measured, fp32 on CPUs); below that it may take another path.
ROWS = 4


@state
class Conditioning:
    """What a video is made from, besides noise."""

    text: torch.Tensor  # (B, T, width of the text encoder)
    image: torch.Tensor | None = None  # (B, I, width of the image encoder); Wan 2.1 image-to-video only
    beside: torch.Tensor | None = None  # (B, mask and image channels, frames, rows, columns), put beside the latents
    first: torch.Tensor | None = None  # (B, channels, 1, rows, columns): the clean first frame, instead of noise
    grid: Grid = static()  # tokens of the video along frames, rows and columns; S is their product


@state
class Cross:
    """Keys and values of every block's cross-attention: 2 L x tokens x D numbers, for 14B 400 MB a row in bf16."""

    keys: torch.Tensor  # (B, L, tokens, H, C)
    values: torch.Tensor  # (B, L, tokens, H, C)


@state
class Prepared:
    """What does not depend on the step."""

    text: Cross
    image: Cross | None
    beside: torch.Tensor | None  # as in Conditioning
    first: torch.Tensor | None  # as in Conditioning
    rotary: Shared  # cosines and sines, fp32, each (S, 1, C / 2)
    grid: Grid = static()


@state
class Hidden:
    """The one stream."""

    image: torch.Tensor  # (B, S, D) tokens of the video


@state
class Context:
    """What every block of a step reads; times K is 1, or 2 where the first frame has a time of its own."""

    time: torch.Tensor  # (B, K, D): time, embedded
    modulation: torch.Tensor  # (B, K, 6, D): what blocks make shifts, scales and gates from
    text: Cross
    image: Cross | None
    rotary: Shared  # as in Prepared
    grid: Grid = static()
    first: int = static()  # tokens of the first frame, which have the first of two times


def wan(config: WanConfig | Mapping[str, Any], *, expand_timesteps: bool = False) -> Denoiser:
    """Return the denoiser of a Wan transformer; timesteps run from 1000 to 0.

    Args:
        config: see `WanConfig.read`, also for its errors.
        expand_timesteps: every token has a timestep of its own, as the pipeline of TI2V-5B says:
            that of a given first frame is 0.

    >>> wan({"num_layers": 2}).blocks[1].prefix
    'blocks.1.'
    """
    found = WanConfig.read(config)
    run = WanBlock(found.attention_head_dim, found.eps)
    return Denoiser(
        prepare=Prepare(found, expand_timesteps),
        embed=Embed(found.patch, expand_timesteps),
        blocks=tuple(Block(run, f"blocks.{i}.", number=i) for i in range(found.num_layers)),
        head=Head(found.patch, found.eps),
        attend=attend,
        probe=image_stream,
        streams=("image",),
        reads=("image",),
        sharding=sharding(found),
        per_token=PER_TOKEN,
        modulated=Modulated(PUBLISHED.get((found.num_layers, found.num_attention_heads, found.in_channels))),
    )


# For Wan 2.1 from text, by layers, heads and channels. Of Wan from images there is one for each size of the video.
PUBLISHED = {
    (30, 12, 16): Published(
        polynomial=(-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664), threshold=0.08, warmup=5
    ),
    (40, 40, 16): Published(
        polynomial=(-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525), threshold=0.2, warmup=5
    ),
}


@attrs.frozen
class Modulated:
    """What the shifts and scales of all blocks are made from, which TeaCache takes for Wan; see `Context`."""

    published: Published | None = None

    def __call__(self, params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
        """Return (B, 6 or 12, D)."""
        return context.modulation.flatten(1, 2)


@attrs.frozen
class Prepare:
    """Embed text and image, make keys and values of them for all blocks, and tabulate the rotary embedding."""

    config: WanConfig
    expand_timesteps: bool

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step.

        Raises:
            ValueError: the conditioning is not of this model's kind, or the video too large for it.
        """
        self._check(params, conditioning)
        text, image = embed_text(params, conditioning.text), None
        if conditioning.image is not None:
            # The reference reads both from one tensor; strides decide which matrix product is used.
            both = torch.cat([embed_image(params, conditioning.image), text], dim=1)
            tokens = conditioning.image.shape[1]
            image, text = both[:, :tokens], both[:, tokens:]
            image = self._cross(params, image, "add_k_proj", "add_v_proj", "norm_added_k")
        return Prepared(
            text=self._cross(params, text, "to_k", "to_v", "norm_k"),
            image=image,
            beside=conditioning.beside,
            first=conditioning.first,
            rotary=Shared(value=tables(conditioning.grid, self.config.axes, conditioning.text.device)),
            grid=conditioning.grid,
        )

    def _cross(self, params: Params, tokens: torch.Tensor, key: str, value: str, norm: str) -> Cross:
        """Return keys and values of `tokens` (B, tokens, D) for every block."""
        keys, values = [], []
        for number in range(self.config.num_layers):
            name = f"blocks.{number}.attn2."
            keys.append(normalised(params, name + norm, linear(params, name + key, tokens), self.config.eps))
            values.append(linear(params, name + value, tokens))
        split = (-1, self.config.attention_head_dim)
        of_keys, of_values = (torch.stack(each, dim=1).unflatten(-1, split) for each in (keys, values))
        return Cross(keys=of_keys, values=of_values)

    def _check(self, params: Params, conditioning: Conditioning) -> None:
        embeds, patch, longest = self.config.image_dim is not None, self.config.patch, self.config.rope_max_seq_len
        if (conditioning.image is not None) != embeds:
            wanted = "needs Conditioning.image" if embeds else "embeds no image; leave Conditioning.image None"
            raise ValueError(f"this transformer {wanted}")
        if conditioning.first is not None and not (self.expand_timesteps and patch[0] == 1):
            raise ValueError(
                "Conditioning.first needs a timestep for every token: wan(..., expand_timesteps=True) "
                f"and patches of one frame, here {patch[0]}"
            )
        if max(conditioning.grid) > longest:
            raise ValueError(
                f"a video of {conditioning.grid} tokens (frames, rows, columns) is too large: "
                f"rope_max_seq_len is {longest}; make it smaller"
            )
        position = params.get(EMBEDDER + "image_embedder.pos_embed")
        if position is not None and conditioning.image is not None and position.shape[1] != conditioning.image.shape[1]:
            raise ValueError(
                f"Conditioning.image has {conditioning.image.shape[1]} tokens and pos_embed_seq_len is "
                f"{position.shape[1]}; give those of the first and of the last frame together"
            )


def embed_text(params: Params, text: torch.Tensor) -> torch.Tensor:
    """Project text embeddings to (B, T, D)."""
    return perceptron(params, EMBEDDER + "text_embedder", text, gelu)


def embed_image(params: Params, image: torch.Tensor) -> torch.Tensor:
    """Project image embeddings to (B, I, D)."""
    name = EMBEDDER + "image_embedder."
    position = params.get(name + "pos_embed")
    x = affine_norm(params, name + "norm1", image if position is None else image + position, 1e-5)
    x = linear(params, name + "ff.net.2", F.gelu(linear(params, name + "ff.net.0.proj", x)))
    return affine_norm(params, name + "norm2", x, 1e-5)


def tables(grid: Grid, axes: tuple[int, int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines (S, 1, C / 2) of the position of every token."""
    sides = [torch.arange(side, dtype=torch.float32, device=device) for side in grid]
    cosine, sine = rotary_tables(torch.cartesian_prod(*sides), axes)
    return cosine[..., 0::2].contiguous(), sine[..., 0::2].contiguous()


@attrs.frozen
class Embed:
    """Cut latents into patches of `patch` and embed them, and embed the timestep."""

    patch: Grid
    expand_timesteps: bool

    def __call__(
        self, params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Hidden, Context]:
        """Embed latents (B, channels, frames, rows, columns) and timesteps (B,), which run from 1000 to 0.

        Raises:
            ValueError: the latents are not of the conditioning's size, or have another number of channels.
        """
        x, weight = latents, params["patch_embedding.weight"]
        if prepared.first is not None:
            x = torch.cat([prepared.first, x[:, :, 1:]], dim=2)
        if prepared.beside is not None:
            x = torch.cat([x, prepared.beside], dim=1)
        expected = (weight.shape[1], *(side * size for side, size in zip(prepared.grid, self.patch, strict=True)))
        if x.shape[1:] != expected:
            raise ValueError(
                f"the latents and what is put beside them are {tuple(x.shape[1:])}; the transformer and the "
                f"conditioning ask for {expected}: channels, frames, rows, columns"
            )
        x = F.conv3d(x.to(weight.dtype), weight, params["patch_embedding.bias"], stride=self.patch)
        time = embed_time(params, self._times(prepared, timestep))
        modulation = linear(params, EMBEDDER + "time_proj", F.silu(time)).unflatten(-1, (MODULATIONS, -1))
        if self.expand_timesteps:
            kinds = 1 if prepared.first is None else 2
            time, modulation = time[:, :kinds].contiguous(), modulation[:, :kinds].contiguous()
        else:
            time, modulation = time.unsqueeze(1), modulation.unsqueeze(1)
        context = Context(
            time=time,
            modulation=modulation,
            text=prepared.text,
            image=prepared.image,
            rotary=prepared.rotary,
            grid=prepared.grid,
            first=prepared.grid[1] * prepared.grid[2],
        )
        return Hidden(image=x.flatten(2).transpose(1, 2).contiguous()), context

    def _times(self, prepared: Prepared, timestep: torch.Tensor) -> torch.Tensor:
        """Return timesteps (B,), or (B, ROWS) where tokens have their own, that of a first frame first."""
        if not self.expand_timesteps:
            return timestep
        rows = timestep.unsqueeze(1).expand(-1, ROWS)
        return rows if prepared.first is None else torch.cat([torch.zeros_like(rows[:, :1]), rows[:, 1:]], dim=1)


def embed_time(params: Params, timestep: torch.Tensor) -> torch.Tensor:
    """Embed timesteps of any shape (...) to (..., D)."""
    name = EMBEDDER + "time_embedder"
    weight = params[name + ".linear_1.weight"]
    waves = sinusoids(timestep, weight.shape[1] // 2)
    # This network may be kept in fp32 while the others are narrower.
    return perceptron(params, name, waves.to(weight.dtype)).to(params[EMBEDDER + "time_proj.weight"].dtype)


@attrs.frozen
class WanBlock:
    """One block: the video attends to itself, then to text and image, then a feed-forward network."""

    width: int  # C
    eps: float

    def __call__(self, params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
        """Run the block."""
        x, first = hidden.image, context.first
        parts = (params["scale_shift_table"] + context.modulation.float()).unbind(2)
        shift, scale, gate, shift_after, scale_after, gate_after = (spread(part, first, x.shape[1]) for part in parts)
        y = modulated(x, shift, scale, self.eps)
        x = (x.float() + self._attend_itself(params, y, context, attend) * gate).type_as(x)
        y = affine_norm(params, "norm2", x.float(), self.eps).type_as(x) if "norm2.weight" in params else x
        x = x + self._attend_outside(params, y, context, attend)
        y = modulated(x, shift_after, scale_after, self.eps)
        y = linear(params, "ffn.net.2", gelu(linear(params, "ffn.net.0.proj", y)))
        return Hidden(image=(x.float() + y.float() * gate_after).type_as(x))

    def _attend_itself(self, params: Params, x: torch.Tensor, context: Context, attend: Attend) -> torch.Tensor:
        q, k = (
            rotated(
                self._split(normalised(params, f"attn1.norm_{name}", linear(params, f"attn1.to_{name}", x), self.eps)),
                context.rotary.value,
            )
            for name in ("q", "k")
        )
        attended = attend(q, k, self._split(linear(params, "attn1.to_v", x)))
        return linear(params, "attn1.to_out.0", attended.flatten(2))

    def _attend_outside(self, params: Params, x: torch.Tensor, context: Context, attend: Attend) -> torch.Tensor:
        q = self._split(normalised(params, "attn2.norm_q", linear(params, "attn2.to_q", x), self.eps))
        attended = attend(q, *own(context.text, params["number"]), whole=True).flatten(2)
        if context.image is not None:
            attended = attended + attend(q, *own(context.image, params["number"]), whole=True).flatten(2)
        return linear(params, "attn2.to_out.0", attended)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Split tokens (B, S, D) into heads (B, S, H, C)."""
        return x.unflatten(-1, (-1, self.width))


def own(cross: Cross, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values (B, tokens, H, C) of block `number`, a tensor, so that no compilation depends on it.

    The copy is cheaper than making them anew. A row of 14B in bf16 on an H100: 23 microseconds
    instead of 89, and for all 40 blocks, as a part of the batch takes them, 0.8 milliseconds
    instead of 3.6. With the size of 1.3B in fp32 on a CPU: a hundredth, and a sixteenth.
    """
    place = number.view(1)
    return cross.keys.index_select(1, place).squeeze(1), cross.values.index_select(1, place).squeeze(1)


@attrs.frozen
class Head:
    """Project tokens to patches, and put the patches together."""

    patch: Grid
    eps: float

    def __call__(self, params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
        """Return the predicted velocity (B, channels, frames, rows, columns)."""
        parts = (params["scale_shift_table"] + context.time.unsqueeze(2)).unbind(2)
        shift, scale = (spread(part, context.first, hidden.image.shape[1]) for part in parts)
        x = linear(params, "proj_out", modulated(hidden.image, shift, scale, self.eps))
        x = x.unflatten(2, (*self.patch, -1)).unflatten(1, context.grid)
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def spread(x: torch.Tensor, first: int, tokens: int) -> torch.Tensor:
    """Give every token its own of K kinds: (B, 1, D) stays, (B, 2, D) becomes (B, tokens, D), `first` of the first."""
    if x.shape[1] == 1:
        return x
    return torch.cat([x[:, :1].expand(-1, first, -1), x[:, 1:].expand(-1, tokens - first, -1)], dim=1)


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise tokens (B, S, D) in fp32, then scale and shift them by (B, 1 or S, D)."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).type_as(x)


def affine_norm(params: Params, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise tokens in fp32 with the scale and shift under `name`."""
    weight, bias = params[name + ".weight"].float(), params[name + ".bias"].float()
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)


def normalised(params: Params, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    """Give tokens (B, S, D) a root mean square of 1 over all heads, times the weight under `name`."""
    return F.rms_norm(x, x.shape[-1:], params[name + ".weight"], eps)


def rotated(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate pairs of features of x (B, S, H, C) by the angles of its token."""
    cosine, sine = tables
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return pairs.flatten(-2).type_as(x)
