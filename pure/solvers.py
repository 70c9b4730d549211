r"""Solvers: pure functions from a prediction to the next latents.

A solver's memory is its carry. `init(latents)` makes it, `step(carry, prediction, step)`
returns the next, `latents(carry)` reads the latents. Of a one-step method the carry *is*
the latents.
"""

import math
from typing import Any, Protocol

import attrs
import torch

from pure.records import Step


class Solver(Protocol):
    """The protocol of solvers: frozen records."""

    def schedule(self, count: int, tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Step, ...]:
        """Return `count` steps for an image of `tokens` tokens and a model of type `dtype`."""
        ...

    def init(self, latents: torch.Tensor) -> Any:
        """Return the carry before the first step."""
        ...

    def step(self, carry: Any, prediction: torch.Tensor, step: Step) -> Any:
        """Return the carry after a step."""
        ...

    def latents(self, carry: Any) -> torch.Tensor:
        """Return the latents (B, ...) of a carry."""
        ...


@attrs.frozen(kw_only=True)
class FlowMatchEuler:
    r"""Euler's method for rectified flow: $x \leftarrow x + (\sigma' - \sigma)\, v$.

    The noise levels are those of diffusers' `FlowMatchEulerDiscreteScheduler` as its FLUX
    pipelines call it: `count` values from 1 to 1/count, shifted, and a final 0.

    Attributes:
        shift: static shift, used when `dynamic` is false.
        dynamic: shift by the number of image tokens.
        base_shift, max_shift: exponent at `base_tokens` and at `max_tokens`, linear between.
        time_shift: "exponential" or "linear".
        train_timesteps: the model's time unit; timesteps are sigma, as FLUX takes them.

    Reference: Esser et al., arXiv:2403.03206, section 5.3.2 (the shift).
    """

    shift: float = 1.0
    dynamic: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    time_shift: str = "exponential"
    train_timesteps: int = 1000

    def sigmas(self, count: int, tokens: int) -> torch.Tensor:
        """Return count + 1 noise levels from high to 0, fp32.

        Raises:
            ValueError: `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"a schedule needs at least 1 step, got {count}")
        # In fp32 and in this order of operations the values are diffusers' to the last bit.
        even = torch.linspace(1.0, 1.0 / count, count, dtype=torch.float64).to(torch.float32)
        if self.dynamic:
            slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
            mu = tokens * slope + (self.base_shift - slope * self.base_tokens)
            shift = torch.tensor(math.exp(mu) if self.time_shift == "exponential" else mu)
            levels = shift / (shift + (torch.tensor(1.0) / even - 1))
        else:
            levels = self.shift * even / (1 + (self.shift - 1) * even)
        return torch.cat([levels, torch.zeros(1)])

    def schedule(self, count: int, tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Step, ...]:
        """Return `count` steps for an image of `tokens` tokens; see `sigmas`.

        Noise levels are fp32 for every model, timesteps are rounded to its `dtype`, and where
        diffusers rounds: in units of training steps.
        """
        sigmas = self.sigmas(count, tokens)
        timesteps = (sigmas * self.train_timesteps).to(dtype) / 1000
        return tuple(
            Step(index=i, count=count, timestep=timesteps[i], sigma=sigmas[i], sigma_next=sigmas[i + 1])
            for i in range(count)
        )

    def init(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents: Euler's method remembers nothing else."""
        return latents

    def step(self, carry: torch.Tensor, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the latents after one step, computed in fp32."""
        if step.sigma is None or step.sigma_next is None:
            raise ValueError("this step has no sigma; take steps from the solver's schedule")
        delta = (step.sigma_next - step.sigma).to(carry.device)
        delta = delta.view(-1, *[1] * (carry.ndim - 1)) if delta.ndim else delta
        return (carry.to(torch.float32) + delta * prediction).to(prediction.dtype)

    def latents(self, carry: torch.Tensor) -> torch.Tensor:
        """Return the latents."""
        return carry
