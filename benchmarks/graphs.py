"""A run as CUDA graphs: a step that computes and one that skips, each recorded once and replayed."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree

import pure
from benchmarks.flux import Bench
from pure.tree import map_samples

__all__ = ["Graphed"]

Function = Callable[..., Any]


class Recorded:
    """A function of tensors as a CUDA graph, recorded at the first call; where there is no GPU it is just called."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.given: list[torch.Tensor] = []
        self.graph: Any = None
        self.made: Any = None

    def __call__(self, *trees: Any) -> Any:
        """Return what the function does, valid until the next call."""
        leaves, spec = pytree.tree_flatten(trees)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if tensors[0].device.type != "cuda":
            return self.function(*trees)
        if not self.given:
            self._record(leaves, spec)
        for place, tensor in zip(self.given, tensors, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        return self.made

    def _record(self, leaves: list[Any], spec: Any) -> None:
        own = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        trees = pytree.tree_unflatten(own, spec)
        self.given = [leaf for leaf in own if isinstance(leaf, torch.Tensor)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled and chosen before anything is recorded
            for _ in range(3):
                self.function(*trees)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.made = self.function(*trees)


class Graphed:
    """Runs of a plan whose decisions are known beforehand, by two CUDA graphs.

    Attributes:
        computed: of every step, whether it is computed.
    """

    def __init__(self, made: Bench, transform: pure.Transform) -> None:
        self.made, self.denoiser = made, transform(made.denoiser)
        self.params = self.denoiser.bind(made.params)
        self.program = pure.program(self.denoiser, made.steps, made.solver)
        self.computed = tuple(bool(known) for known in self.program.known)
        device = made.latents.device
        self.inputs = [map_samples(lambda leaf: leaf.to(device), inputs) for inputs in self.program.inputs]
        self.steps = {known: Recorded(self._step(known)) for known in (True, False)}

    def _step(self, known: bool) -> Function:
        return lambda state, inputs: self.program.step(self.params, state, inputs, known)[0]

    @torch.no_grad()
    def __call__(self) -> Iterator[torch.Tensor]:
        """Run all steps."""
        state = self.program.init(self.params, self.made.conditioning, self.made.latents)
        for inputs, known in zip(self.inputs, self.computed, strict=True):
            state = self.steps[known](state, inputs)
            yield self.program.latents(state)
