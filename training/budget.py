"""A training run that stops, resumes and ends annealed at a set amount of time.

The learning rate is a function of the seconds spent training, not of the step, so
that a run ends with its schedule complete however fast the machine was.
"""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import workers


def cosine(fraction: float, *, peak: float, floor: float = 0.01) -> float:
    """Learning rate at a fraction of the budget: half a cosine from peak to floor."""
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction)))


def save(path: Path, state: dict) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path) -> dict | None:
    """The checkpoint at ``path``, or None where training has not begun."""
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)


def checkpoint(path: Path) -> dict:
    """The checkpoint at ``path``, which must be there."""
    if (found := load(path)) is None:
        raise FileNotFoundError(f"there is no checkpoint at {path}; train first")
    return found


class Run:
    """Weights, optimisers and the clock of a training run; begun where the last checkpoint was.

    Args:
        path: of the checkpoint.
        module: what is trained.
        optimizers: of its parameters; their learning rates are the peaks.
        seconds: of all sittings together, after which training ends.
        warm_up: steps in which the learning rate rises.
    """

    def __init__(
        self, path: Path, module: torch.nn.Module, optimizers: Sequence[Any], *, seconds: float, warm_up: int
    ) -> None:
        self.path, self.module, self.optimizers, self.warm_up = path, module, optimizers, warm_up
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
        self.begun = load(path) or {}
        if self.begun:
            module.load_state_dict(self.begun["model"])
            for optimizer, kept in zip(optimizers, self.begun["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
        self.step, self.saved = self.begun.get("step", 0), self.begun.get("spent", 0.0)
        self.seconds, self._began = seconds, time.monotonic() - self.saved
        self.fraction = self._fraction()

    @property
    def spent(self) -> float:
        """Seconds trained so far, all sittings together."""
        return time.monotonic() - self._began

    def _fraction(self) -> float:
        """Share of the seconds that is spent, at most one."""
        return min(self.spent / self.seconds, 1.0)

    def save(self, **more: Any) -> None:
        """Write everything that going on needs; one process does."""
        self.saved = self.spent
        if workers.rank() == 0:
            optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
            state = {"model": self.module.state_dict(), "optimizers": optimizers, "step": self.step}
            save(self.path, {**state, "spent": self.saved, **more})

    def update(self, value: Tensor) -> float:
        """One optimiser step on a loss; returns the loss over all processes."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        value.backward()
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        shown, self.fraction = workers.mean(gradients, [value.item(), self._fraction()])
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        warm = min(1.0, (self.step + 1) / self.warm_up)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = warm * cosine(self.fraction, peak=peak)
            optimizer.step()
        self.step += 1
        return shown
