"""Sequence parallelism by exchanging tokens for heads (DeepSpeed Ulysses).

Every rank holds all heads of some tokens. For attention it gets all tokens of some heads,
and gives them back afterwards: two all-to-alls per attention. Neither tokens nor heads need
to divide evenly; with more ranks than heads some have none, and wait.

Shapes: B samples, s tokens of this rank, S of all ranks on the axis, H heads, h of this rank,
C width of a head, P ranks that share the sequence, n tensors sent together. What stays on a rank is not sent.
"""

import math
from collections.abc import Callable, Sequence

import attrs
import torch

from pure.distributed.collectives import exchange, wait
from pure.distributed.mesh import Axis
from pure.partial import same_heads
from pure.sharding import shares

LARGEST = torch.finfo(torch.float8_e4m3fn).max
SCALE = torch.float32
SCALE_BYTES = SCALE.itemsize

Lengths = tuple[int, ...]
Shape = tuple[int, int, int]
Pieces = tuple[torch.Tensor, ...]  # of a tensor, one for every rank


@attrs.frozen
class Ulysses:
    """Attention of tokens that are divided among the ranks of an axis.

    Attributes:
        attend: attention of the tokens of the whole axis, called as this is.
        axis: who exchanges tokens for heads.
        row: which of the groups of ranks along this axis this is; of a sequence that is divided along
            a second axis too, each has a part.
        float8: send numbers of 8 bits, with one scale per token and head: C + 4 bytes instead of C
            numbers. Each is off by up to 6 %.
        overlap: launch queries, keys and values one by one, and unpack each while the rest is on
            its way, instead of sending all as one.
    """

    attend: Callable[..., torch.Tensor]
    axis: Axis
    row: int = 0
    float8: bool = False
    overlap: bool = False

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None = None,
        whole: bool = False,
        *,
        lengths: Lengths,
    ) -> torch.Tensor:
        """Return attention (B, s, H, C) of this rank's queries.

        Args:
            q: (B, s, H, C).
            k: (B, s, H, C), or with `whole` (B, K, H, C); or of fewer heads.
            v: as `k`.
            mask: (B, 1, 1, tokens of all P ranks) in the order of the ranks; with `whole` any.
            whole: every rank has all keys and values, so that nothing is sent.
            lengths: tokens of each of the P ranks.
        """
        size = self.axis.size
        rows = tuple(sum(lengths[at : at + size]) for at in range(0, len(lengths), size))
        if whole or size == 1:
            return self.attend(q, k, v, mask, whole, lengths=rows)
        q, k, v = same_heads(q, k, v)
        own, heads = lengths[self.row * size :][:size], shares(q.shape[2], size)
        q, k, v = self._to_heads((q, k, v), own, heads)
        return self._to_tokens(self.attend(q, k, v, mask, lengths=rows), own, heads)

    def _to_heads(self, tensors: Sequence[torch.Tensor], lengths: Lengths, heads: Lengths) -> list[torch.Tensor]:
        """Return all tokens of some heads (B, S, h, C) of each of `tensors`, all heads of some tokens (B, s, H, C)."""
        batch, tokens, own = *tensors[0].shape[:2], heads[self.axis.index]
        cut = [x.permute(2, 0, 1, 3).split(list(heads)) for x in tensors]  # (heads of a rank, B, s, C)
        parcels = [[each] for each in cut] if self.overlap else [cut]
        sent, received = [(n, batch, tokens) for n in heads], [(own, batch, n) for n in lengths]
        launched = [self._launch(parcel, sent, received) for parcel in parcels]
        return [
            torch.cat(parts, dim=2).permute(1, 2, 0, 3)
            for arriving, parcel in zip(launched, parcels, strict=True)
            for parts in self._arrived(arriving, parcel, received)
        ]

    def _to_tokens(self, x: torch.Tensor, lengths: Lengths, heads: Lengths) -> torch.Tensor:
        """Return all heads of some tokens (B, s, H, C) of all tokens of some heads (B, S, h, C)."""
        (batch, _, held, _), own = x.shape, lengths[self.axis.index]
        parcel = [x.transpose(0, 1).split(list(lengths))]  # (tokens of a rank, B, h, C)
        sent, received = [(n, batch, held) for n in lengths], [(own, batch, n) for n in heads]
        (parts,) = self._arrived(self._launch(parcel, sent, received), parcel, received)
        return torch.cat(parts, dim=2).transpose(0, 1)

    def _launch(self, parcel: Sequence[Pieces], sent: list[Shape], received: list[Shape]) -> torch.Tensor:
        """Send n tensors, each cut into a piece for every rank, as rows of C numbers; this rank's own stay here.

        Args:
            parcel: the pieces of each tensor.
            sent: shapes of the pieces, without C.
            received: shapes of those that come.
        """
        pieces = [tensor[rank] for rank in range(self.axis.size) if rank != self.axis.index for tensor in parcel]
        rows = (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).flatten(0, 2)
        coming, going = (self._rows(shapes, len(parcel)) for shapes in (received, sent))
        return exchange(pack(rows) if self.float8 else rows, coming, going, self.axis.group)

    def _arrived(self, arriving: torch.Tensor, parcel: Sequence[Pieces], received: list[Shape]) -> list[Pieces]:
        """Return the pieces of n tensors that are here in the end, each tensor's in the order of the ranks."""
        rows, own = wait(arriving), self.axis.index
        like = parcel[0][own]
        rows = unpack(rows, like.dtype) if self.float8 else rows
        parts = rows.split(self._rows(received, len(parcel)))
        shaped = [
            None if rank == own else part.view(len(parcel), *received[rank], like.shape[-1])
            for rank, part in enumerate(parts)
        ]
        return [
            tuple(tensor[own] if part is None else part[index] for part in shaped)
            for index, tensor in enumerate(parcel)
        ]

    def _rows(self, shapes: list[Shape], tensors: int) -> list[int]:
        """Return how many rows go to each rank, or come from it."""
        return [0 if rank == self.axis.index else tensors * math.prod(shape) for rank, shape in enumerate(shapes)]


def pack(x: torch.Tensor) -> torch.Tensor:
    """Return numbers (..., C) as bytes (..., C + 4): of 8 bits each, and the scale of all C.

    >>> pack(torch.ones(2, 16)).shape
    torch.Size([2, 20])
    """
    # Zeros need a scale too: the smallest that divides.
    scale = (x.abs().amax(-1, keepdim=True).to(SCALE) / LARGEST).clamp(min=torch.finfo(SCALE).tiny)
    small = (x.to(SCALE) / scale).to(torch.float8_e4m3fn)
    return torch.cat([small.view(torch.uint8), scale.view(torch.uint8)], dim=-1)


def unpack(packed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers (..., C) of `pack`, off by up to a sixteenth.

    >>> unpack(pack(torch.tensor([[448.0, 17.0]])), torch.float32)
    tensor([[448.,  16.]])
    """
    small = packed[..., :-SCALE_BYTES].contiguous().view(torch.float8_e4m3fn)
    # A copy in any case: four bytes are one number only where a number may begin.
    scale = packed[..., -SCALE_BYTES:].clone(memory_format=torch.contiguous_format).view(SCALE)
    return (small.to(SCALE) * scale).to(dtype)
