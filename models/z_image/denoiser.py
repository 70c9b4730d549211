r"""Z-Image (turbo and base) as pure functions over the checkpoint's own parameter names.

In fp32 and eager mode every operation is that of diffusers' `ZImageTransformer2DModel`, in
its order: predictions are equal to the last bit where the width of a head is a multiple of
16 (it is 128 in all checkpoints). Elsewhere they agree to 1e-6: rotation is done in real
numbers, and a product of complex ones may be fused at the end of a row. (Of complex numbers
inductor makes no code.)

Sign and time are those of the other families: `timestep` is sigma, from 1 to 0, and the
prediction is the velocity $dx / d\sigma$. The network itself sees $1 - \sigma$ and predicts
the opposite velocity; `Embed` and `Head` translate.

Latents and predictions are fp32 for models of every type.

Image and text tokens are padded to multiples of 32 with learnt tokens that take part in
attention. Samples whose text still differs in length are padded to the longest, and masked.

Shapes: B samples, N image tokens, T text tokens, both padded, S = N + T, D width, H heads,
C width of a head, latents (B, channels, height, width).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Block, Denoiser, PerToken, state
from pure.attention import Attend, attend
from pure.models.common.layers import Params, linear, polar, rms_norm, rotary_tables, rotate, sinusoids
from pure.models.common.streams import Hidden, Tables, two_streams
from pure.models.z_image.config import PATCH, ZImageConfig, sharding
from pure.tree import static

IMAGE_FIRST = ("image", "text")
PER_TOKEN = PerToken(tables=(("rotary", IMAGE_FIRST),), masks=(("mask", IMAGE_FIRST),))
FREQUENCIES = 128  # sines and cosines each that stand for a timestep
MULTIPLE = 32  # tokens; sequences are padded to multiples of it
EMBEDDER, FINAL = f"all_x_embedder.{PATCH}-1", f"all_final_layer.{PATCH}-1"


@state
class Conditioning:
    """What an image is made from, besides noise."""

    text: torch.Tensor  # (B, tokens, width of the text encoder); beyond a sample's length anything finite
    lengths: torch.Tensor | None = None  # (B,) text tokens of every sample; None: all there are
    grid: tuple[int, int] = static()  # rows and columns of image tokens
    # Whether padded lengths may differ, so that attention needs a mask. False where `lengths`, each
    # rounded up to a multiple of 32, are known to be all that of `text`.
    ragged: bool = static(default=True)


@state
class Prepared:
    """What does not depend on the step."""

    text: torch.Tensor  # (B, T, D) refined
    rotary: Tables  # cosines and sines, fp32, each (B, S, 1, C): where the image lies depends on the text's length
    mask: torch.Tensor | None  # (B, 1, 1, S) True where a token takes part; None where all do
    grid: tuple[int, int] = static()


@state
class Context:
    """What every block of a step reads."""

    temb: torch.Tensor  # (B, at most 256): time, embedded
    rotary: Tables  # as in Prepared
    mask: torch.Tensor | None  # as in Prepared
    grid: tuple[int, int] = static()


def z_image(config: ZImageConfig | Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a Z-Image transformer; see `ZImageConfig.read` for the config and its errors.

    >>> z_image({"n_layers": 2}).blocks[1].prefix
    'layers.1.'
    """
    found = ZImageConfig.read(config)
    layer = ZImageBlock(width=found.heads.width, eps=found.norm_eps, normed=found.qk_norm)
    blocks = tuple(Block(layer, f"layers.{i}.") for i in range(found.n_layers))
    prepare, embed = Prepare(found, layer, attend), Embed(found, layer, attend)
    return two_streams(prepare, embed, blocks, head, sharding(found), PER_TOKEN)


