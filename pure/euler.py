r"""Solvers: pure functions from a prediction to the next latents.

A solver's memory is its carry. `init(latents)` makes it, `step(carry, prediction, step)`
returns the next, `latents(carry)` reads the latents. Of a one-step method the carry *is*
the latents.
"""

import math

import attrs
import torch

from pure.step import Step


@attrs.frozen(kw_only=True)
class FlowMatchEuler:
    r"""Euler's method for rectified flow: $x \leftarrow x + (\sigma' - \sigma)\, v$.

    The noise levels are those of diffusers' `FlowMatchEulerDiscreteScheduler` as its pipelines
    call it: `count` evenly spaced values, shifted, and a final 0.

    Attributes:
        shift: static shift, used when `dynamic` is false.
        dynamic: shift by the number of image tokens.
        base_shift, max_shift: exponent at `base_tokens` and at `max_tokens`, linear between.
        time_shift: "exponential" or "linear".
        empirical: take the exponent from FLUX.2's fit to tokens and steps instead.
        terminal: stretch the levels so that the last one before 0 is this; None does not.
        spacing: what is evenly spaced before the shift: "count", 1 to 1/count (FLUX); "open", 1 to
            0 without the end (HunyuanVideo; equal but for rounding); "train", the ends of the
            training schedule, which are shifted already (Wan).
        train_timesteps: the model's time unit.
        unit: timesteps are training steps divided by it: 1000 gives sigma, as FLUX takes
            it, 1 gives 0 to 1000, as Wan takes it.

    Reference: Esser et al., arXiv:2403.03206, section 5.3.2 (the shift).
    """

    shift: float = 1.0
    dynamic: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    time_shift: str = "exponential"
    empirical: bool = False
    terminal: float | None = None
    spacing: str = "count"
    train_timesteps: int = 1000
    unit: int = 1000

    def sigmas(self, count: int, tokens: int) -> torch.Tensor:
        """Return count + 1 noise levels from high to 0, fp32.

        Raises:
            ValueError: `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"a schedule needs at least 1 step, got {count}")
        # In this precision and this order of operations the values are diffusers' to the last bit.
        even = self._even(count)
        if self.dynamic:
            mu = self.exponent(count, tokens)
            shift = torch.tensor(math.exp(mu) if self.time_shift == "exponential" else mu, dtype=even.dtype)
            levels = shift / (shift + (1.0 / even - 1))
        else:
            levels = self.shift * even / (1 + (self.shift - 1) * even)
        if self.terminal and count > 1:  # a single level is the first and stays 1; diffusers divides 0 by 0
            rest = 1 - levels
            levels = 1 - rest / (rest[-1] / (1 - self.terminal))
        return torch.cat([levels.to(torch.float32), torch.zeros(1)])

    def _even(self, count: int) -> torch.Tensor:
        if self.spacing == "train":
            return torch.linspace(*self._ends(), count, dtype=torch.float64) / self.train_timesteps
        if self.spacing == "open":
            return torch.linspace(1.0, 0.0, count + 1, dtype=torch.float64)[:-1].to(torch.float32)
        return torch.linspace(1.0, 1.0 / count, count, dtype=torch.float64).to(torch.float32)

    def _ends(self) -> tuple[float, float]:
        """Return the highest and the lowest level of the training schedule, in training steps."""
        last = torch.tensor([1.0, 1.0 / self.train_timesteps])
        if not self.dynamic:
            last = self.shift * last / (1 + (self.shift - 1) * last)
        highest, lowest = last.tolist()
        return highest * self.train_timesteps, lowest * self.train_timesteps

    def exponent(self, count: int, tokens: int) -> float:
        """Return the exponent of the dynamic shift."""
        if self.empirical:
            # Two lines fitted at 10 and at 200 steps; between and beyond them, linear in the number of steps.
            at_200 = 0.00016927 * tokens + 0.45666666
            at_10 = 8.73809524e-05 * tokens + 1.89833333
            slope = (at_200 - at_10) / 190.0
            return at_200 if tokens > 4300 else slope * count + (at_200 - 200.0 * slope)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return tokens * slope + (self.base_shift - slope * self.base_tokens)

    def schedule(self, count: int, tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Step, ...]:
        """Return `count` steps for an image of `tokens` tokens; see `sigmas`.

        Noise levels are fp32 for every model, timesteps are rounded to its `dtype`, and where
        diffusers rounds: in units of training steps.
        """
        sigmas = self.sigmas(count, tokens)
        timesteps = (sigmas * self.train_timesteps).to(dtype) / self.unit
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
        delta = step.sigma_next - step.sigma
        if delta.ndim:  # one number stays on the CPU: moving it would wait for the device
            delta = delta.to(carry.device).view(-1, *[1] * (carry.ndim - 1))
        return (carry.to(torch.float32) + delta * prediction).to(prediction.dtype)

    def latents(self, carry: torch.Tensor) -> torch.Tensor:
        """Return the latents."""
        return carry
