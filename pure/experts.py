"""Several denoisers that share one schedule, each responsible for a part of it (Wan 2.2).

Every expert has its own parameters, its own state and its own step indices; which one
a step belongs to is written in the step, never counted.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from pure.denoiser import Denoiser
from pure.records import Info, Inputs, Params, State


@attrs.frozen
class Experts:
    """A denoiser made of named denoisers; parameters and states are dicts under the same names."""

    denoisers: Mapping[str, Denoiser]

    def init(
        self, params: Mapping[str, Params], conditioning: Any, latents: torch.Tensor, count: Mapping[str, int]
    ) -> dict[str, State]:
        """Return a state per expert; `count` is each expert's own number of steps (0: it never runs)."""
        return {
            name: denoiser.init(params[name], conditioning, latents, count[name])
            for name, denoiser in self.denoisers.items()
            if count[name] > 0
        }

    def bind(self, params: Mapping[str, Params]) -> dict[str, Any]:
        """Group the parameters of every expert by block."""
        return {name: denoiser.bind(params[name]) for name, denoiser in self.denoisers.items()}

    def apply(
        self, params: Any, state: Mapping[str, State], inputs: Inputs
    ) -> tuple[torch.Tensor, dict[str, State], Info]:
        """Take one step with the expert that `inputs.step.expert` names.

        Raises:
            ValueError: no such expert, or samples of the batch name different ones.
        """
        name = inputs.step.expert
        if not isinstance(name, str) or name not in self.denoisers:
            raise ValueError(f"step names expert {name!r}; there are {sorted(self.denoisers)}, one for the whole batch")
        if name not in state:
            raise ValueError(
                f"expert {name!r} was initialised for 0 steps and is asked for one; count its steps in init"
            )
        prediction, new, info = self.denoisers[name].apply(params[name], state[name], inputs)
        return prediction, {**state, name: new}, info