@attrs.frozen
class ZImageBlock:
    """One transformer layer; as a block it runs on image and text as one sequence.

    Attributes:
        width: C.
        eps: of the four normalisations around attention and feed-forward network.
        normed: whether queries and keys are normalised.
    """

    width: int
    eps: float
    normed: bool

    def __call__(self, params: Params, hidden: Hidden, context: Context, attend: Attend) -> Hidden:
        """Run the layer as a block."""
        both, tokens = torch.cat([hidden.image, hidden.text], dim=1), hidden.image.shape[1]
        both = self.run(params, "", both, context.temb, context.rotary, context.mask, attend)
        return Hidden(image=both[:, :tokens], text=both[:, tokens:])

    def run(
        self,
        params: Params,
        prefix: str,
        x: torch.Tensor,
        temb: torch.Tensor | None,
        rotary: Tables,
        mask: torch.Tensor | None,
        attend: Attend,
    ) -> torch.Tensor:
        """Run the layer whose names begin with `prefix` on tokens (B, tokens, D), modulated unless `temb` is None."""
        scale, gate, wide_scale, wide_gate = self._modulation(params, prefix, temb)
        y = self._norm(params, prefix + "attention_norm1", x) * scale
        y = self.attention(params, prefix, y, rotary, mask, attend)
        x = x + gate * self._norm(params, prefix + "attention_norm2", y)
        y = feed(params, prefix, self._norm(params, prefix + "ffn_norm1", x) * wide_scale)
        return x + wide_gate * self._norm(params, prefix + "ffn_norm2", y)

    def _modulation(self, params: Params, prefix: str, temb: torch.Tensor | None) -> Sequence[torch.Tensor | float]:
        """Return scale and gate of the attention, then of the feed-forward network; 1 changes no bit."""
        if temb is None:
            return (1.0,) * 4
        scale, gate, *wide = linear(params, prefix + "adaLN_modulation.0", temb).unsqueeze(1).chunk(4, dim=2)
        return 1.0 + scale, gate.tanh(), 1.0 + wide[0], wide[1].tanh()

    def _norm(self, params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, params[name + ".weight"], self.eps)

    def attention(
        self, params: Params, prefix: str, x: torch.Tensor, rotary: Tables, mask: torch.Tensor | None, attend: Attend
    ) -> torch.Tensor:
        """Let tokens (B, tokens, D) attend to each other."""
        prefix += "attention."
        q, k, v = (
            linear(params, prefix + name, x).unflatten(-1, (-1, self.width)) for name in ("to_q", "to_k", "to_v")
        )
        if self.normed:
            q, k = (rms_norm(y, params[f"{prefix}norm_{n}.weight"], 1e-5) for n, y in (("q", q), ("k", k)))
        return linear(params, prefix + "to_out.0", attend(rotate(q, rotary), rotate(k, rotary), v, mask).flatten(2))


def feed(params: Params, prefix: str, x: torch.Tensor) -> torch.Tensor:
    """Run the gated feed-forward network on tokens (B, tokens, D)."""
    prefix += "feed_forward."
    return linear(params, prefix + "w2", F.silu(linear(params, prefix + "w1", x)) * linear(params, prefix + "w3", x))


@attrs.frozen
class Prepare:
    """Embed and refine the text, which no step changes, and tabulate rotary embedding and mask.

    Attributes:
        config: of the transformer.
        layer: of the refiner.
        attend: of the refiner.
    """

    config: ZImageConfig
    layer: ZImageBlock
    attend: Attend

    def __call__(self, params: Params, conditioning: Conditioning) -> Prepared:
        """Return what does not depend on the step.

        Raises:
            ValueError: text or image reaches beyond the positions of the checkpoint.
        """
        text, grid, lengths = conditioning.text, conditioning.grid, conditioning.lengths
        tokens = padded(text.shape[1])
        self._check(tokens, grid)
        places = torch.arange(tokens, device=text.device)
        real = (places < (text.shape[1] if lengths is None else lengths[:, None])).expand(len(text), -1)
        ends = torch.full_like(real[:, 0], tokens, dtype=torch.float64) if lengths is None else padded(lengths).double()
        rotary, count = self.rotary(ends, grid, tokens), padded(grid[0] * grid[1])
        x = rms_norm(F.pad(text, (0, 0, 0, tokens - text.shape[1])), params["cap_embedder.0.weight"], self.layer.eps)
        x = torch.where(real[..., None], linear(params, "cap_embedder.1", x), params["cap_pad_token"])
        mask = None
        if lengths is not None and conditioning.ragged:
            mask = (torch.arange(count + tokens, device=text.device) < (ends + count)[:, None])[:, None, None]
        of_text = None if mask is None else mask[..., count:]
        tables = rotary[0][:, count:], rotary[1][:, count:]
        for i in range(self.config.n_refiner_layers):
            x = self.layer.run(params, f"context_refiner.{i}.", x, None, tables, of_text, self.attend)
        return Prepared(text=x, rotary=rotary, mask=mask, grid=grid)

    def rotary(self, ends: torch.Tensor, grid: tuple[int, int], tokens: int) -> Tables:
        """Return tables (B, S, 1, C) of `grid` image tokens and then `tokens` of text, which ends at `ends` (B,).

        Text lies on the first axis from 1 on; the image behind it, at its end, on the other two;
        what pads the image lies at the origin.
        """
        rows, columns = (torch.arange(side, device=ends.device) for side in grid)
        image = torch.cartesian_prod(torch.ones_like(rows[:1]), rows, columns)  # 1 times the place of the image
        image = F.pad(image, (0, 0, 0, padded(len(image)) - len(image)))
        behind = F.pad((ends + 1)[:, None, None], (0, 2), value=1.0)  # (B, 1, 3)
        text = F.pad(torch.arange(1, tokens + 1, device=ends.device)[:, None], (0, 2)).expand(len(ends), -1, -1)
        places = torch.cat([image * behind, text], dim=1)  # (B, S, 3)
        return rotary_tables(
            places, self.config.axes_dims, self.config.rope_theta, turn=lambda angles: polar(angles.float())
        )

    def _check(self, tokens: int, grid: tuple[int, int]) -> None:
        # The image lies behind the text, whose positions begin at 1.
        needed = {"text": tokens + 2, "rows": grid[0], "columns": grid[1]}
        for (name, count), limit in zip(needed.items(), self.config.axes_lens, strict=True):
            if count > limit:
                cure = "shorten the prompt" if name == "text" else "make a smaller image"
                raise ValueError(f"{name} would need {count} positions and the checkpoint has {limit}; {cure}")


