"""Denoisers small enough to think about: a closed form, a random one, one whose blocks return views.

Shapes: B samples, N image tokens, T text tokens, D width.
"""

import functools
from collections.abc import Callable
from typing import Any

import attrs
import torch

import pure
from pure import Block, Denoiser, Experts, Shared
from pure.testing.situation import Model

TOKENS, TEXT, WIDTH = 3, 2, 4
AMOUNTS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
FLOAT64 = (2e-6, 2e-5)  # of a model that has no number of fp32: see Model.differences
TEXT_SHARE = 2.0  # what a block adds to the text, relative to the image


@pure.state
class OneStream:
    """One stream."""

    image: torch.Tensor  # (B, N, D)


@pure.state
class TwoStreams:
    """Two streams."""

    image: torch.Tensor  # (B, N, D)
    text: torch.Tensor  # (B, T, D)


def attend(q, k, v, mask=None):
    """Return attention of one head, (B, N, D)."""
    return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def normal(*shape, seed):
    """Return fp32 noise of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(shape: tuple[int, ...], offset: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """Return a function that draws one row of noise for each seed, (B, *shape); other offsets give other noise."""
    return lambda seeds: torch.stack([normal(*shape, seed=offset + seed) for seed in seeds])


def image_of(hidden):
    """Return the stream whose change is measured."""
    return hidden.image


def _denoiser(prepare: Callable, embed: Callable, block: Callable, count: int, **fields: Any) -> Denoiser:
    """Return a denoiser of `count` equal blocks; by default of two streams that `random_head` reads."""
    own: dict[str, Any] = {"head": random_head, "streams": ("image", "text"), **fields}
    blocks = tuple(Block(block, f"blocks.{i}.") for i in range(count))
    return Denoiser(prepare=prepare, embed=embed, blocks=blocks, attend=attend, probe=image_of, **own)


# Closed form: block i adds 10^i x time to the image and twice that to the text, in float64.


def closed_prepare(params, conditioning):
    """Scale the text."""
    return {"text": conditioning["text"] * params["scale"]}


def closed_embed(params, prepared, latents, timestep):
    """Pass on latents and text."""
    return TwoStreams(image=latents, text=prepared["text"]), {"time": timestep.to(latents.dtype)}


def closed_block(params, hidden, context, attend):
    """Add an amount times the time."""
    added = params["amount"] * context["time"].view(-1, 1, 1)
    return TwoStreams(image=hidden.image + added, text=hidden.text + TEXT_SHARE * added)


def closed_head(params, hidden, context):
    """Add up image and text."""
    return hidden.image + hidden.text.mean((1, 2), keepdim=True)


def closed_denoiser() -> Denoiser:
    """Return the denoiser of closed form."""
    return _denoiser(closed_prepare, closed_embed, closed_block, len(AMOUNTS), head=closed_head)


def closed_params():
    """Return the amounts of its blocks."""
    one = torch.ones((), dtype=torch.float64)
    return {"scale": one} | {f"blocks.{i}.amount": amount * one for i, amount in enumerate(AMOUNTS)}


# Random and nonlinear: one stream; trees that are bare tensors and tuples.


def random_prepare(params, conditioning):
    """Project the label (B, D)."""
    return conditioning @ params["text"]


def random_embed(params, prepared, latents, timestep):
    """Project the latents (B, N, D)."""
    return OneStream(image=latents @ params["in"]), (prepared[:, None] + timestep.view(-1, 1, 1), Shared(value=()))


def random_block(params, hidden, context, attend):
    """Attend, and add."""
    x = hidden.image
    return OneStream(image=x + (attend(x, x, x) @ params["weight"] + context[0]).tanh())


def random_head(params, hidden, context):
    """Project the image."""
    return hidden.image @ params["out"]


def random_denoiser(blocks: int = 4) -> Denoiser:
    """Return the denoiser of one stream."""
    return _denoiser(random_prepare, random_embed, random_block, blocks, streams=("image",))


def random_params(seed: int, blocks: int = 4) -> dict[str, torch.Tensor]:
    """Return its parameters, drawn from a seed."""
    names = ("text", "in", "out", *(f"blocks.{i}.weight" for i in range(blocks)))
    return {name: 0.5 * normal(WIDTH, WIDTH, seed=seed + i) for i, name in enumerate(names)}


# Streams: image and text as one sequence, so that blocks return views; only the image reaches the head.


def streams_prepare(params, conditioning):
    """Project the text (B, T, D)."""
    return {"text": conditioning["text"] @ params["text"], "places": Shared(value=params["places"])}


def streams_embed(params, prepared, latents, timestep):
    """Project the latents (B, N, D)."""
    context = {"time": timestep[:, None].to(latents.dtype), "places": prepared["places"]}
    return TwoStreams(image=latents @ params["in"], text=prepared["text"]), context


def streams_block(params, hidden, context, attend):
    """Attend over both streams, and return views of the sum."""
    both = torch.cat([hidden.text, hidden.image], dim=1)
    x = both + context["places"].value
    both = both + (attend(x, x, x) @ params["weight"] + context["time"][:, None]).tanh()
    return TwoStreams(text=both[:, :TEXT], image=both[:, TEXT:])


def streams_denoiser(blocks: int = 4) -> Denoiser:
    """Return the denoiser of two streams."""
    return _denoiser(streams_prepare, streams_embed, streams_block, blocks, reads=("image",))


def streams_params(seed: int = 100, blocks: int = 4) -> dict[str, torch.Tensor]:
    """Return its parameters, drawn from a seed."""
    return random_params(seed, blocks) | {"places": 0.1 * normal(TEXT + TOKENS, WIDTH, seed=99)}


image_latents = rows((TOKENS, WIDTH), 0)
TEXTS = rows((TEXT, WIDTH), 10)
_model = functools.partial(Model, differences=FLOAT64, latents=image_latents)


@functools.cache
def random_model(blocks: int = 4, seed: int = 0) -> Model:
    """Return the model of one stream, with parameters of a seed; conditioning is a label (B, D)."""
    denoiser, params = random_denoiser(blocks), random_params(seed, blocks)
    return _model(name=f"random-{blocks}-{seed}", denoiser=denoiser, params=params, conditioning=rows((WIDTH,), 10))


@functools.cache
def streams_model(blocks: int = 4, seed: int = 100) -> Model:
    """Return the model of two streams, with parameters of a seed; conditioning is {"text": (B, T, D)}."""
    return _model(
        name=f"streams-{blocks}-{seed}",
        denoiser=streams_denoiser(blocks),
        params=streams_params(seed, blocks),
        conditioning=lambda seeds: {"text": TEXTS(seeds)},
    )


@functools.cache
def experts_model(blocks: int = 4, seed: int = 0) -> Model:
    """Return two experts of one stream each, with parameters of their own."""
    denoiser = Experts({"high": random_denoiser(blocks), "low": random_denoiser(blocks)})
    params = {"high": random_params(seed, blocks), "low": random_params(seed + 50, blocks)}
    return _model(name=f"experts-{blocks}-{seed}", denoiser=denoiser, params=params, conditioning=rows((WIDTH,), 10))


# Those that every law is tried on. CLOSED has its arithmetic in `oracle`.
CLOSED = _model(
    name="closed",
    denoiser=closed_denoiser(),
    params=closed_params(),
    conditioning=lambda seeds: {"text": TEXTS(seeds).double()},
    latents=lambda seeds: image_latents(seeds).double(),
)
RANDOM = attrs.evolve(random_model(), name="random")
STREAMS = attrs.evolve(streams_model(), name="streams")
EXPERTS = attrs.evolve(experts_model(), name="experts")


def made_by(model: Model) -> str | None:
    """Return the expression that makes this very model; None of one that is not from here."""
    for name, one in (("CLOSED", CLOSED), ("RANDOM", RANDOM), ("STREAMS", STREAMS), ("EXPERTS", EXPERTS)):
        if model is one:
            return name
    kind, *numbers = model.name.split("-")
    make = {"random": random_model, "streams": streams_model, "experts": experts_model}.get(kind)
    if make is None or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
        return None
    blocks, seed = map(int, numbers)
    return f"{kind}_model(blocks={blocks}, seed={seed})" if make(blocks=blocks, seed=seed) is model else None
