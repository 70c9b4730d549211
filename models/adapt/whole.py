"""Any function `(latents, timestep, conditioning) -> prediction` as a denoiser of one block.

A cache skips all of it or nothing: a skipped step repeats or extrapolates the whole
prediction. Nothing inside it can be measured, so that a mask chooses the steps to skip:
`scm(mask, policy="static")`, with `taylorseer` or without.

Shapes: B samples.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import attrs
import torch

from pure.attention import attend as default
from pure.block import Block, Params
from pure.denoiser import Denoiser
from pure.models.adapt.dispatch import check_dispatched, dispatching
from pure.models.common.streams import image_stream
from pure.tree import Tree, state

__all__ = ["whole"]

Function = Callable[[torch.Tensor, torch.Tensor, Tree], torch.Tensor]


@state
class WholeStream:
    """The only stream: zeros before the block, the prediction after it."""

    image: torch.Tensor  # (B, ...)


@state
class WholeCall:
    """What the function is called with."""

    latents: torch.Tensor  # (B, ...)
    timestep: torch.Tensor  # (B,)
    conditioning: Tree


def whole(function: Function, channels: int | None = None) -> Denoiser:
    """Return the denoiser of a function.

    Args:
        function: takes latents (B, ...), timesteps (B,) and the conditioning, and returns the
            prediction; it holds its own parameters (`params` of the denoiser is empty) and must
            give the same for the same arguments. The conditioning is a tree whose tensors have
            the sample first (see `pure.state`), or None.
        channels: second dimension of the prediction where it is not that of the latents.

    >>> denoiser = whole(lambda latents, timestep, conditioning: -latents)
    >>> [block.prefix for block in denoiser.blocks], denoiser.streams
    ([''], ('image',))
    """
    return Denoiser(
        prepare=as_it_is,
        embed=Nothing(channels),
        blocks=(Block(Everything(function), ""),),
        head=prediction,
        attend=default,
        probe=image_stream,
        streams=("image",),
    )


def as_it_is(params: Params, conditioning: Tree) -> Tree:
    """Return the conditioning: only the function or the model's forward knows which part depends on the step."""
    return conditioning


@attrs.frozen
class Nothing:
    """Begin from a prediction of zero, so that what the block adds is the prediction itself."""

    channels: int | None

    def __call__(
        self, params: Params, prepared: Tree, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[WholeStream, WholeCall]:
        """Return zeros in the shape of the prediction, and the arguments."""
        shape = list(latents.shape)
        if self.channels is not None:
            shape[1] = self.channels
        return WholeStream(image=latents.new_zeros(shape)), WholeCall(
            latents=latents, timestep=timestep, conditioning=prepared
        )


@attrs.frozen
class Everything:
    """The function as a block."""

    function: Function

    def __call__(self, params: Params, hidden: WholeStream, context: WholeCall, attend: Callable) -> WholeStream:
        """Call the function.

        Raises:
            ValueError: the prediction has another shape than expected; or another attention is chosen, and nothing
                says how the function attends.
        """
        with self._attending(attend):
            found = self.function(context.latents, context.timestep, context.conditioning)
        if found.shape != hidden.image.shape:
            raise ValueError(
                f"the model returns a prediction of shape {tuple(found.shape)}, and {tuple(hidden.image.shape)} was "
                "expected; set whole(..., channels=) to its second dimension"
            )
        return WholeStream(image=found)

    def _attending(self, attend: Callable) -> AbstractContextManager[None]:
        module = getattr(self.function, "module", None)  # of a function that calls a model of diffusers
        if attend is not default and module is None:
            raise ValueError("a function in one piece attends in its own way; leave attention(...) out")
        if module is not None:
            check_dispatched(module, attend)
        return dispatching(attend)


def prediction(params: Params, hidden: WholeStream, context: WholeCall) -> torch.Tensor:
    """Return the prediction."""
    return hidden.image
