"""HunyuanVideo as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `HunyuanVideoTransformer3DModel`,
in its order: predictions are equal to the last bit. Text to video and both ways from an image
to a video are one denoiser each, of the same functions. What does not depend on the step is
computed once per request, in `Prepare`; the refinement of the text does, and is in `Embed`.

Shapes: B samples, F x Y x X latents in frames, rows and columns, N image tokens, T text tokens,
S = N + T, D width, H heads, C width of a head.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Denoiser, PerToken, Shared, state, static
from pure.attention import Attend, attend
from pure.models.common.layers import (
    Params,
    feed,
    gelu,
    heads,
    linear,
    linear_of_slice,
    modulate,
    modulations,
    perceptron,
    rms_norm,
    rotary_tables,
    rotate,
)
from pure.models.common.streams import Hidden, embed_constants, project, stack, two_streams
from pure.models.hunyuan_video.config import CONCAT, REPLACE, HunyuanVideoConfig, sharding
from pure.models.hunyuan_video.layers import Refiner, embed_time, framed, grid_positions
from pure.plan import Published

EMBEDDER = "time_text_embed."
REFINING = "context_embedder.time_text_embed."

PER_TOKEN = PerToken(
    tables=(("rotary", ("image",)),), masks=(("mask", ("image", "text")),), counts=(("frame", "image"),)
)


@state
class Conditioning:
    """What a video is made from, besides noise."""

    text: torch.Tensor  # (B, T, width of the text encoder)
    mask: torch.Tensor | None  # (B, T) True or 1 where a text token takes part, these first; None: all do
    pooled: torch.Tensor  # (B, width of the pooled embedding)
    guidance: torch.Tensor | None  # (B,) embedded guidance scale; None where the checkpoint embeds none
    image: torch.Tensor | None  # (B, channels, 1, Y, X) latents of the first frame; None from text alone
    grid: tuple[int, int, int] = static()  # image tokens in frames, rows and columns; their product is N


@state
class Prepared:
    """What does not depend on the step."""

    text: torch.Tensor  # (B, T, D), before it is refined
    mean: torch.Tensor  # (B, D), of the text that takes part
    added: tuple[torch.Tensor, ...]  # (B, D) each: guidance, if there is one, and pooled text, embedded
    still: torch.Tensor | None  # (B, D): time and pooled text as a given first frame has them, not yet activated
    image: torch.Tensor | None  # as in `Conditioning`
    refining: torch.Tensor | None  # (B, 1, T, T) bool: which text token sees which; None: all see all
    mask: torch.Tensor | None  # (B, 1, 1, S) bool: which tokens are seen; None: all are
    rotary: Shared  # cosines and sines of the image tokens, fp32, each (N, 1, C)
    grid: tuple[int, int, int] = static()


@state
class Context:
    """What every block of a step reads."""

    temb: torch.Tensor  # (B, D): time, guidance and pooled text, embedded, summed and activated
    still: torch.Tensor | None  # (B, D): as `temb`, for the tokens of a given first frame
    mask: torch.Tensor | None  # as in `Prepared`
    rotary: Shared  # as in `Prepared`
    grid: tuple[int, int, int] = static()
    frame: int = static()  # tokens of the first frame


def hunyuan_video(config: HunyuanVideoConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a HunyuanVideo transformer; see `HunyuanVideoConfig.read` for the config and its errors.

    Latents are (B, channels, F, Y, X), timesteps run from 1000 to 0. From an image, `Conditioning.image`
    holds its latents. A checkpoint of type "latent_concat" sees them beside the latents. One of type
    "token_replace" sees them instead of the first frame, whose predicted velocity is zero: start
    with the image's latents there, and they stay.

    >>> hunyuan_video({"num_layers": 1, "num_single_layers": 2}).blocks[1].prefix
    'single_transformer_blocks.0.'
    """
    found = HunyuanVideoConfig.read(config)
    kind = found.image_condition_type
    refiner = Refiner(found.num_refiner_layers, found.attention_head_dim, attend)
    prepare = Prepare(kind, found.rope_axes_dim, found.rope_theta)
    blocks = stack(found.num_layers, double, found.num_single_layers, single)
    return two_streams(prepare, Embed(kind, refiner), blocks, head, sharding(found), PER_TOKEN, Modulated())


