"""Finding the blocks: which modules are called one after another, and what passes between them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

from pure.models.adapt.cut import STREAMS, Form, Link, Registry, Wiring, entry_link, keys, link
from pure.models.adapt.structure import lists, parameters
from pure.models.adapt.tape import Op, Slot, Tape, Untraceable
from pure.models.adapt.walk import Mark, Visit, Walk, outline
from pure.models.errors import CheckpointError


@attrs.frozen(eq=False)
class Call:
    """One call of a candidate: its name, and leaves and structure of what it returned, on the meta device."""

    name: str
    outputs: tuple
    spec: pytree.TreeSpec


@attrs.frozen(eq=False)
class BlockCut:
    """The blocks, what they are given, and how the streams pass through them.

    Attributes:
        blocks: names in the order of their calls.
        wirings: one per block.
        last: the last block that needs a constant no earlier one has: there `embed` may stop.
        glue: the operations between the first and the last block.
        specs: structure of what each block returns.
        plain: leaves of what each block returns that are no streams: values that are no tensors.
        streams: names of the first block's arguments that are streams.
        why: why the cut ends where it does; empty if no block follows.
    """

    blocks: tuple[str, ...]
    wirings: tuple[Wiring, ...]
    last: int
    glue: tuple[Op, ...]
    specs: tuple[pytree.TreeSpec, ...]
    plain: tuple[tuple, ...]
    streams: tuple[str, ...]
    why: str = ""

    @property
    def places(self) -> tuple[int, ...]:
        """Which leaves of the first block's arguments are the streams."""
        return tuple(self.wirings[0].link.sources.index(Slot(number)) for number in range(len(self.streams)))

    def returned(self, number: int, stream: Callable[[Form], Any]) -> Any:
        """Return what block `number` returns: `stream(form)` in the place of its tensors."""
        pairs = zip(self.wirings[number].leaves, self.plain[number], strict=True)
        return pytree.tree_unflatten([v if form is None else stream(form) for form, v in pairs], self.specs[number])


def discover(module: torch.nn.Module, kwargs: Mapping[str, Any]) -> tuple[list[Call], Any]:
    """Run the model with every entry of its outermost lists watched; return their calls and what it returned."""
    names = [f"{name}.{place}" for name, entries in lists(module) for place in range(len(entries))]
    model, calls = outline(module, names, list(parameters(module))), []

    def watch(number: int, /, *args: Any, **inner: Any) -> Any:
        result = module.get_submodule(names[number])(*args, **inner)
        leaves, spec = pytree.tree_flatten(result)
        calls.append(Call(names[number], tuple(map(_on_meta, leaves)), spec))
        return result

    raw = model.run(parameters(module), kwargs, watch, _run)
    return calls, raw


def _run(name: str, module: torch.nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    return type(module).forward(module, *args, **kwargs)


def _on_meta(leaf: Any) -> Any:
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, torch.Tensor) else leaf


def search(
    module: torch.nn.Module, kwargs: Mapping[str, Any], calls: Sequence[Call], device: torch.device
) -> list[BlockCut]:
    """Return the runs of two or more blocks between which only streams pass, the longest first.

    Raises:
        CheckpointError: there is none, with the reason.
    """
    if not calls:
        raise CheckpointError(f"{type(module).__name__} calls no entry of any list of modules; there are no blocks")
    found, reasons = [], []
    for start in _starts(calls):
        try:
            found.append(_cut(module, kwargs, calls, start, device))
        except (Untraceable, CheckpointError) as error:
            reasons.append(f"from {calls[start].name}: {error}")
    if not found:
        raise CheckpointError(
            f"{type(module).__name__} cannot be cut into blocks with streams between them; {'; '.join(reasons)}"
        )
    found.sort(key=lambda cut: len(cut.blocks), reverse=True)
    if len(found[0].blocks) < 2:
        raise CheckpointError(
            f"{type(module).__name__} has one block that passes on nothing but streams, {found[0].blocks[0]}"
            f"{f' ({found[0].why})' if found[0].why else ''}, and a cache needs two, to run one and skip the other; "
            "pure.models.adapt.whole.whole runs the model in one piece"
        )
    return [cut for cut in found if len(cut.blocks) > 1]


def _starts(calls: Sequence[Call]) -> list[int]:
    """Return where the calls of a list begin."""
    owners = [call.name.rpartition(".")[0] for call in calls]
    return [place for place, owner in enumerate(owners) if place == 0 or owners[place - 1] != owner]


