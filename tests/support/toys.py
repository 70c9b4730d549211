"""Denoisers small enough to think about: a closed form, a random one, one whose blocks return views, an adder.

Shapes: B samples, N image tokens, T text tokens, D width.
"""

from collections.abc import Callable, Sequence

import torch

import pure
from pure import Block, Denoiser, Shared
from pure.models.common.config import TransformerConfig, parameter_shapes

TOKENS, TEXT, WIDTH = 3, 2, 4
AMOUNTS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
TEXT_SHARE = 2.0  # what a block adds to the text, relative to the image


@pure.state
class Single:
    """One stream."""

    image: torch.Tensor  # (B, N, D)


@pure.state
class Pair:
    """Two streams."""

    image: torch.Tensor  # (B, N, D)
    text: torch.Tensor  # (B, T, D)


def attend(q, k, v, mask=None):
    """Return attention of one head, (B, N, D)."""
    return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def normal(*shape, seed):
    """Return fp32 noise of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(config: TransformerConfig, scale: float) -> dict[str, torch.Tensor]:
    """Return random parameters of the transformer of a config."""
    return {
        name: scale * normal(*shape, seed=i) for i, (name, shape) in enumerate(sorted(parameter_shapes(config).items()))
    }


def rows(shape: tuple[int, ...], offset: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """Return a function that draws one row of noise for each seed, (B, *shape); other offsets give other noise."""
    return lambda seeds: torch.stack([normal(*shape, seed=offset + seed) for seed in seeds])


# Closed form: block i adds 10^i x time to the image and twice that to the text, in float64.


def closed_prepare(params, conditioning):
    return {"text": conditioning["text"] * params["scale"]}


def closed_embed(params, prepared, latents, timestep):
    return Pair(image=latents, text=prepared["text"]), {"time": timestep.to(latents.dtype)}


def closed_block(params, hidden, context, attend):
    added = params["amount"] * context["time"].view(-1, 1, 1)
    return Pair(image=hidden.image + added, text=hidden.text + TEXT_SHARE * added)


def closed_head(params, hidden, context):
    return hidden.image + hidden.text.mean((1, 2), keepdim=True)


def closed_denoiser() -> Denoiser:
    blocks = tuple(Block(closed_block, f"blocks.{i}.") for i in range(len(AMOUNTS)))
    return Denoiser(
        prepare=closed_prepare,
        embed=closed_embed,
        blocks=blocks,
        head=closed_head,
        attend=attend,
        probe=image_of,
        streams=("image", "text"),
    )


def closed_params():
    one = torch.ones((), dtype=torch.float64)
    return {"scale": one} | {f"blocks.{i}.amount": amount * one for i, amount in enumerate(AMOUNTS)}


# Random and nonlinear: one stream; trees that are bare tensors and tuples.


def random_prepare(params, conditioning):
    return conditioning @ params["text"]


def random_embed(params, prepared, latents, timestep):
    return Single(image=latents @ params["in"]), (prepared[:, None] + timestep.view(-1, 1, 1), Shared(value=()))


def random_block(params, hidden, context, attend):
    x = hidden.image
    return Single(image=x + (attend(x, x, x) @ params["weight"] + context[0]).tanh())


def random_head(params, hidden, context):
    return hidden.image @ params["out"]


def random_denoiser() -> Denoiser:
    return Denoiser(
        prepare=random_prepare,
        embed=random_embed,
        blocks=tuple(Block(random_block, f"blocks.{i}.") for i in range(4)),
        head=random_head,
        attend=attend,
        probe=image_of,
        streams=("image",),
    )


def random_params(seed):
    names = ("text", "in", "out", *(f"blocks.{i}.weight" for i in range(4)))
    return {name: 0.5 * normal(WIDTH, WIDTH, seed=seed + i) for i, name in enumerate(names)}


# Streams: image and text as one sequence, so that blocks return views; only the image reaches the head.


def streams_prepare(params, conditioning):
    return {"text": conditioning["text"] @ params["text"], "places": Shared(value=params["places"])}


def streams_embed(params, prepared, latents, timestep):
    context = {"time": timestep[:, None].to(latents.dtype), "places": prepared["places"]}
    return Pair(image=latents @ params["in"], text=prepared["text"]), context


def streams_block(params, hidden, context, attend):
    both = torch.cat([hidden.text, hidden.image], dim=1)
    x = both + context["places"].value
    both = both + (attend(x, x, x) @ params["weight"] + context["time"][:, None]).tanh()
    return Pair(text=both[:, :TEXT], image=both[:, TEXT:])


def streams_head(params, hidden, context):
    return hidden.image @ params["out"]


def streams_denoiser() -> Denoiser:
    return Denoiser(
        prepare=streams_prepare,
        embed=streams_embed,
        blocks=tuple(Block(streams_block, f"blocks.{i}.") for i in range(4)),
        head=streams_head,
        attend=attend,
        probe=image_of,
        streams=("image", "text"),
        reads=("image",),
    )


def streams_params():
    return random_params(100) | {"places": 0.1 * normal(TEXT + TOKENS, WIDTH, seed=99)}


# Adder: every block adds a number and a multiple of the timestep to the image, a tenth of it to the text; float64.


def adder_prepare(params, conditioning):
    return {"text": conditioning}


def adder_embed(params, prepared, latents, timestep):
    return Pair(image=latents, text=prepared["text"]), {"time": timestep}


def adder_block(params, hidden, context, attend):
    added = params["amount"] + params["drift"] * context["time"][:, None, None]
    return Pair(image=hidden.image + added, text=hidden.text + added / 10)


def adder_head(params, hidden, context):
    return hidden.image


def adder(amounts: Sequence[float], drift: float = 0.0) -> tuple[Denoiser, dict[str, torch.Tensor]]:
    """Return a denoiser whose block i adds `amounts[i]` + `drift` x timestep, and its parameters.

    Conditioning is the text (B, 1, D), latents are (B, N, D).
    """
    params = {}
    for i, amount in enumerate(amounts):
        params[f"blocks.{i}.amount"] = torch.tensor(float(amount), dtype=torch.float64)
        params[f"blocks.{i}.drift"] = torch.tensor(drift, dtype=torch.float64)
    denoiser = Denoiser(
        prepare=adder_prepare,
        embed=adder_embed,
        blocks=tuple(Block(adder_block, f"blocks.{i}.") for i in range(len(amounts))),
        head=adder_head,
        attend=attend,
        probe=image_of,
        streams=("image", "text"),
        reads=("image",),
    )
    return denoiser, params


def image_of(hidden):
    """Return the stream whose change is measured."""
    return hidden.image
