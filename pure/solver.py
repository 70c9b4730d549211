"""The protocol of solvers."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from pure.step import Step


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
