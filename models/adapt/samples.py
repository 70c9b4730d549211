"""Which dimension of what a model's blocks are given is the sample: found by running one sample more.

Shapes: B samples.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch

from pure.block import Params
from pure.models.adapt.arguments import has_samples
from pure.models.adapt.forward import ForwardCall
from pure.models.adapt.pieces import Embed, Samples
from pure.models.adapt.tape import Untraceable
from pure.models.errors import CheckpointError
from pure.tree import take

Names = frozenset[str]


def find_samples(embed: Embed, params: Params, example: Mapping[str, Any]) -> Embed:
    """Find out where the samples are in streams, constants and arguments.

    Args:
        embed: of the model; its forward says which arguments are known to be shared.
        params: of the model.
        example: keyword arguments of one call of the forward.

    Returns:
        `embed` with what was found in its `samples` and in `shared` and `second` of its forward.

    Raises:
        CheckpointError: something is neither shared nor one row per sample, in a batch of several.
    """
    batch, reasons, known = len(example[embed.forward.latents]), [], embed.forward.shared
    for more, second in _guesses(embed, example, batch):
        guess = attrs.evolve(embed, forward=attrs.evolve(embed.forward, shared=known | more, second=second))
        try:
            return attrs.evolve(guess, samples=_samples(guess, params, guess.forward.sorted(example), batch))
        except (CheckpointError, Untraceable, RuntimeError, ValueError, IndexError) as error:
            reasons.append(error)
    if batch == 1:
        return embed  # there is nothing to tell apart
    raise CheckpointError(
        f"the samples of a batch of {type(embed.model.module).__name__} cannot be told apart ({reasons[0]}); run one "
        "sample at a time, or name the arguments that all samples share (shared=...)"
    ) from reasons[0]


def _guesses(embed: Embed, example: Mapping[str, Any], batch: int) -> Iterator[tuple[Names, Names]]:
    """Yield arguments that may be shared though a dimension is the batch, and those that may have samples second."""
    forward = embed.forward
    others = sorted(example.keys() - forward.shared - {forward.latents, forward.timestep})
    tensors = {name: example[name] for name in others if isinstance(example[name], torch.Tensor)}
    second = frozenset(n for n, t in tensors.items() if t.ndim > 2 and t.shape[1] == batch != t.shape[0])
    seconds = list(dict.fromkeys((frozenset(), second)))
    yield from ((frozenset(), each) for each in seconds)
    # With one sample a dimension of size 1 says nothing; with several it may be the batch by chance.
    unsure = [name for name in others if has_samples(example[name], batch)] if batch > 1 else []
    for count in (1, 2, 3):
        for names in itertools.combinations(unsure, count):
            yield from ((frozenset(names), each) for each in seconds)


def _samples(embed: Embed, params: Params, call: ForwardCall, batch: int) -> Samples:
    """Return where the samples are: the dimensions that grow when there is one sample more (the first one again).

    Raises:
        CheckpointError: a stream has no sample dimension, or a constant is neither shared nor one row per sample.
    """
    more = torch.tensor([*range(batch), 0])
    times = take(call.timestep, more) if call.timestep.ndim else call.timestep
    larger = ForwardCall(take(call.latents, more), times, take(call.conditioning, more))
    before, after = _walked(embed, params, call), _walked(embed, params, larger)
    streams = [_sample_dim(a, b, more) for a, b in zip(before[0], after[0], strict=True)]
    if None in streams:
        raise CheckpointError("a stream has no sample dimension")
    constants = tuple(_sample_dim(a, b, more) for a, b in zip(before[1], after[1], strict=True))
    return Samples(tuple(dim for dim in streams if dim is not None), constants)


def _walked(embed: Embed, params: Params, call: ForwardCall) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    _, streams, constants = embed.walk(params, embed.forward.unsorted(call), call.latents.device)
    return streams, constants


def _sample_dim(before: torch.Tensor, after: torch.Tensor, more: torch.Tensor) -> int | None:
    """Return which dimension is the sample; None if the tensor is the same for all.

    Raises:
        CheckpointError: none is, and it is not the same.
    """
    if _agree(before, after):
        return None
    rows = more.to(before.device)
    for dim, (size, larger) in enumerate(zip(before.shape, after.shape, strict=False)):
        if size == len(more) - 1 and larger == len(more) and _agree(before.index_select(dim, rows), after):
            return dim
    raise CheckpointError(
        f"a block is given a tensor of shape {tuple(before.shape)} for {len(more) - 1} and of shape "
        f"{tuple(after.shape)} for {len(more)} samples, or the samples of a batch influence each other"
    )


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether tensors are the same but for the rounding of a batch of another size."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    coarse = 1e-3 if torch.finfo(a.dtype).bits > 16 else 5e-2
    scale = float(b.abs().nan_to_num(posinf=0.0, neginf=0.0).max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=coarse * (scale + 1e-6), equal_nan=True)
