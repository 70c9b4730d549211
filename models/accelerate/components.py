"""What a component of an accelerated pipeline becomes: blocks with streams, or one block for a U-Net."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from diffusers.utils import BaseOutput

from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.models.accelerate.proxy import bare
from pure.models.adapt.adapt import adapt
from pure.models.adapt.arguments import Arguments
from pure.models.adapt.forward import Forward, Prediction, forward_of, prediction_of
from pure.models.adapt.whole import whole
from pure.models.errors import CheckpointError


@attrs.frozen(eq=False)
class CachedComponent:
    """A component as a denoiser, with the transform.

    Attributes:
        denoiser: the transformed denoiser.
        forward: how the component is called.
        functional: whether its parameters are an argument; a U-Net keeps its own.
        stamp: fingerprint of the component when it was adapted.
        note: why it runs in one piece though it is a transformer; empty otherwise.
    """

    denoiser: Denoiser
    forward: Forward
    functional: bool
    stamp: tuple = ()
    note: str = ""


# Their blocks read what blocks long before them returned, so that there is no middle that could be left out.
ONE_PIECE = frozenset(("HunyuanDiT2DModel", "LatteTransformer3DModel", "WanAnimateTransformer3DModel"))


def in_one_piece(module: torch.nn.Module) -> bool:
    """Whether a component is one block: a U-Net, or a transformer whose blocks read one another across the middle."""
    name = type(bare(module)).__name__
    return "UNet" in name or name in ONE_PIECE


@attrs.frozen
class Called:
    """A module as a function `(latents, timestep, conditioning) -> prediction`."""

    module: torch.nn.Module
    forward: Forward

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Arguments) -> torch.Tensor:
        """Call the module."""
        found = prediction_of(self.module(**self.forward.arguments(conditioning, latents, timestep)))
        assert isinstance(found, torch.Tensor)  # only adapt takes several
        return found


def one_piece(module: torch.nn.Module, forward: Forward | None = None, axes: int = 4) -> Denoiser:
    """Return a component as a denoiser of one block.

    Args:
        module: the component.
        forward: how it is called; None: only to look at, not to call.
        axes: number of dimensions of the latents; of more than three the second one is the channel.
    """
    inner = bare(module)
    own = vars(inner).get("out_channels") or getattr(getattr(inner, "config", None), "out_channels", None)
    return whole(Called(module, forward or Forward("sample", "timestep")), own if axes > 3 else None)


def in_whole(transform: Transform, plain: Denoiser) -> Denoiser:
    """Apply a transform to a denoiser of one block.

    Raises:
        ValueError: it measures a change where there is none, or always runs the only block.
    """
    denoiser = transform(plain)
    front, stop = denoiser.pieces.span
    if front >= stop:
        raise ValueError(
            "a model in one piece has no front block whose change could be measured: the only one would always run; "
            "choose the steps with scm(mask=..., policy='static')"
        )
    return denoiser


def model_of(module: torch.nn.Module, kwargs: Mapping[str, Any], transform: Transform, stamp: tuple) -> CachedComponent:
    """Return the model for calls like this one; `stamp` is the fingerprint of the module.

    A model that cannot be cut runs in one piece, if the transform skips steps by a mask alone.

    Raises:
        CheckpointError: it cannot be cut, and the transform measures changes.
        ValueError: the transform does not fit.
    """
    if in_one_piece(module):
        return _whole(module, kwargs, transform, stamp)
    try:
        adapted = adapt(module, example=kwargs, check=1, several=True)
    except CheckpointError as error:
        try:
            model = _whole(module, kwargs, transform, stamp)
        except ValueError:
            raise CheckpointError(
                f"{error}; a step mask can skip the model in one piece: scm(mask=..., policy='static')"
            ) from error
        return attrs.evolve(model, note=f"{type(module).__name__} runs in one piece: {error}")
    return CachedComponent(transform(adapted.denoiser), adapted.forward, functional=True, stamp=stamp)


def _whole(module: torch.nn.Module, kwargs: Mapping[str, Any], transform: Transform, stamp: tuple) -> CachedComponent:
    forward = forward_of(bare(module), kwargs)
    latents = kwargs[forward.latents]
    axes = latents.ndim if isinstance(latents, torch.Tensor) else 0
    denoiser = in_whole(transform, one_piece(module, forward, axes))
    return CachedComponent(denoiser, forward, functional=False, stamp=stamp)


@dataclasses.dataclass
class ModelOutput(BaseOutput):
    """The output of a component for a pipeline that wants a record."""

    sample: Any

    @classmethod
    def of(cls, prediction: Prediction, forward: Forward, record: bool) -> Any:
        """Return a prediction as the component itself would.

        Args:
            prediction: what its pieces predict.
            forward: how it is called.
            record: whether the pipeline asks for a record.

        Raises:
            CheckpointError: the pipeline wants a record of several things, whose fields only the component knows.
        """
        record = record and bool(forward.plain)  # without the argument it has one way to answer
        if isinstance(prediction, tuple):
            if record:
                raise CheckpointError("a model that returns several things can be accelerated with return_dict=False")
            return prediction
        sample = list(prediction.unbind(0)) if forward.listed else prediction
        if record:
            return cls(sample=sample)
        return sample if forward.bare else (sample,)