@attrs.frozen
class Embed:
    """Embed latents and timestep, and refine the image; the attributes are those of `Prepare`."""

    config: ZImageConfig
    layer: ZImageBlock
    attend: Attend

    def __call__(
        self, params: Params, prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Hidden, Context]:
        """Embed latents (B, channels, height, width) and timesteps (B,), which are sigma, from 1 to 0.

        Raises:
            ValueError: the latents have another size than the conditioning was made for.
        """
        rows, columns = prepared.grid
        if latents.shape[2:] != (rows * PATCH, columns * PATCH):
            raise ValueError(
                f"latents of {latents.shape[2]} x {latents.shape[3]} do not fit a conditioning for "
                f"{rows * PATCH} x {columns * PATCH}; encode the prompt for the size of the latents"
            )
        latents = latents.to(prepared.text.dtype)
        angles = sinusoids((1 - timestep) * self.config.t_scale, FREQUENCIES).to(latents.dtype)
        temb = linear(params, "t_embedder.mlp.2", F.silu(linear(params, "t_embedder.mlp.0", angles)))
        context = Context(temb=temb, rotary=prepared.rotary, mask=prepared.mask, grid=prepared.grid)
        tokens, x = rows * columns, patchify(latents)
        # Padded first: of fewer rows a product may have other bits.
        count = padded(tokens)
        x = linear(params, EMBEDDER, F.pad(x, (0, 0, 0, count - tokens)))
        x = torch.cat([x[:, :tokens], params["x_pad_token"].expand(len(x), count - tokens, -1)], dim=1)
        tables = prepared.rotary[0][:, :count], prepared.rotary[1][:, :count]
        for i in range(self.config.n_refiner_layers):
            x = self.layer.run(params, f"noise_refiner.{i}.", x, temb, tables, None, self.attend)
        return Hidden(image=x, text=prepared.text), context


def head(params: Params, hidden: Hidden, context: Context) -> torch.Tensor:
    """Return the predicted velocity (B, channels, height, width), as it is integrated: towards more noise.

    It is fp32 at least, whatever the type of the model, as are the latents it is added to.
    """
    scale = 1.0 + linear(params, FINAL + ".adaLN_modulation.1", F.silu(context.temb))
    x = F.layer_norm(hidden.image, hidden.image.shape[-1:], eps=1e-6) * scale.unsqueeze(1)
    x = linear(params, FINAL + ".linear", x)
    return -unpatchify(x.to(torch.promote_types(x.dtype, torch.float32)), context.grid)


def padded(length: Any) -> Any:
    """Round lengths (numbers, or tensors of them) up to a multiple of 32.

    >>> padded(33)
    64
    """
    return (length + MULTIPLE - 1) // MULTIPLE * MULTIPLE


def patchify(latents: torch.Tensor) -> torch.Tensor:
    """Return the patches of latents (B, channels, height, width) as tokens (B, N, 4 channels)."""
    patches = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return latents (B, channels, height, width) of tokens (B, at least rows x columns, 4 channels)."""
    patches = tokens[:, : grid[0] * grid[1]].unflatten(1, grid).unflatten(-1, (PATCH, PATCH, -1))
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
