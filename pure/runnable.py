"""What a loop can run: a denoiser, or several experts that share a schedule."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from pure.block import Weights
from pure.info import Info
from pure.memory import States
from pure.notes import Note
from pure.step import Inputs, Step


class Runnable(Protocol):
    """The protocol of `Denoiser` and `Experts`: a loop that uses nothing else is right for both."""

    def bind(self, params: Weights) -> Weights:
        """Group the parameters; do it once per request and pass the result to `init` and `apply`."""
        ...

    def init(self, params: Weights, conditioning: Any, latents: torch.Tensor, steps: Sequence[Step]) -> States:
        """Return the state before the first of these steps; see `Denoiser.init`."""
        ...

    def notes(self, steps: Sequence[Step], conditioning: Any = None) -> tuple[Note, ...]:
        """Return what a run of these steps was set to do and will not do; see `Denoiser.notes`."""
        ...

    def apply(self, params: Weights, state: States, inputs: Inputs) -> tuple[torch.Tensor, States, Info]:
        """Take one step: return the prediction (shaped like the latents), the new state, and what was done."""
        ...
