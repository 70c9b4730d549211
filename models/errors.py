"""Errors of checkpoints, and of samples that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, the fault and the cure."""


class NotFiniteError(ArithmeticError):
    """Samples whose latents or pixels are infinite or NaN: there is no picture to show.

    Attributes:
        samples: the index of every such sample, with what is wrong with it.
        pixels: of all samples of the call, (B, ...); those of the named ones are meaningless.
        latents: likewise.
    """

    def __init__(
        self,
        samples: Mapping[int, str],
        pixels: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
    ) -> None:
        super().__init__("; ".join(samples.values()))
        self.samples, self.pixels, self.latents = dict(samples), pixels, latents

    def __reduce__(self) -> tuple:
        """Say which samples, to another process; not what they are, which is meaningless."""
        return type(self), (self.samples,)
