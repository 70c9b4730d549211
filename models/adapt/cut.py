"""Where a model is cut, and how its blocks hang together.

`Hidden` holds the streams: the tensors that a block receives from the block before it. A
`Link` says how a block's arguments come from the streams and from constants; a `Form` says
how streams lie in one tensor, alone or one after the other.

Shapes: B samples, N tokens, D width.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

from pure.block import Params
from pure.models.adapt.dispatch import dispatching
from pure.models.adapt.structure import ModuleFunction
from pure.models.adapt.tape import Constant, Op, Slot, Tape, Untraceable, filled, play
from pure.models.adapt.walk import Mark, Visit
from pure.tree import Shared, state, static

STREAMS = ("image", "text", "other")


@state
class Hidden:
    """The streams in the order of a block's arguments; `image` is the first, whatever it stands for.

    The sample is the first dimension here; `dims` says which one it is for the model.
    """

    image: torch.Tensor  # (B, N, D)
    text: torch.Tensor | None = None  # (B, T, D)
    other: torch.Tensor | None = None
    dims: tuple[int, ...] = static(default=(0, 0, 0))


@state
class Moved:
    """A constant whose samples lie on another dimension in the model."""

    rows: torch.Tensor  # (B, ...)
    dim: int = static()

    @property
    def value(self) -> torch.Tensor:
        """The tensor as the model has it."""
        return self.rows.movedim(0, self.dim).contiguous()


@state
class Context:
    """What the blocks and the head of a step read.

    Entries that all samples share sit in `Shared`; so does what only the head reads, which
    always runs on the whole batch.
    """

    constants: tuple[torch.Tensor | Moved | Shared, ...]
    replay: Shared  # results of what ran before the blocks
    arguments: Shared  # keyword arguments of the forward


def streams_of(hidden: Hidden) -> list[torch.Tensor]:
    """Return the streams there are, as the model has them."""
    streams = [stream for stream in (hidden.image, hidden.text, hidden.other) if stream is not None]
    return [s.movedim(0, dim).contiguous() if dim else s for s, dim in zip(streams, hidden.dims, strict=False)]


def hidden_of(streams: Sequence[torch.Tensor], dims: tuple[int, ...] = (0, 0, 0)) -> Hidden:
    """Return the record of one to three streams as the model has them, with their samples on `dims`."""
    first = [s.movedim(dim, 0) if dim else s for s, dim in zip(streams, dims, strict=False)]
    return Hidden(**dict(zip(STREAMS, first, strict=False)), dims=dims)


def tensor_of(constant: torch.Tensor | Moved | Shared) -> torch.Tensor:
    """Return a constant of the context as the model has it."""
    return constant if isinstance(constant, torch.Tensor) else constant.value


@attrs.frozen
class Form:
    """Which streams a tensor holds, one after the other along `dim`."""

    streams: tuple[int, ...]
    dim: int = 1

    def join(self, streams: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the tensor that holds them."""
        parts = [streams[number] for number in self.streams]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.dim)

    def split(self, tensor: torch.Tensor, streams: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """Return the streams that a tensor holds, of the sizes that `streams` have."""
        if len(self.streams) == 1:
            return {self.streams[0]: tensor}
        sizes = [streams[number].shape[self.dim] for number in self.streams]
        return dict(zip(self.streams, tensor.split(sizes, dim=self.dim), strict=True))


@attrs.frozen
class Link:
    """How a block's arguments are made.

    Attributes:
        spec: structure of `(args, kwargs)`.
        sources: for every leaf a `Slot`, a `Constant` of the context, or a plain value.
        ops: what is done to the outputs of the block before, slots 0, 1, ..., on the way.
    """

    spec: pytree.TreeSpec
    sources: tuple
    ops: tuple[Op, ...]

    def takes(self, args: tuple, kwargs: Mapping[str, Any]) -> bool:
        """Whether arguments of a block are such: of the same structure, with the same plain values."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        pairs = zip(leaves, self.sources, strict=False)
        return spec == self.spec and all(isinstance(leaf, torch.Tensor) or leaf == source for leaf, source in pairs)


@attrs.frozen
class Wiring:
    """A link with the forms of what comes in (outputs of the block before) and what goes out; None: no stream."""

    link: Link
    enters: tuple[Form | None, ...]
    leaves: tuple[Form | None, ...]


def alike(wiring: Wiring) -> Wiring:
    """Number what comes in by streams, so that blocks that do the same are equal."""
    order = sorted(range(len(wiring.enters)), key=lambda slot: (wiring.enters[slot] or Form(())).streams)
    numbers = {slot: place for place, slot in enumerate(order)}

    def renamed(leaf: Any) -> Any:
        return Slot(numbers.get(leaf.number, leaf.number)) if isinstance(leaf, Slot) else leaf

    ops = tuple(attrs.evolve(op, leaves=tuple(map(renamed, op.leaves))) for op in wiring.link.ops)
    link = Link(wiring.link.spec, tuple(map(renamed, wiring.link.sources)), ops)
    return Wiring(link, tuple(wiring.enters[slot] for slot in order), wiring.leaves)


@attrs.frozen
class BlockRun:
    """A block as `(params, hidden, context, attend) -> hidden`; it attends itself, by the kernel `attend` names."""

    function: ModuleFunction
    wiring: Wiring

    def __call__(self, params: Params, hidden: Hidden, context: Context, attend: Callable) -> Hidden:
        """Do what the model does before the block, run the block, and take the streams out of its output."""
        link, streams = self.wiring.link, streams_of(hidden)
        constants = [tensor_of(leaf) for leaf in context.constants]
        entering = {number: form.join(streams) for number, form in enumerate(self.wiring.enters) if form is not None}
        slots = play(link.ops, entering, constants)
        args, kwargs = pytree.tree_unflatten([filled(s, slots, constants) for s in link.sources], link.spec)
        with dispatching(attend):
            outputs = pytree.tree_leaves(self.function(params, args, kwargs))
        changed = dict(enumerate(streams))
        for form, output in zip(self.wiring.leaves, outputs, strict=True):
            if form is not None:
                changed |= form.split(output, streams)
        return hidden_of([changed[number] for number in range(len(streams))], hidden.dims)


@attrs.define(eq=False)
class Registry:
    """Tensors that no block makes, each once, in the order in which blocks need them."""

    tensors: list[torch.Tensor] = attrs.field(factory=list)
    numbers: dict[int, int] = attrs.field(factory=dict)

    def constant(self, tensor: torch.Tensor) -> Constant:
        """Return the number of a tensor, the same for the same object."""
        number = self.numbers.setdefault(id(tensor), len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(tensor)
        return Constant(number)


def entry_link(visit: Visit, streams: Sequence[int], registry: Registry) -> Link:
    """Return the link of the first block; `streams` are the leaves that are streams."""
    sources = [
        Slot(streams.index(place)) if place in streams else _plain(leaf, registry)
        for place, leaf in enumerate(visit.leaves)
    ]
    return Link(visit.spec, tuple(sources), ())


def link(visit: Visit, before: Visit, tape: Tape, registry: Registry) -> Link:
    """Return the link between two blocks.

    Raises:
        Untraceable: the block reads what an earlier block returned.
    """
    outputs = {leaf.slot: number for number, leaf in enumerate(before.outputs) if isinstance(leaf, Mark)}
    wanted = [leaf.slot for leaf in visit.leaves if isinstance(leaf, Mark)]
    ops, begun = tape.behind(wanted, before.since)
    if begun - outputs.keys():
        raise Untraceable("a block reads what an earlier block than the one before it returned")
    numbers = dict(outputs)
    renamed = []
    for op in ops:
        written = tuple(_renamed(leaf, numbers, tape, registry) for leaf in op.leaves)
        for result in op.results:
            numbers[result] = len(before.outputs) + len(numbers) - len(outputs)
        renamed.append(attrs.evolve(op, leaves=written, results=tuple(numbers[result] for result in op.results)))
    sources = [Slot(numbers[x.slot]) if isinstance(x, Mark) else _plain(x, registry) for x in visit.leaves]
    return Link(visit.spec, tuple(sources), tuple(renamed))


def _renamed(leaf: Any, numbers: Mapping[int, int], tape: Tape, registry: Registry) -> Any:
    if isinstance(leaf, Slot):
        return Slot(numbers[leaf.number])
    return registry.constant(tape.constants[leaf.number]) if isinstance(leaf, Constant) else leaf


def _plain(leaf: Any, registry: Registry) -> Any:
    if isinstance(leaf, torch.Tensor):
        return registry.constant(leaf)
    try:
        hash(leaf)
    except TypeError:
        raise Untraceable(f"a block is given a {type(leaf).__name__}, which could change between steps") from None
    return leaf


def keys(block: torch.nn.Module, spec: pytree.TreeSpec) -> tuple[str, ...]:
    """Name the leaves of a block's arguments: by parameter, whether given by place or by name."""
    names = [name for name in inspect.signature(type(block).forward).parameters][1:]
    args, kwargs = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    named = {names[place] if place < len(names) else f"*{place}": arg for place, arg in enumerate(args)} | kwargs
    found = {}
    for name, value in named.items():
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            found[leaf] = name + pytree.keystr(path)
    return tuple(found[number] for number in range(spec.num_leaves))