@attrs.frozen
class Modulated:
    """What the first block's attention reads of the image: a record, so that a saved state names the same one."""

    published = Published(
        polynomial=(733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896), threshold=0.15, warmup=5
    )

    def __call__(self, params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
        """Return the image (B, N, D), normalised and modulated."""
        moving, still = own_modulations(params, "transformer_blocks.0.norm1.linear", context, 6)
        return framed(modulate, hidden.image, context.frame, moving[:2], still[:2])


@attrs.frozen
class Prepare:
    """Project what is constant, and tabulate masks and the rotary embedding.

    Attributes:
        kind: the config's `image_condition_type`.
        axes: widths of the rotary embedding in time, rows and columns, which sum to C.
        theta: its base.
    """

    kind: str | None
    axes: tuple[int, ...]
    theta: float

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step.

        Raises:
            ValueError: an image is given to a checkpoint that takes none, or none to one that needs it; or no
                guidance scale to one that embeds it.
        """
        self._check(params, conditioning)
        text, grid, still = conditioning.text, conditioning.grid, None
        added = embed_constants(params, EMBEDDER, conditioning.guidance, conditioning.pooled, text)
        if self.kind == REPLACE:  # a given frame is as at the end of the trajectory
            end = text.new_zeros(len(text), dtype=torch.float32)
            still = embed_time(params, EMBEDDER, end, text.dtype) + added[-1]
        mask = None if conditioning.mask is None else conditioning.mask.bool()
        ids = grid_positions(grid, text.device)
        return Prepared(
            text=linear(params, "context_embedder.proj_in", text),
            mean=perceptron(params, REFINING + "text_embedder", mean(text, mask)),
            added=added,
            still=still,
            image=conditioning.image,
            refining=None if mask is None else among_text(mask),
            mask=None if mask is None else among_all(mask, len(ids)),
            rotary=Shared(value=rotary_tables(ids, self.axes, self.theta, torch.float32)),
            grid=grid,
        )

    def _check(self, params: Params, conditioning: Conditioning) -> None:
        if (conditioning.image is None) != (self.kind is None):
            given = "none" if conditioning.image is None else "one"
            wanted = "takes no image" if self.kind is None else "starts from the latents of an image"
            raise ValueError(f"this checkpoint {wanted} (image_condition_type {self.kind!r}) and was given {given}")
        embeds = EMBEDDER + "guidance_embedder.linear_1.weight" in params
        if embeds != (conditioning.guidance is not None):
            which = "embeds a guidance scale; give" if embeds else "embeds no guidance scale; leave out"
            raise ValueError(f"this checkpoint {which} Conditioning.guidance")


def mean(text: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean (B, W) of the text tokens (B, T, W) that take part."""
    weights = torch.ones_like(text[:, :, 0], dtype=torch.float32) if mask is None else mask.float()
    weights = weights.unsqueeze(-1)
    return ((text * weights).sum(dim=1) / weights.sum(dim=1)).to(text.dtype)


def among_text(mask: torch.Tensor) -> torch.Tensor:
    """Return which text token sees which, (B, 1, T, T): those that take part each other, and all the first."""
    both = mask[:, None, :, None] & mask[:, None, None, :]
    return torch.cat([torch.ones_like(both[..., :1]), both[..., 1:]], dim=-1)


def among_all(mask: torch.Tensor, image: int) -> torch.Tensor:
    """Return which of S tokens are seen, (B, 1, 1, S): all of the image, and as many of the text as take part."""
    ends = image + mask.sum(dim=1)
    return (torch.arange(image + mask.shape[1], device=mask.device) < ends[:, None])[:, None, None]


@attrs.frozen
class Embed:
    """Embed latents and time, and refine the text, which depends on the time.

    Attributes:
        kind: the config's `image_condition_type`.
        refiner: the blocks that refine the text.
    """

    kind: str | None
    refiner: Refiner

    def __call__(
        self, params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Hidden, Context]:
        """Embed latents (B, channels, F, Y, X) and timesteps (B,), which run from 1000 to 0.

        Raises:
            ValueError: the latents are of another size than the conditioning.
        """
        dtype, weight = prepared.text.dtype, params["x_embedder.proj.weight"]
        grid = tuple(n // p for n, p in zip(latents.shape[2:], weight.shape[2:], strict=True))
        if grid != prepared.grid:
            raise ValueError(
                f"the latents have {grid} tokens in frames, rows and columns and the conditioning "
                f"{prepared.grid}; make both for the same size"
            )
        temb = embed_time(params, EMBEDDER, timestep, dtype)
        for each in prepared.added:
            temb = temb + each
        seen = self._beside(prepared.image, latents).to(dtype)
        image = F.conv3d(seen, weight, params["x_embedder.proj.bias"], stride=weight.shape[2:])
        refining = embed_time(params, REFINING, timestep, dtype) + prepared.mean
        hidden = Hidden(
            image=image.flatten(2).transpose(1, 2).contiguous(),
            text=self.refiner(params, prepared.text, F.silu(refining), prepared.refining),
        )
        return hidden, Context(
            # Every block begins by activating temb: once is enough.
            temb=F.silu(temb),
            still=None if prepared.still is None else F.silu(prepared.still),
            mask=prepared.mask,
            rotary=prepared.rotary,
            grid=prepared.grid,
            frame=grid[1] * grid[2],
        )

    def _beside(self, image: torch.Tensor | None, latents: torch.Tensor) -> torch.Tensor:
        """Return latents as the model sees them: with the image's."""
        if image is None:
            return latents
        if self.kind == CONCAT:
            rest = (0, 0, 0, 0, 0, latents.shape[2] - 1)
            mask = torch.ones_like(image[:, :1])  # which frames are given
            return torch.cat([latents, F.pad(torch.cat([image, mask], dim=1), rest)], dim=1)
        return torch.cat([image, latents[:, :, 1:]], dim=2)


def double(params: Params, hidden: Hidden, context: Context, attend: Attend, last: bool = False) -> Hidden:
    """Run one block with weights of its own for image and text, which attend to each other (see `pure.Ending`)."""
    image, text, frame = hidden.image, hidden.text, context.frame
    moving, still = own_modulations(params, "norm1.linear", context, 6)
    shift, scale, gate, *rest = modulations(params, "norm1_context.linear", context.temb, 6)
    x = framed(modulate, image, frame, moving[:2], still[:2])
    x, y = _together(params, x, modulate(text, shift, scale), context, attend, last)
    image = image + framed(torch.mul, x, frame, moving[2:3], still[2:3])
    x = framed(modulate, image, frame, moving[3:5], still[3:5])
    wide = gelu(linear(params, "ff.net.0.proj", x))
    x = framed(torch.mul, linear(params, "ff.net.2", wide), frame, moving[5:], still[5:])
    if y is not None:
        text = feed(params, "ff_context", text + gate * y, *rest)
    return Hidden(image=image + x, text=text)


def _together(
    params: Params, image: torch.Tensor, text: torch.Tensor, context: Context, attend: Attend, last: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Let image and text attend to each other, image first, each with projections of its own; if `last`, the image."""
    rotary = context.rotary.value
    q, k = (rotate(heads(params, f"to_{name}", image, f"norm_{name}", rms_norm), rotary) for name in ("q", "k"))
    k = torch.cat([k, heads(params, "add_k_proj", text, "norm_added_k", rms_norm)], dim=1)
    v = torch.cat([heads(params, "to_v", image), heads(params, "add_v_proj", text)], dim=1)
    if last:
        return linear_of_slice(params, "attn.to_out.0", attend(q, k, v, context.mask).flatten(2)), None
    q = torch.cat([q, heads(params, "add_q_proj", text, "norm_added_q", rms_norm)], dim=1)
    attended, tokens = attend(q, k, v, context.mask).flatten(2), image.shape[1]
    out = linear_of_slice(params, "attn.to_out.0", attended[:, :tokens])
    return out, linear_of_slice(params, "attn.to_add_out", attended[:, tokens:])


def single(params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
    """Run one block on image and text as one sequence, attention and perceptron side by side."""
    both, tokens = torch.cat([hidden.image, hidden.text], dim=1), hidden.image.shape[1]
    moving, still = own_modulations(params, "norm.linear", context, 3)
    x = framed(modulate, both, context.frame, moving[:2], still[:2])
    wide = gelu(linear(params, "proj_mlp", x))
    q, k = (_turned(heads(params, f"to_{n}", x, f"norm_{n}", rms_norm), tokens, context) for n in ("q", "k"))
    attended = attend(q, k, heads(params, "to_v", x), context.mask).flatten(2)
    out = linear(params, "proj_out", torch.cat([attended, wide], dim=2))
    both = framed(torch.mul, out, context.frame, moving[2:], still[2:]) + both
    return Hidden(image=both[:, :tokens], text=both[:, tokens:])


def _turned(x: torch.Tensor, tokens: int, context: Context) -> torch.Tensor:
    """Rotate the image tokens, which are the first; text has no position."""
    return torch.cat([rotate(x[:, :tokens], context.rotary.value), x[:, tokens:]], dim=1)


def own_modulations(
    params: Params, name: str, context: Context, parts: int
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return `parts` modulations for most tokens, and as many for those of a given first frame, if there is one."""
    moving = modulations(params, name, context.temb, parts)
    return moving, () if context.still is None else modulations(params, name, context.still, parts)


def head(params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
    """Return the predicted velocity (B, channels, F, Y, X); that of a given first frame is zero."""
    out = project(params, hidden.image, context.temb)
    patch = params["x_embedder.proj.weight"].shape[2:]
    out = out.reshape(out.shape[0], *context.grid, -1, *patch).permute(0, 4, 1, 5, 2, 6, 3, 7)
    out = out.flatten(6, 7).flatten(4, 5).flatten(2, 3)
    if context.still is None:
        return out
    return torch.cat([torch.zeros_like(out[:, :, :1]), out[:, :, 1:]], dim=2)
