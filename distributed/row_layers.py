"""Layers of a decoder on a rank that has some of the rows of a picture: what they need from the rows of the others.

Everything else in such a decoder works on each pixel, or doubles it, and needs nothing.

Shapes: B samples, C channels, T frames (of videos only), h rows of this rank of H, W columns; rows are dimension -2.
"""

from typing import Any

import torch
import torch.nn.functional as F

from pure.distributed.collectives import exchange, gather, wait
from pure.distributed.mesh import Axis
from pure.sharding import shares, start

__all__ = ["OwnRows", "RowConvolution", "RowDecoder", "RowGroupNorm"]


class RowDecoder(torch.nn.Module):
    """A decoder that returns the whole picture and computes this rank's rows; latents of fewer rows are decoded whole.

    Args:
        part: its copy in which layers know of the other ranks.
        whole: itself.
        along: the ranks that share the rows.
    """

    def __init__(self, part: torch.nn.Module, whole: torch.nn.Module, along: Axis) -> None:
        super().__init__()
        self.part, self.whole, self.along = part, whole, along

    def forward(self, latents: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return pixels of all rows of latents (B, C, [T,] H, W), which are the same on all ranks."""
        lengths = shares(latents.shape[-2], self.along.size)
        if lengths[-1] == 0:
            return self.whole(latents, *args, **kwargs)
        rows = self.part(latents, *args, **kwargs)
        return _all_rows(rows, lengths, self.along)


def _all_rows(rows: torch.Tensor, lengths: tuple[int, ...], along: Axis) -> torch.Tensor:
    """Return the rows of all ranks; of a row of latents `lengths` count, each has become the same number of rows."""
    factor = rows.shape[-2] // lengths[along.index]
    padded = F.pad(rows, (0, 0, 0, factor * lengths[0] - rows.shape[-2]))
    gathered = wait(gather(padded.unsqueeze(0), along.group)).unbind(0)
    return torch.cat([part[..., : factor * length, :] for part, length in zip(gathered, lengths, strict=True)], dim=-2)


class OwnRows(torch.nn.Module):
    """A module that every rank runs whole, and of whose result it keeps its rows."""

    def __init__(self, module: torch.nn.Module, along: Axis) -> None:
        super().__init__()
        self.module, self.along = module, along

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return (B, C, [T,] h, W) of (B, C, [T,] H, W)."""
        out = self.module(x, *args, **kwargs)
        lengths = shares(out.shape[-2], self.along.size)
        return out.narrow(-2, start(lengths, self.along.index), lengths[self.along.index])


class RowConvolution(torch.nn.Module):
    """A convolution of three rows, with a row of each neighbour; at the edges of the picture it pads as ever.

    It pads at the borders of a rank's rows too; what comes of that is cut off.
    """

    def __init__(self, module: torch.nn.Module, along: Axis) -> None:
        super().__init__()
        self.module, self.along = module, along

    def forward(self, x: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, C', [T,] h, W); `before` are frames (B, C, 2, h, W) that a causal convolution has kept."""
        above, below = self.along.index > 0, self.along.index < self.along.size - 1
        if before is None:
            out = self.module(self._with_neighbours(x, above, below))
        else:
            wide = self._with_neighbours(torch.cat([before, x], dim=2), above, below)
            kept = before.shape[2]
            out = self.module(wide[:, :, kept:], wide[:, :, :kept])
        return out[..., int(above) : out.shape[-2] - below, :]

    def _with_neighbours(self, x: torch.Tensor, above: bool, below: bool) -> torch.Tensor:
        """Return x with the last row of the rank above and the first row of the rank below."""
        sent, rows = [0] * self.along.size, []
        if above:
            rows.append(x[..., :1, :])
            sent[self.along.index - 1] = 1
        if below:
            rows.append(x[..., -1:, :])
            sent[self.along.index + 1] = 1
        got = list(wait(exchange(torch.stack(rows), sent, sent, self.along.group)).unbind(0))
        first, last = got[:1] if above else [], got[-1:] if below else []
        return torch.cat([*first, x, *last], dim=-2)


class RowGroupNorm(torch.nn.Module):
    """A group norm over the rows of all ranks: their means and squares are put together, as one process has them."""

    def __init__(self, norm: torch.nn.GroupNorm, along: Axis) -> None:
        super().__init__()
        self.norm, self.along = norm, along

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, C, [T,] h, W), normalised."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide.unflatten(1, (self.norm.num_groups, -1)).flatten(2), dim=2, correction=0)
        own = torch.stack([mean, variance, torch.full_like(mean, x.shape[-2])])
        means, variances, rows = wait(gather(own.unsqueeze(0), self.along.group)).unbind(1)  # (ranks, B, groups) each
        weights = rows / rows.sum(0)
        mean = (weights * means).sum(0)
        variance = (weights * (variances + (means - mean).square())).sum(0)
        scale = torch.rsqrt(variance + self.norm.eps).repeat_interleave(x.shape[1] // self.norm.num_groups, dim=1)
        shift = -mean.repeat_interleave(x.shape[1] // self.norm.num_groups, dim=1) * scale
        if self.norm.affine:
            scale, shift = scale * self.norm.weight, shift * self.norm.weight + self.norm.bias
        shape = (*scale.shape, *(1 for _ in x.shape[2:]))
        return (wide * scale.view(shape) + shift.view(shape)).to(x.dtype)
