"""How a forward is called and what it returns.

Shapes: B samples.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from pure.models.adapt.arguments import Arguments, pack, unpack
from pure.models.errors import CheckpointError

TIMES = ("timestep", "timesteps", "t", "time")
Prediction = torch.Tensor | tuple[torch.Tensor, ...]


@attrs.frozen(eq=False)
class ForwardCall:
    """The arguments of one call of a forward, sorted."""

    latents: torch.Tensor  # (B, ...)
    timestep: torch.Tensor  # () or (B, ...)
    conditioning: Arguments

    @property
    def times(self) -> torch.Tensor:
        """The timestep of every sample, as a step gives it."""
        return self.timestep.expand(self.latents.shape[0]) if self.timestep.ndim == 0 else self.timestep


@attrs.frozen
class Forward:
    """How a forward is called and what it returns.

    Attributes:
        latents: name of the argument that is denoised.
        timestep: name of the timestep.
        listed: whether latents are a list of tensors, one per sample.
        plain: arguments that are passed every time, hashable.
        several: whether it may return several tensors (picture and sound), which are then one prediction.
        bare: whether it returns a tensor that is in no tuple and no record.
        shared: names of arguments that all samples share, whatever their shapes.
        second: names of arguments whose second dimension is the sample.
    """

    latents: str
    timestep: str
    listed: bool = False
    plain: tuple[tuple[str, Any], ...] = ()
    several: bool = False
    bare: bool = False
    shared: frozenset[str] = frozenset()
    second: frozenset[str] = frozenset()

    def sorted(self, kwargs: Mapping[str, Any]) -> ForwardCall:
        """Sort the keyword arguments of a call.

        Raises:
            CheckpointError: an argument cannot be part of a state, or samples differ in what they must share.
        """
        known = {self.latents, self.timestep, *dict(self.plain)}
        others = {key: value for key, value in kwargs.items() if key not in known}
        latents, timestep = kwargs[self.latents], kwargs[self.timestep]
        if self.listed:
            if len({(tuple(each.shape), each.dtype) for each in latents}) != 1:
                raise CheckpointError(f"the tensors of {self.latents} differ in shape; run samples of each size apart")
            latents = torch.stack(list(latents))
        if not isinstance(timestep, torch.Tensor):
            timestep = torch.tensor(timestep, device=latents.device)
        return ForwardCall(latents, timestep, pack(others, latents.shape[0], self.shared, self.second))

    def unsorted(self, call: ForwardCall) -> dict[str, Any]:
        """Return the keyword arguments of a sorted call."""
        return self.arguments(call.conditioning, call.latents, call.times)

    def arguments(self, conditioning: Arguments, latents: torch.Tensor, timestep: torch.Tensor) -> dict[str, Any]:
        """Return the keyword arguments of a call."""
        given: Any = list(latents.unbind(0)) if self.listed else latents
        others = {**unpack(conditioning, latents.shape[0]), **dict(self.plain)}
        return {**others, self.latents: given, self.timestep: timestep}


def prediction_of(raw: Any, several: bool = False) -> Prediction:
    """Return the prediction (B, ...) that a forward has returned as a tuple, a list or an output record.

    Args:
        raw: what the forward returned.
        several: whether a tuple of tensors may be a prediction.

    Raises:
        CheckpointError: it returned none, or several things.
    """
    found = raw.sample if hasattr(raw, "sample") and not isinstance(raw, torch.Tensor) else raw
    if several and isinstance(found, tuple) and len(found) > 1:
        return tuple(_tensor(entry) for entry in found)
    if isinstance(found, tuple):
        if len(found) != 1:
            raise CheckpointError(
                f"the model returns {len(found)} things, such as picture and sound; adapt takes those that return one "
                "(pure.accelerate takes them)"
            )
        found = found[0]
    return _tensor(found)


def _tensor(found: Any) -> torch.Tensor:
    if isinstance(found, list) and found and all(isinstance(entry, torch.Tensor) for entry in found):
        found = torch.stack(found)
    if not isinstance(found, torch.Tensor):
        raise CheckpointError(f"the model returns a {type(found).__name__} where a tensor is expected")
    return found


def forward_of(
    module: torch.nn.Module, example: Mapping[str, Any], latents: str | None = None, timestep: str | None = None
) -> Forward:
    """Find out how a module is called; the arguments are those of `adapt`.

    Raises:
        CheckpointError: the example has no latents or no timestep.
    """
    names = arguments_of(module)
    latents = latents or names[0]
    timestep = timestep or next((name for name in TIMES if name in names), None)
    if timestep is None:
        raise CheckpointError(
            f"{type(module).__name__} takes no timestep (none of {', '.join(TIMES)} is among its arguments), so its "
            "steps cannot be told from each other (say with timestep= which argument it is)"
        )
    missing = [name for name in (latents, timestep) if name not in example]
    if missing:
        raise CheckpointError(
            f"the example for {type(module).__name__} has no {' and no '.join(map(str, missing))}; it has "
            f"{sorted(example)} (say with latents= and timestep= which arguments these are)"
        )
    plain = (("return_dict", False),) if "return_dict" in names else ()
    return Forward(latents, timestep, isinstance(example[latents], list | tuple), plain)


def arguments_of(module: torch.nn.Module) -> list[str]:
    """Return the names of the arguments of a module's forward."""
    return [name for name in inspect.signature(module.__class__.forward).parameters if name != "self"]
