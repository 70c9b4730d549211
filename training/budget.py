"""A training run that stops, resumes and ends annealed at a set amount of time.

The learning rate is a function of the seconds spent training, not of the step, so
that a run ends with its schedule complete however fast the machine was.
"""

import math
import os
import time
from pathlib import Path

import torch


class Budget:
    """Seconds of training, spent and in all; survives interruption.

    Args:
        total: seconds after which training ends.
        spent: seconds already spent by earlier sittings.
    """

    def __init__(self, total: float, *, spent: float = 0.0) -> None:
        self.total = total
        self._before = spent
        self._start = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds trained so far, all sittings together."""
        return self._before + time.monotonic() - self._start

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, at most one."""
        return min(self.spent / self.total, 1.0)


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
