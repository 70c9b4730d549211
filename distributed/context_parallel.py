"""A denoiser whose tokens are divided among ranks, as a transform.

Every rank embeds all tokens and keeps its share of each stream; blocks, and all that is
remembered between steps, are of that share; before the head the streams it reads are put
together again. Blocks are unchanged: what attends to other ranks' tokens is `attend`, and
what in their context speaks of single tokens is cut as the family says (`pure.PerToken`).

Shapes: B rows, N tokens of a stream, s tokens of this rank, D width.
"""

import functools
from collections.abc import Callable
from typing import Any

import attrs
import torch

from pure import Denoiser, PerToken, Shared, Transform, state, static
from pure.checks import choice, flag, kind
from pure.distributed.collectives import gather, wait
from pure.distributed.mesh import Axis, DeviceMesh, axis
from pure.distributed.ring import Ring, Rotate
from pure.distributed.ulysses import Ulysses
from pure.sharding import shares, start
from pure.tree import Tree

__all__ = ["context_parallel"]


CHOSEN: Any = choice("p2p", "allgather")


@attrs.frozen
class context_parallel(Transform):
    """Divide the tokens among the ranks of a mesh; every rank returns the whole prediction.

    All ranks call the denoiser with the same inputs. What it remembers is divided too: a rank's
    state holds its tokens. All ranks decide alike, as one process would: where a change is
    measured, its sums are added over the ranks. Steps that skip send nothing but that, and
    the prediction. Numbers differ from those of one process by rounding.

    Its place in a composition does not matter. With one rank on both axes it changes nothing.

    Args:
        mesh: of `make_mesh`; its axes "ring" and "ulysses" divide the tokens.
        float8: "ulysses" sends numbers of 8 bits.
        overlap: "ulysses" sends queries, keys and values one by one, and unpacks each while the
            rest is on its way.
        rotate: how "ring" passes keys and values around: "p2p" one rank's at a time, "allgather" all at once.
        fp32: "ring" with "p2p" adds parts of attention up in fp32.

    Raises:
        ValueError: the denoiser has no plan to divide its tokens, is divided already, or has an attention
            that cannot be taken in parts.
    """

    mesh: DeviceMesh = attrs.field(validator=kind(DeviceMesh, "a mesh is what pure.distributed.make_mesh returns"))
    float8: bool = attrs.field(default=False, kw_only=True, validator=flag)
    overlap: bool = attrs.field(default=False, kw_only=True, validator=flag)
    rotate: Rotate = attrs.field(default="p2p", kw_only=True, validator=CHOSEN)
    fp32: bool = attrs.field(default=True, kw_only=True, validator=flag)

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Divide the streams, wrap the attention, and let ranks agree on the change."""
        ring, ulysses = axis(self.mesh, "ring"), axis(self.mesh, "ulysses")
        if ring.size * ulysses.size == 1:
            return denoiser
        plan = self._plan(denoiser)
        division = Division(ring, ulysses)
        inner = Ring(denoiser.attend, ring, self.rotate, self.fp32)
        return attrs.evolve(
            denoiser,
            embed=Divided(denoiser.embed, denoiser.streams, plan, division),
            blocks=tuple(attrs.evolve(block, run=OwnTokens(block.run)) for block in denoiser.blocks),
            head=Together(denoiser.head, denoiser.reads or denoiser.streams, division),
            attend=Ulysses(inner, ulysses, ring.index, self.float8, self.overlap),
            agree=Added(division, denoiser.agree),
            own=_own,
        )

    def _plan(self, denoiser: Denoiser) -> PerToken:
        if isinstance(denoiser.embed, Divided):
            raise ValueError(
                "the tokens are divided twice; compose context_parallel(...) once, with both axes in its mesh"
            )
        if denoiser.per_token is None:
            raise ValueError(
                "this denoiser does not say which of its inputs belong to single tokens, so they cannot be divided "
                "(one that was cut out of any transformer never does); use a family of pure.models, or a mesh "
                "with ring=1 and ulysses=1"
            )
        return denoiser.per_token


@attrs.frozen
class Division:
    """Who shares a sequence: rank r of the ring and u of Ulysses has share r * (ranks of Ulysses) + u."""

    ring: Axis
    ulysses: Axis

    @property
    def count(self) -> int:
        """Return the number of shares."""
        return self.ring.size * self.ulysses.size

    @property
    def index(self) -> int:
        """Return which share this rank has."""
        return self.ring.index * self.ulysses.size + self.ulysses.index

    def own(self, total: int) -> tuple[int, int]:
        """Return where this rank's share of a stream of `total` tokens begins and ends."""
        lengths = shares(total, self.count)
        begin = start(lengths, self.index)
        return begin, begin + lengths[self.index]

    def gathered(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tensors of all ranks, in the order of their shares; all are shaped like `x`."""
        rows = x.unsqueeze(0)
        for across in (self.ulysses, self.ring):
            rows = rows if across.size == 1 else wait(gather(rows, across.group))
        return rows.unbind(0)


@attrs.frozen
class Added:
    """Add sums over the ranks: in the same order on each, so that all have the same bits and decide alike."""

    division: Division
    then: Callable[[torch.Tensor], torch.Tensor] | None = None  # what other ranks agree on by, if any do

    def __call__(self, sums: torch.Tensor) -> torch.Tensor:
        """Return the sums (K, B) of all shares."""
        total = torch.stack(self.division.gathered(sums)).sum(0)
        return total if self.then is None else self.then(total)


@state
class ShardedContext:
    """The context of a share of the tokens."""

    own: Tree  # what blocks read
    # The fields that were cut, as they were. Only the head reads them, which runs on all samples: where
    # the middle runs on some, they need not be selected.
    whole: Shared
    counts: tuple[tuple[str, int | None], ...] = static()  # likewise, static fields
    sizes: tuple[tuple[str, int], ...] = static()
    lengths: tuple[int, ...] = static()  # tokens of each rank


@attrs.frozen
class Divided:
    """Embed all tokens, and keep this rank's."""

    embed: Callable[..., tuple[Tree, Tree]]
    streams: tuple[str, ...]
    plan: PerToken
    division: Division

    @property
    def stays_eager(self) -> bool:
        """Whether the embedding cannot be compiled."""
        return getattr(self.embed, "stays_eager", False)

    def __call__(
        self, params: Any, prepared: Tree, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Tree, ShardedContext]:
        """Return this rank's tokens of each stream (B, s, D), and their context."""
        hidden, context = self.embed(params, prepared, latents, timestep)
        tokens = {name: getattr(hidden, name).shape[1] for name in self.streams}
        parts = [shares(tokens[name], self.division.count) for name in self.streams]
        own = {name: self._own(getattr(hidden, name)) for name in self.streams}
        cut = {name: self._table(getattr(context, name), of, tokens) for name, of in self.plan.tables}
        cut |= {name: self._mask(getattr(context, name), of, tokens) for name, of in self.plan.masks}
        counts = {name: self._count(getattr(context, name), tokens[of]) for name, of in self.plan.counts}
        part = ShardedContext(
            own=_with(context, {**cut, **counts}),
            whole=Shared(value={name: getattr(context, name) for name in cut}),
            counts=tuple((name, getattr(context, name)) for name in counts),
            sizes=tuple(tokens.items()),
            lengths=tuple(sum(each) for each in zip(*parts, strict=True)),
        )
        return _with(hidden, own), part

    def _own(self, stream: torch.Tensor) -> torch.Tensor:
        begin, end = self.division.own(stream.shape[1])
        # A copy: states keep the strides of what they are made from, and the whole need not stay alive.
        return stream[:, begin:end].clone(memory_format=torch.contiguous_format)

    def _table(self, table: Tree, streams: tuple[str, ...], tokens: dict[str, int]) -> Tree:
        """Return this rank's entries of a table with one for every token of `streams`."""
        if isinstance(table, Shared):
            return Shared(value=_each(table.value, lambda x: self._entries(x, 0, streams, tokens)))
        return _each(table, lambda x: self._entries(x, 1, streams, tokens))

    def _entries(self, x: torch.Tensor, dim: int, streams: tuple[str, ...], tokens: dict[str, int]) -> torch.Tensor:
        parts = x.split([tokens[name] for name in streams], dim)
        spans = [self.division.own(part.shape[dim]) for part in parts]
        return torch.cat(
            [part.narrow(dim, begin, end - begin) for part, (begin, end) in zip(parts, spans, strict=True)], dim
        )

    def _mask(self, mask: torch.Tensor | None, streams: tuple[str, ...], tokens: dict[str, int]) -> torch.Tensor | None:
        """Return a mask of keys (B, 1, 1, tokens) with those of the first rank first, as they are gathered."""
        if mask is None:
            return None
        count = self.division.count
        parts = [part.split(shares(part.shape[-1], count), -1) for part in mask.split([tokens[s] for s in streams], -1)]
        return torch.cat([part[rank] for rank in range(count) for part in parts], -1)

    def _count(self, count: int | None, tokens: int) -> int | None:
        """Return how many of the first `count` tokens of a stream are this rank's; None of None."""
        begin, end = self.division.own(tokens)
        return None if count is None else min(max(count - begin, 0), end - begin)


@attrs.frozen
class OwnTokens:
    """A block of a rank's tokens; its attention knows how many the others have."""

    run: Callable[..., Tree]

    def __call__(self, params: Any, hidden: Tree, context: ShardedContext, attend: Callable) -> Tree:
        """Run the block."""
        return self.run(params, hidden, context.own, functools.partial(attend, lengths=context.lengths))


@attrs.frozen
class Together:
    """Put the streams together that the head reads, and run it."""

    head: Callable[..., torch.Tensor]
    reads: tuple[str, ...]
    division: Division

    @property
    def stays_eager(self) -> bool:
        """Whether the head cannot be compiled."""
        return getattr(self.head, "stays_eager", False)

    def __call__(self, params: Any, hidden: Tree, context: ShardedContext) -> torch.Tensor:
        """Return the prediction of the whole, on every rank."""
        sizes = dict(context.sizes)
        streams = {name: self._whole(getattr(hidden, name), sizes[name]) for name in self.reads}
        whole = {**context.whole.value, **dict(context.counts)}
        return self.head(params, _with(hidden, streams), _with(context.own, whole))

    def _whole(self, stream: torch.Tensor, tokens: int) -> torch.Tensor:
        """Return a stream (B, N, D) of every rank's tokens (B, s, D)."""
        lengths = shares(tokens, self.division.count)
        missing = stream.new_zeros(stream.shape[0], max(lengths) - stream.shape[1], stream.shape[2])
        parts = self.division.gathered(torch.cat([stream, missing], dim=1))
        return torch.cat([part[:, :length] for part, length in zip(parts, lengths, strict=True)], dim=1)


def _own(context: ShardedContext) -> Tree:
    return context.own


def _each(tree: Tree, function: Callable[[torch.Tensor], torch.Tensor]) -> Tree:
    """Apply a function to a tensor, or to each of a tuple."""
    return tuple(map(function, tree)) if isinstance(tree, tuple) else function(tree)


def _with(record: Tree, changes: dict[str, Any]) -> Tree:
    """Return a `@state` record with some fields changed; attrs' own way cannot be compiled."""
    cls = type(record)
    rest = {n: getattr(record, n) for n in (*cls.__tree_fields__, *cls.__static_fields__) if n not in changes}
    return cls(**changes, **rest)
