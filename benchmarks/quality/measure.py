"""How near pictures come to others: PSNR and SSIM of scikit-image on floats, and what a set of pictures has of them.

Shapes: B pictures, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pure.models import Pipeline

CLOSEST = 120.0
"""PSNR of equal pictures, in dB: what fp32 could tell apart."""

RESAMPLES = 2000


@torch.no_grad()
def decoded(pipeline: Pipeline, request: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the pictures (B, 3, H, W) of latents, floats in 0 to 1."""
    return pipeline.decoded(pipeline.finished(latents, request), request)


def psnr(pictures: torch.Tensor, references: torch.Tensor) -> list[float]:
    """Return the PSNR of every picture in dB, at most `CLOSEST`, and 0 of one with numbers that are not finite.

    Both are (B, 3, H, W) in 0 to 1.
    """
    return [_decibels(*pair) for pair in zip(_arrays(pictures), _arrays(references), strict=True)]


def _decibels(one: np.ndarray, other: np.ndarray) -> float:
    if not np.isfinite(one).all():
        return 0.0
    if np.array_equal(one, other):
        return CLOSEST
    return min(CLOSEST, float(peak_signal_noise_ratio(other, one, data_range=1.0)))


def ssim(pictures: torch.Tensor, references: torch.Tensor) -> list[float]:
    """Return the structural similarity of every picture, 1 of equal ones, and 0 of one that is not finite.

    Both are (B, 3, H, W) in 0 to 1.
    """
    pairs = zip(_arrays(pictures), _arrays(references), strict=True)
    found: list[Any] = [
        structural_similarity(other, one, data_range=1.0, channel_axis=2) if np.isfinite(one).all() else 0.0
        for one, other in pairs
    ]
    return [float(value) for value in found]


def _arrays(pictures: torch.Tensor) -> np.ndarray:
    return pictures.permute(0, 2, 3, 1).to(torch.float64).numpy()


def worst_tenth(values: Sequence[float]) -> float:
    """Return the mean of the lowest tenth of some values, at least one.

    >>> worst_tenth([float(value) for value in range(20)])
    0.5
    """
    count = max(1, round(len(values) / 10))
    return float(np.mean(np.sort(np.asarray(values))[:count]))


def interval(values: Sequence[float], groups: Sequence[str]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean; what has one group (a prompt's seeds) is drawn together.

    >>> interval([3.0, 3.0, 3.0], ["a", "b", "b"])
    (3.0, 3.0)
    """
    names = sorted(set(groups))
    own = np.array([[names.index(group) == at for at in range(len(names))] for group in groups], dtype=float)
    sums, counts = np.asarray(values) @ own, own.sum(0)
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
