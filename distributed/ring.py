"""Sequence parallelism by passing keys and values around (ring attention).

Every rank keeps its queries and sees all keys, in one of two ways:

* "p2p": it attends to one rank's keys while it passes them on to the next rank and gets
  those of the one before; P - 1 times. It holds two ranks' keys at a time.
* "allgather": it gets all keys at once, and attends once. It holds all keys, and needs no
  merging, so that any attention will do.

Heads need not divide, so that there may be any number of ranks.

Shapes: B samples, s tokens of this rank, H heads, C width of a head, P ranks on the axis.
"""

from collections.abc import Callable
from typing import Literal

import attrs
import torch

from pure.attention import parts_of
from pure.distributed.collectives import exchange, gather, wait
from pure.distributed.mesh import Axis
from pure.partial import PartialAttention, merge
from pure.sharding import start

Rotate = Literal["p2p", "allgather"]


@attrs.frozen
class Ring:
    """Attention of tokens that are divided among the ranks of an axis.

    Attributes:
        attend: attention of one rank alone: see `pure.Denoiser`; with "p2p" one that can be taken in parts.
        axis: who passes keys and values around.
        rotate: "p2p" or "allgather", see above.
        fp32: with "p2p", add parts up in fp32, whatever the type of the tokens.

    Raises:
        ValueError: the attention cannot be taken in parts, and has to be.
    """

    attend: Callable[..., torch.Tensor]
    axis: Axis
    rotate: Rotate = "p2p"
    fp32: bool = True

    def __attrs_post_init__(self) -> None:
        if self.rotate == "p2p" and self.axis.size > 1 and parts_of(self.attend) is None:
            name = getattr(self.attend, "name", None) or self.attend
            raise ValueError(
                f"a ring that passes keys on attends to one part of them at a time and adds the parts up by their "
                f"log-sum-exp, which the attention {name} does not give; use rotate='allgather' "
                "(ring_rotate_method: allgather), or native"
            )

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None = None,
        whole: bool = False,
        *,
        lengths: tuple[int, ...],
    ) -> torch.Tensor:
        """Return attention (B, s, H, C) of this rank's queries.

        Args:
            q: (B, s, H, C).
            k: (B, s, H, C), or with `whole` (B, K, H, C).
            v: as `k`.
            mask: (B, 1, 1, tokens of all ranks) in the order of the ranks; with `whole` any.
            whole: every rank has all keys and values, so that nothing is sent.
            lengths: tokens of each of the P ranks.
        """
        if q.shape[2] == 0:  # no heads: none of these ranks has any
            return q
        if whole or self.axis.size == 1:
            return self._alone(q, k, v, mask)
        both = torch.stack([k, v], dim=2).transpose(0, 1)  # (s, B, 2, H, C): tokens first, to cut them
        if self.rotate == "allgather":
            return self._alone(q, *_halves(self._gathered(both, lengths)), mask)
        return self._around(q, both, mask, lengths)

    def _alone(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return self.attend(q, k, v, mask) if q.shape[1] else q

    def _gathered(self, both: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
        """Return the keys and values of all ranks, (sum of lengths, B, 2, H, C)."""
        longest = max(lengths)
        missing = both.new_zeros(longest - both.shape[0], *both.shape[1:])
        parts = wait(gather(torch.cat([both, missing]), self.axis.group)).split(longest)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def _around(
        self, q: torch.Tensor, both: torch.Tensor, mask: torch.Tensor | None, lengths: tuple[int, ...]
    ) -> torch.Tensor:
        size, index = self.axis.size, self.axis.index
        found: PartialAttention | None = None
        for hop in range(size):
            source = (index - hop) % size
            # On its way while this rank attends to what it has.
            arriving = None if hop == size - 1 else self._pass_on(both, lengths[(source - 1) % size])
            if lengths[source] and q.shape[1]:
                part = self._part(q, both, mask, start(lengths, source))
                found = part if found is None else merge(found, part)
            both = both if arriving is None else wait(arriving)
        return q if found is None else found[0].transpose(1, 2).to(q.dtype)

    def _pass_on(self, both: torch.Tensor, coming: int) -> torch.Tensor:
        """Launch sending all of `both` to the next rank and receiving `coming` tokens from the one before."""
        size, index = self.axis.size, self.axis.index
        after, before = (index + 1) % size, (index - 1) % size
        sent = [both.shape[0] if rank == after else 0 for rank in range(size)]
        received = [coming if rank == before else 0 for rank in range(size)]
        return exchange(both, received, sent, self.axis.group)

    def _part(self, q: torch.Tensor, both: torch.Tensor, mask: torch.Tensor | None, begin: int) -> PartialAttention:
        here = None if mask is None else mask[..., begin : begin + both.shape[0]]
        attend = parts_of(self.attend)
        assert attend is not None  # refused when this was made
        out, total = attend(q, *_halves(both), here)
        return out.to(torch.promote_types(out.dtype, torch.float32)) if self.fp32 else out, total


def _halves(both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values (B, tokens, H, C) of (tokens, B, 2, H, C)."""
    keys, values = both.transpose(0, 1).unbind(2)
    return keys, values
