"""Layers of an autoencoder on a rank that has some of the rows of a picture: what they need of the others' rows.

Everything else in it works on each pixel, doubles it or halves a square of them, and needs nothing.

Shapes: B samples, C channels, T frames (of videos only), h rows of this rank of H, W columns; rows are dimension -2.
"""

from typing import Any

import torch
import torch.nn.functional as F

from pure.distributed.collectives import exchange, gather, wait
from pure.distributed.mesh import Axis
from pure.sharding import shares, start

__all__ = ["AllRows", "OwnRows", "RowConvolution", "RowDecoder", "RowEncoder", "RowGroupNorm"]


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


class RowEncoder(torch.nn.Module):
    """An encoder that returns whole latents and computes this rank's rows up to its middle.

    Pictures of fewer rows than ranks, or of rows that do not fit the latents', are encoded whole.

    Args:
        part: its copy in which layers know of the other ranks.
        whole: itself.
        along: the ranks that share the rows.
        factor: rows that become one row of the latents.
    """

    def __init__(self, part: torch.nn.Module, whole: torch.nn.Module, along: Axis, factor: int) -> None:
        super().__init__()
        self.part, self.whole, self.along, self.factor = part, whole, along, factor

    def forward(self, pixels: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return latents of all rows of pixels (B, C, [T,] H, W), which are the same on all ranks."""
        rows, rest = divmod(pixels.shape[-2], self.factor)
        lengths = shares(rows, self.along.size)
        if rest or lengths[-1] == 0:
            return self.whole(pixels, *args, **kwargs)
        first, own = start(lengths, self.along.index), lengths[self.along.index]
        return self.part(pixels.narrow(-2, self.factor * first, self.factor * own), *args, **kwargs)


class AllRows(torch.nn.Module):
    """A module that every rank runs whole, of the rows that all ranks have."""

    def __init__(self, module: torch.nn.Module, along: Axis) -> None:
        super().__init__()
        self.module, self.along = module, along

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return what it returns of (B, C, [T,] H, W), given (B, C, [T,] h, W)."""
        own = torch.tensor([x.shape[-2]], device=x.device)
        lengths = tuple(wait(gather(own, self.along.group)).tolist())
        return self.module(_all_rows(x, lengths, self.along), *args, **kwargs)


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
    """A convolution of three rows, with rows of each neighbour; at the edges of the picture it pads as ever.

    It pads at the borders of a rank's rows too; what comes of that is cut off.

    Args:
        module: the convolution, perhaps with a padding before it.
        along: the ranks that share the rows.
        stride: 1, or 2 where two rows become one. From each neighbour it gets as many rows, so that a rank's rows
            begin where they do in the whole picture, and one row of the result is cut off.
    """

    def __init__(self, module: torch.nn.Module, along: Axis, stride: int = 1) -> None:
        super().__init__()
        self.module, self.along, self.stride = module, along, stride

    def forward(self, x: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, C', [T,] h / stride, W'); `before` are frames (B, C, 2, h, W) that a causal convolution kept."""
        above, below = self.along.index > 0, self.along.index < self.along.size - 1
        if before is None:
            out = self.module(self._with_neighbours(x, above, below))
        else:
            wide = self._with_neighbours(torch.cat([before, x], dim=2), above, below)
            kept = before.shape[2]
            out = self.module(wide[:, :, kept:], wide[:, :, :kept])
        return out[..., int(above) : out.shape[-2] - below, :]

    def _with_neighbours(self, x: torch.Tensor, above: bool, below: bool) -> torch.Tensor:
        """Return x with the last rows of the rank above and the first rows of the rank below."""
        sent, rows = [0] * self.along.size, []
        if above:
            rows.append(x[..., : self.stride, :])
            sent[self.along.index - 1] = 1
        if below:
            rows.append(x[..., -self.stride :, :])
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
