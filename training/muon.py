"""Muon: momentum whose matrix updates are orthogonalised (Jordan et al., 2024).

Matrices of one shape are stacked and orthogonalised together in single precision,
which a processor without bfloat16 units prefers.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from training import workers

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration, from the reference implementation."""


def orthogonalise(matrices: Tensor, *, iterations: int = 5) -> Tensor:
    """Move the singular values of (N, A, B) matrices close to one."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates of AdamW's typical size.

    Args:
        params: matrices and convolution kernels (flattened to matrices); vectors
            and embeddings belong to AdamW.
        lr: learning rate on AdamW's scale.
        momentum: decay of the gradients' average.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> Any:  # None; torch says float where there is a closure
        """Update every matrix, one batched iteration per shape."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                stacked = torch.stack([self._direction(p, group) for p in parameters])
                matrices = stacked.flatten(2)
                updates = workers.divide(orthogonalise, matrices).view_as(stacked)
                size = -group["lr"] * 0.2 * max(matrices.shape[1:]) ** 0.5
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=size)

    def _direction(self, parameter: Tensor, group: dict) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(average, group["momentum"])
