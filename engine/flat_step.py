"""One step of a program, and the decoder of latents, as functions of lists of tensors, which is what torch exports.

Weights that are quantised are taken apart into plain tensors, their values and scales, and what torchao does with them
is written down as operations of torch: an exported step needs no torchao, and `torch.cond` takes none of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree
from torch.fx.experimental.proxy_tensor import make_fx

from pure import Program
from pure.models import Pipeline, Request
from pure.programs import ProgramState
from pure.tree import tensors_of

__all__ = [
    "FlatDecoder",
    "FlatStep",
    "PlainWeight",
    "Tensors",
    "WeightRecipe",
    "fixed",
    "moving",
    "named",
    "plain",
    "plain_weights",
]

Tensors = dict[str, torch.Tensor]
"""Tensors by name, in the order in which they are given."""


class FlatStep(torch.nn.Module):
    """One step of a program on lists of tensors, as torch exports it.

    Args:
        program: of the run.
        state: of the shapes of the run; its values do not matter.
        params: of the denoiser.
        inside: whether the weights become part of the package; else they are an input.
    """

    def __init__(self, program: Program, state: ProgramState, params: Mapping[str, torch.Tensor], inside: bool) -> None:
        super().__init__()
        self.program, self.state, self.inside = program, state, inside
        self.weights = plain_weights(params)
        if inside:
            for number, each in enumerate(plain(params).values()):
                self.register_buffer(f"weight_{number}", each)

    def forward(
        self,
        weights: list[torch.Tensor],
        fixed: list[torch.Tensor],
        moved: list[torch.Tensor],
        inputs: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Return the moving part of the next state, () bool whether the middle blocks were computed, () the change."""
        inside = (each for _, each in self.named_buffers(remove_duplicate=False))
        given = iter(inside if self.inside else weights)
        params: dict[str, Any] = {
            name: next(given) if recipe is None else recipe.weight(given) for name, recipe in self.weights.items()
        }
        before = _filled(attrs.evolve(self.state, prepared=None), moved)
        state = attrs.evolve(before, prepared=_filled(self.state.prepared, fixed))
        bound, tensors = self.program.denoiser.bind(params), _filled(self.program.inputs[0], inputs)
        after, computed, change = self.program.step(bound, state, tensors)
        # The next step reads them with the strides of its example, which are contiguous.
        return [*(each.contiguous() for each in moving(after).values()), computed, change]


class FlatDecoder(torch.nn.Module):
    """From the latents of the last step to pixels (B, 3, H, W) or (B, F, 3, H, W) in 0 to 1, as torch exports it.

    Args:
        pipeline: that decodes.
        request: of the run.
    """

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        super().__init__()
        self.pipeline, self.request = pipeline, request

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pixels."""
        return self.pipeline.decoded(self.pipeline.finished(latents, self.request), self.request)


def named(tree: Any, device: torch.device | None = None) -> Tensors:
    """Return the tensors of a tree by name, each in memory of its own."""
    return {
        name: leaf.detach().to(device or leaf.device).clone(memory_format=torch.contiguous_format)
        for name, leaf in tensors_of(tree).items()
    }


def fixed(state: ProgramState) -> Tensors:
    """Return what no step changes."""
    return {f".prepared{name}": leaf for name, leaf in named(state.prepared).items()}


def moving(state: ProgramState) -> Tensors:
    """Return what steps change."""
    return named(attrs.evolve(state, prepared=None))


def _filled(tree: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """Return the tree with other tensors, in order."""
    leaves, spec = pytree.tree_flatten(tree)
    given = iter(tensors)
    return pytree.tree_unflatten([next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)


def plain(params: Mapping[str, torch.Tensor]) -> Tensors:
    """Return parameters as plain tensors: a quantised one as several, named after it and its parts.

    >>> list(plain({"proj.weight": torch.zeros(2, 3)}))
    ['proj.weight']
    """
    found = {}
    for name, tensor in params.items():
        if not hasattr(tensor, "__tensor_flatten__"):
            found[name] = tensor
            continue
        found |= plain({f"{name}.{part}": getattr(tensor, part) for part in _opened(tensor)[0]})
    return found


def _opened(quantised: Any) -> tuple[list[str], Any]:
    """Return the names of the tensors in a quantised one, and what else it is made of."""
    return quantised.__tensor_flatten__()


@attrs.frozen(eq=False)
class PlainWeight:
    """A quantised weight as plain tensors; of torch's functions `linear` takes it, as it takes the tensors of torchao.

    Attributes:
        product: (rows (R, inputs), bias (outputs,), *tensors) -> (R, outputs).
        tensors: values, scales and what else there is.
        shape: (outputs, inputs).
        dtype: of what it is multiplied with.
    """

    product: torch.fx.GraphModule
    tensors: tuple[torch.Tensor, ...]
    shape: torch.Size
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.tensors[0].device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> torch.Tensor:
        """Return (..., outputs) of x (..., inputs)."""
        if func is not torch.nn.functional.linear or kwargs:
            raise TypeError(f"a quantised weight is exported for linear(x, weight, bias) alone, not for {func}")
        given: Any = (*args, None)
        x, weight, bias, *_ = given
        bias = x.new_zeros(weight.shape[0]) if bias is None else bias
        return weight.product(x.reshape(-1, x.shape[-1]), bias, *weight.tensors).reshape(*x.shape[:-1], -1)


@attrs.frozen(eq=False)
class WeightRecipe:
    """How a quantised weight is made of plain tensors.

    Attributes:
        product: see `PlainWeight`.
        count: of the tensors.
        shape: (outputs, inputs).
        dtype: of what it is multiplied with.
    """

    product: torch.fx.GraphModule
    count: int
    shape: torch.Size
    dtype: torch.dtype

    def weight(self, given: Iterator[torch.Tensor]) -> PlainWeight:
        """Return the weight made of the next tensors."""
        tensors = tuple(next(given) for _ in range(self.count))
        return PlainWeight(self.product, tensors, self.shape, self.dtype)


def plain_weights(params: Mapping[str, torch.Tensor]) -> dict[str, WeightRecipe | None]:
    """Return a recipe for each quantised parameter, and None for each other; alike ones share a product."""
    found, products = {}, {}
    for name, each in params.items():
        if not hasattr(each, "__tensor_flatten__"):
            found[name] = None
            continue
        parts = tuple(plain({"": each}).values())
        alike = type(each), str(_opened(each)[1]), *((part.shape, part.dtype) for part in parts)
        if alike not in products:
            products[alike] = _product(each, parts)
        found[name] = WeightRecipe(products[alike], len(parts), each.shape, each.dtype)
    return found


@torch.no_grad()
def _product(weight: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """Return what torchao does with a weight, written as operations of torch for any number of rows."""
    outputs, inputs = weight.shape
    # As many rows as nothing else has: sizes that are equal would become one.
    like: Any = {"dtype": weight.dtype, "device": parts[0].device}
    rows, bias = torch.zeros(outputs + inputs + 1, inputs, **like), torch.zeros(outputs, **like)

    def product(x: torch.Tensor, bias: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, _together(weight, iter(tensors)), bias)

    return make_fx(product, tracing_mode="symbolic")(rows, bias, *parts)


def _together(like: Any, given: Iterator[torch.Tensor]) -> torch.Tensor:
    """Return a parameter made of the next plain tensors."""
    if not hasattr(like, "__tensor_flatten__"):
        return next(given)
    parts, context = _opened(like)
    inner = {part: _together(getattr(like, part), given) for part in parts}
    return type(like).__tensor_unflatten__(inner, context, like.shape, like.stride())
