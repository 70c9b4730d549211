"""One step of a denoiser, to be compared with what diffusers' module predicts."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import torch

import pure


def predicted(model: torch.nn.Module, call: dict[str, Any]) -> torch.Tensor:
    """What the module predicts."""
    with torch.no_grad():
        return model(**call, return_dict=False)[0]


def run(
    denoiser: pure.Denoiser,
    model: torch.nn.Module,
    conditioning: Any,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    compile: pure.CompileOptions | None = None,
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction of one step with the parameters of a module, and the state before and after."""
    denoiser, weights = attrs.evolve(denoiser, compile=compile), dict(model.state_dict())
    step = pure.Step(index=0, count=4, timestep=timestep)
    with torch.no_grad():
        before = denoiser.init(weights, conditioning, latents, 4)
        prediction, after, _ = denoiser.apply(weights, before, pure.Inputs(latents, step))
    return prediction, before, after


def piece_by_piece(
    denoiser: pure.Denoiser, model: torch.nn.Module, conditioning: Any, latents: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """The same prediction without a state, of pieces called one after the other."""
    weights = dict(model.state_dict())
    with torch.no_grad():
        prepared = denoiser.prepare(weights, conditioning)
        hidden, context = denoiser.embed(weights, prepared, latents, timestep)
        for block, group in zip(denoiser.blocks, denoiser.bind(weights).blocks, strict=True):
            hidden = block.run(group, hidden, context, denoiser.attend)
        return denoiser.head(weights, hidden, context)


def attended(
    denoiser: pure.Denoiser, model: torch.nn.Module, conditioning: Any, latents: torch.Tensor, timestep: torch.Tensor
) -> list[tuple[torch.Size, torch.Size, torch.Tensor | None]]:
    """Shapes of queries and keys, and masks, that one step gives to the denoiser's `attend`."""
    seen = []

    def watched(q, k, v, mask=None, whole=False):
        seen.append((q.shape, k.shape, mask))
        return torch.zeros_like(q)

    run(attrs.evolve(denoiser, attend=watched), model, conditioning, latents, timestep)
    return seen


@contextlib.contextmanager
def unchanged(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Check that what happens inside neither writes into these tensors nor changes their values."""
    kept = list(tensors)
    copies, versions = [t.clone() for t in kept], [t._version for t in kept]
    yield
    assert [t._version for t in kept] == versions
    assert all(torch.equal(t, copy) for t, copy in zip(kept, copies, strict=True))


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a module."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
