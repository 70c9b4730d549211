"""The pieces of a step whose middle blocks are skipped one by one: a part for each of them."""

from collections.abc import Callable, Sequence

import attrs

from pure.pieces import Kept, Pieces

__all__ = ["one_by_one"]


def one_by_one(pieces: Pieces, middle: Callable[[int, tuple[Kept, ...]], Callable], keep: Sequence[int]) -> Pieces:
    """Return the pieces with a part for each middle block; those to keep have no rules and remember nothing."""
    front, stop = pieces.span

    def part(index: int) -> Pieces:
        kept = () if index in keep else pieces.kept
        own = attrs.evolve(pieces, middle=middle(index, kept), span=(0, 1), count=1)
        return attrs.evolve(own, rules=(), kept=(), depths=(), probing=False) if index in keep else own

    kept = f"of each block but {list(keep)}: {pieces.keeps}, and what enters it"
    parts = tuple(part(index) for index in range(front, stop))
    return attrs.evolve(pieces, kept=(), depths=(), probing=False, parts=parts, keeps=kept, brief=pieces.front)
