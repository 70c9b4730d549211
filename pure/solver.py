"""Solvers: pure functions from a prediction to the next latents.

A solver's memory is its carry. `init(latents)` makes it, `step(carry, prediction, step)`
returns the next, `latents(carry)` reads the latents. Of a one-step method the carry *is*
the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from pure.checks import function, shown
from pure.step import Step, check_latents

C = TypeVar("C")


class Solver(Protocol[C]):
    """The protocol of solvers: frozen records, whose carry is a `C`."""

    @property
    def schedule(self) -> Callable[..., tuple[Step, ...]]:
        """`(count, tokens, dtype) -> steps`, such as a `Schedule`; `dtype` may be left out."""
        ...

    def init(self, latents: torch.Tensor) -> C:
        """Return the carry before the first step."""
        ...

    def step(self, carry: C, prediction: torch.Tensor, step: Step) -> C:
        """Return the carry after a step."""
        ...

    def latents(self, carry: C) -> torch.Tensor:
        """Return the latents (B, ...) of a carry."""
        ...


SCHEDULE = function("a schedule is a pure.Schedule(...), or another function (count, tokens, dtype) -> steps")
"""The check of a solver's schedule."""


def check_prediction(latents: object, prediction: object) -> None:
    """Refuse a prediction that is not shaped like the latents.

    Raises:
        TypeError: one of the two is no tensor of real numbers.
        ValueError: their shapes differ.
    """
    check_latents(latents)
    check_latents(prediction, "a prediction is")
    if latents.shape != prediction.shape:  # type: ignore
        shapes = f"{tuple(latents.shape)}, got {tuple(prediction.shape)}"  # type: ignore
        raise ValueError(f"a prediction has the shape of the latents, {shapes}")


def levels_of(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the noise levels before and after a step, each of shape () or (B,).

    Raises:
        TypeError: this is no step.
        ValueError: the step has none.
    """
    if not isinstance(step, Step):
        raise TypeError(f"a solver takes one of the steps of its schedule(count, tokens), got {shown(step)}")
    if step.sigma is None or step.sigma_next is None:
        raise ValueError("this step has no sigma; take steps from the solver's schedule")
    return step.sigma, step.sigma_next