def _cut(
    module: torch.nn.Module, kwargs: Mapping[str, Any], calls: Sequence[Call], start: int, device: torch.device
) -> BlockCut:
    every, calls = [call.name for call in calls], calls[start:]
    names = every[start:]
    if any(every.count(name) > 1 for name in names):
        raise CheckpointError("a block is called twice")
    params = parameters(module)
    walk = Walk(lambda number, leaves, tape: _symbols(calls[number], tape), len(calls) - 1, Tape(device))
    why = ""
    try:
        walk.go(outline(module, names, list(params)), params, kwargs)
    except Untraceable as error:
        why = str(error)
    return chain(module, walk, calls, why)


def _symbols(call: Call, tape: Tape) -> Any:
    leaves = [tape.symbol(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in call.outputs]
    return pytree.tree_unflatten(leaves, call.spec)


@attrs.define(eq=False)
class _Chain:
    """Forms found so far: of the streams among each block's arguments, by key, and of its outputs, by place."""

    visits: Sequence[Visit]
    keys: list[tuple[str, ...]]
    kinds: list[tuple[type, int]]
    streams: list[str] = attrs.field(factory=list)
    sizes: list[torch.Size] = attrs.field(factory=list)
    arguments: list[dict[str, Form]] = attrs.field(factory=list)
    returns: dict[tuple[Any, int], str] = attrs.field(factory=dict)

    def leaf(self, number: int, key: str) -> Any:
        return self.visits[number].leaves[self.keys[number].index(key)]


def chain(module: torch.nn.Module, walk: Walk, calls: Sequence[Call], why: str) -> BlockCut:
    """Follow the streams from block to block as far as they can be followed.

    Raises:
        CheckpointError: they cannot be followed through the first block.
    """
    visits, blocks = walk.visits, [module.get_submodule(call.name) for call in calls]
    named = [keys(block, visit.spec) for block, visit in zip(blocks, visits, strict=False)]
    kinds = [(type(block), len(call.outputs)) for block, call in zip(blocks, calls, strict=True)]
    state = _Chain(visits, named, kinds)
    followed, broken = _followed(walk)
    registry, last, why = Registry(), 0, broken or why
    _learn(state, followed)
    leaving = [_leaving(state, 0, followed)]
    first = [form for form in leaving[0] if form]
    if len(set(first)) < len(first):
        raise Untraceable("two outputs of the first block become the same argument")
    places = [state.keys[0].index(key) for key in state.streams]
    links = [entry_link(visits[0], places, registry)]
    for number, way in enumerate(followed, start=1):
        try:
            state.arguments.append(_entering(state, number, way, leaving[-1]))
            leaving.append(_leaving(state, number, followed))
        except Untraceable as error:
            why = f"{calls[number].name}: {error}"
            break
        known = len(registry.tensors)
        links.append(link(visits[number], visits[number - 1], walk.tape, registry))
        last = number if len(registry.tensors) > known else last
    enters = [tuple(Form((number,)) for number in range(len(places))), *leaving[:-1]]
    leaving = leaving[: len(links)]
    kept = calls[: len(links)]
    return BlockCut(
        blocks=tuple(call.name for call in kept),
        wirings=tuple(Wiring(*parts) for parts in zip(links, enters[: len(links)], leaving, strict=True)),
        last=last,
        glue=tuple(walk.tape.ops[: visits[len(links) - 1].since]),
        specs=tuple(call.spec for call in kept),
        plain=tuple(tuple(None if isinstance(x, torch.Tensor) else x for x in call.outputs) for call in kept),
        streams=tuple(state.streams),
        why=why,
    )


def _followed(walk: Walk) -> tuple[list[Link], str]:
    """Return the links between blocks, and what ends them if something does."""
    found: list[Link] = []
    for before, visit in itertools.pairwise(walk.visits):
        try:
            found.append(link(visit, before, walk.tape, Registry()))
        except Untraceable as error:
            return found, str(error)
    return found, ""


def _ancestors(way: Link, slot: int, outputs: int) -> list[int]:
    """Return the outputs of the block before that a slot is made from."""
    if slot < outputs:
        return [slot]
    op = next(op for op in way.ops if slot in op.results)
    found = [a for leaf in op.leaves if isinstance(leaf, Slot) for a in _ancestors(way, leaf.number, outputs)]
    return list(dict.fromkeys(found))


def _learn(state: _Chain, followed: Sequence[Link]) -> None:
    """Note which argument an output becomes where a block is followed by one of its kind."""
    for number, way in enumerate(followed):
        before = state.visits[number]
        if state.kinds[number] != state.kinds[number + 1]:
            continue
        for key, source in zip(state.keys[number + 1], way.sources, strict=True):
            if isinstance(source, Slot) and key in state.keys[number]:
                origin = _ancestors(way, source.number, len(before.outputs))
                if len(origin) == 1 and _alike(state.leaf(number, key), before.outputs[origin[0]]):
                    state.returns[state.kinds[number], origin[0]] = key


def _alike(a: Any, b: Any) -> bool:
    a, b = (leaf.twin if isinstance(leaf, Mark) else leaf for leaf in (a, b))
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype)


