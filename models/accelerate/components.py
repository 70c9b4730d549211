"""What a component of an accelerated pipeline becomes: blocks with streams, or one block for a U-Net."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from diffusers.utils import BaseOutput

from pure.compose import Transform
from pure.denoiser import Denoiser
from pure.models.adapt.adapt import Request, adapt, forward_of, sorted_request
from pure.models.adapt.arguments import Arguments
from pure.models.adapt.pieces import Forward, prediction_of
from pure.models.adapt.whole import whole


@attrs.frozen(eq=False)
class Model:
    """A component as a denoiser, with the transform.

    Attributes:
        denoiser: the transformed denoiser.
        forward: how the component is called.
        functional: whether its parameters are an argument; a U-Net keeps its own.
        second: names of arguments whose second dimension is the sample.
    """

    denoiser: Denoiser
    forward: Forward
    functional: bool
    second: frozenset[str] = frozenset()

    @property
    def timestep(self) -> str:
        """Name of the timestep among the arguments."""
        return self.forward.timestep

    @property
    def listed(self) -> bool:
        """Whether latents and predictions are lists."""
        return self.forward.listed

    def request(self, kwargs: Mapping[str, Any]) -> Request:
        """Sort the arguments of a call."""
        return sorted_request(kwargs, self.forward, (), self.second)


def in_one_piece(module: torch.nn.Module) -> bool:
    """Whether a component is one block: a U-Net, whose blocks read what blocks long before them returned."""
    return "UNet" in type(module).__name__


@attrs.frozen
class Called:
    """A module as a function `(latents, timestep, conditioning) -> prediction`."""

    module: torch.nn.Module
    forward: Forward

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Arguments) -> torch.Tensor:
        """Call the module."""
        return prediction_of(self.module(**self.forward.arguments(conditioning, latents, timestep)))


def model_of(module: torch.nn.Module, kwargs: Mapping[str, Any], transform: Transform) -> Model:
    """Return the model for calls like this one.

    Raises:
        CheckpointError: it cannot be cut.
        ValueError: the transform guides, which the pipeline does itself, or does not fit.
    """
    if in_one_piece(module):
        forward = forward_of(module, kwargs)
        latents, channels = kwargs[forward.latents].shape[1], getattr(module.config, "out_channels", None)
        plain, functional, second = whole(Called(module, forward), channels or latents), False, frozenset()
    else:
        adapted = adapt(module, example=kwargs, check=1)
        forward, plain, functional, second = adapted.forward, adapted.denoiser, True, adapted.second
    denoiser = transform(plain)
    if denoiser.guidance is not None:
        raise ValueError("the pipeline guides by itself; leave guided(...) out and pass it a guidance scale")
    return Model(denoiser, forward, functional, second)


@dataclasses.dataclass
class Output(BaseOutput):
    """What a pipeline gets that asks for a record."""

    sample: Any

    @classmethod
    def of(cls, prediction: torch.Tensor, listed: bool, record: bool) -> Any:
        """Return a prediction as the component itself would."""
        sample = list(prediction.unbind(0)) if listed else prediction
        return cls(sample=sample) if record else (sample,)
