"""Conditioning and latents that do not fit the parameters, told by the parameter that they do not fit."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from pure.tree import Tree

__all__ = ["embed", "prepare"]

T = TypeVar("T")


def prepare(function: Callable[..., Tree], params: Mapping[str, torch.Tensor], conditioning: Tree) -> Tree:
    """Return what the `prepare` of a denoiser makes of conditioning.

    Raises:
        KeyError: a parameter is missing.
        TypeError: this is no conditioning of this denoiser.
        ValueError: it is of another size or type than the parameters are for.
    """
    what, cure = "the conditioning", "pass what pipeline.encode(request) returned, of the pipeline of the parameters"
    try:
        return _fitting(lambda: function(params, conditioning), params, what, cure)
    except AttributeError as error:
        if error.obj is not conditioning:
            raise
        raise TypeError(
            f"this is no conditioning of this denoiser: {type(conditioning).__name__} has no {error.name!r}; "
            "pass what pipeline.encode(request) returned"
        ) from error


def embed(
    function: Callable[..., tuple[Tree, Tree]],
    params: Mapping[str, torch.Tensor],
    prepared: Tree,
    latents: torch.Tensor,
    timestep: torch.Tensor,
) -> tuple[Tree, Tree]:
    """Return what the `embed` of a denoiser makes of latents (B, ...): hidden and context.

    Raises:
        KeyError: a parameter is missing.
        ValueError: the latents are of another size or type than the parameters are for.
    """
    what, cure = f"latents of shape {_shown(latents)}", "make them with pipeline.noise(request)"
    return _fitting(lambda: function(params, prepared, latents, timestep), params, what, cure)


def _fitting(make: Callable[[], T], params: Mapping[str, torch.Tensor], what: str, cure: str) -> T:
    """Return what a function makes; where an operation with a parameter fails, name the parameter and both shapes."""
    try:
        return make()
    except KeyError as error:
        name = error.args[0] if error.args else None
        if name in params or not isinstance(name, str) or "." not in name:
            raise
        raise KeyError(
            f"there is no parameter {name!r}; these parameters are incomplete, or another denoiser's"
        ) from error
    except RuntimeError as error:
        found = _misfit(make, params) if type(error) is RuntimeError else None  # not where memory runs out
        if found is None:
            raise
        raise ValueError(f"{what} cannot be of this denoiser: {found}; {cure}") from error


class _Last(TorchFunctionMode):
    """Remembers the tensors that the last function of torch was called with."""

    tensors: tuple[torch.Tensor, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.tensors = tuple(each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor))
        return func(*args, **kwargs)


def _misfit(make: Callable[[], object], params: Mapping[str, torch.Tensor]) -> str | None:
    """Return which parameter the operation that fails has, and what it is applied to; None if it has none."""
    last = _Last()
    try:
        with last:
            make()
    except RuntimeError:
        names = {id(tensor): name for name, tensor in params.items()}
        own = next((tensor for tensor in last.tensors if id(tensor) in names), None)
        other = next((tensor for tensor in last.tensors if id(tensor) not in names), None)
        if own is not None and other is not None:
            return f"the parameter {names[id(own)]} is {_shown(own)}, and is applied to {_shown(other)}"
    return None


def _shown(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
