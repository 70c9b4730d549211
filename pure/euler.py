r"""Euler's method for rectified flow."""

import attrs
import torch

from pure.schedule import Schedule
from pure.solver import SCHEDULE, check_prediction, levels_of
from pure.step import Step, check_latents


@attrs.frozen
class FlowMatchEuler:
    r"""Euler's method: $x \leftarrow x + (\sigma' - \sigma)\, v$, computed in fp32 and rounded once to the type of v.

    diffusers' scheduler of this name rounds the product, too; in fp32 the two are equal to the
    last bit, in half precision a step differs by at most one rounding.

    Attributes:
        schedule: which noise levels are visited; called, it returns the steps.
    """

    schedule: Schedule = attrs.field(factory=Schedule, validator=SCHEDULE)

    def init(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents: Euler's method remembers nothing else.

        Raises:
            TypeError: these are no latents.
        """
        check_latents(latents)
        return latents

    def step(self, carry: torch.Tensor, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the latents after one step.

        Raises:
            ValueError: the step has no noise levels, or the prediction is not shaped like the latents.
            TypeError: an argument is of another kind.
        """
        check_prediction(carry, prediction)
        now, after = levels_of(step)
        delta = after - now
        if delta.ndim:  # one number stays on the CPU: moving it would wait for the device
            delta = delta.to(carry.device).view(-1, *[1] * (carry.ndim - 1))
        wide = torch.promote_types(prediction.dtype, torch.float32)
        return (carry.to(wide) + delta * prediction.to(wide)).to(prediction.dtype)

    def latents(self, carry: torch.Tensor) -> torch.Tensor:
        """Return the latents."""
        return carry