def _key(state: _Chain, number: int, place: int, followed: Sequence[Link]) -> str | None:
    """Return the argument that an output replaces: known of its kind, of the same name, or of the same shape."""
    if (key := state.returns.get((state.kinds[number], place))) is not None:
        return key
    output = state.visits[number].outputs[place]
    alike = [key for key in state.keys[number] if _alike(state.leaf(number, key), output)]
    if number < len(followed):
        outputs = len(state.visits[number].outputs)
        for key, source in zip(state.keys[number + 1], followed[number].sources, strict=True):
            if isinstance(source, Slot) and _ancestors(followed[number], source.number, outputs) == [place]:
                if key in alike:
                    return key
    return alike[0] if len(alike) == 1 else None


def _leaving(state: _Chain, number: int, followed: Sequence[Link]) -> tuple[Form | None, ...]:
    """Return the forms of a block's outputs; for the first block the keys become the streams."""
    found: list[Any] = []
    for place, output in enumerate(state.visits[number].outputs):
        key = _key(state, number, place, followed) if isinstance(output, Mark) else None
        if isinstance(output, Mark) and key is None:
            raise Untraceable(f"it returns a tensor of shape {tuple(output.twin.shape)} that is none of its arguments")
        found.append(key)
    if number == 0:
        state.streams = [key for key in state.keys[0] if key in found]
        state.sizes = [state.leaf(0, key).shape for key in state.streams]
        if not 0 < len(state.streams) <= len(STREAMS):
            raise Untraceable(f"it passes on {len(state.streams)} tensors, from 1 to {len(STREAMS)} are supported")
        state.arguments = [{key: Form((place,)) for place, key in enumerate(state.streams)}]
    forms = state.arguments[number]
    if any(key is not None and key not in forms for key in found):
        raise Untraceable(f"it returns {sorted(set(filter(None, found)) - forms.keys())}, no stream until there")
    return tuple(None if key is None else forms[key] for key in found)


def _entering(state: _Chain, number: int, way: Link, before: tuple[Form | None, ...]) -> dict[str, Form]:
    """Return the forms of the streams among a block's arguments.

    Raises:
        Untraceable: something of another shape arrives than streams, alone or one after the other.
    """
    outputs = len(state.visits[number - 1].outputs)
    forms: dict[str, Form] = {}
    for key, source in zip(state.keys[number], way.sources, strict=True):
        if isinstance(source, Slot):
            origin = _ancestors(way, source.number, outputs)
            form = before[origin[0]] if len(origin) == 1 else _joined(way, source.number, before, outputs)
            if form is None or not _fits(form, state.leaf(number, key).twin.shape, state.sizes):
                raise Untraceable(f"its {key} is neither a stream nor streams one after the other")
            forms[key] = form
    if not forms:
        raise Untraceable("nothing of the block before reaches it")
    return forms


def _joined(way: Link, slot: int, before: tuple[Form | None, ...], outputs: int) -> Form | None:
    """Return the form of what is concatenated from several outputs."""
    for op in way.ops:
        parts = [leaf.number for leaf in op.leaves if isinstance(leaf, Slot)]
        if op.function is not torch.cat or len(parts) < 2:
            continue
        origins = [_ancestors(way, part, outputs) for part in parts]
        forms = [before[origin[0]] if len(origin) == 1 else None for origin in origins]
        if all(form is not None and len(form.streams) == 1 for form in forms):
            args, kwargs = pytree.tree_unflatten(op.leaves, op.spec)
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            return Form(tuple(form.streams[0] for form in forms if form is not None), dim)
    return None


def _fits(form: Form, shape: torch.Size, sizes: Sequence[torch.Size]) -> bool:
    first = list(sizes[form.streams[0]])
    if len(form.streams) > 1:
        first[form.dim] = sum(sizes[number][form.dim] for number in form.streams)
    return list(shape) == first
