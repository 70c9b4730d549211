"""Immutable records that are pytrees, and the batch surgery done on trees of them.

A record made with `@state` is a frozen, slotted, keyword-only attrs class. It is
registered with torch's pytree library, can be built inside code traced by
`torch.compile`, and keeps fields made with `static()` in the tree structure.

Every tensor in such a tree has the sample as its first dimension. What all samples
have in common (rotary tables, for instance) sits in a `Shared` node, which `take`,
`put` and `join` leave alone.

Shapes: B samples, I indexed samples (I <= B).
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, dataclass_transform

import attrs
import torch
import torch.utils._pytree as pytree

from pure.checks import shown

T = TypeVar("T")
Tree = Any
_Factory: Any = attrs.Factory  # a class, which attrs' stubs declare as a function


def static(**options: Any) -> T:  # pyright: ignore[reportInvalidTypeVarUse]  # of the field it is assigned to
    """Declare a field of a `@state` record that belongs to the tree structure.

    A static field takes part in equality of structures and must be hashable; a
    tensor in it is refused when the record is flattened.
    """
    return attrs.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(attrs.field, static))
def state(cls: type[T]) -> type[T]:
    """Turn a class with annotated fields into an immutable pytree record.

    Raises:
        TypeError: a field uses a validator, a converter or a factory default, none of
            which can be traced by `torch.compile`.

    >>> @state
    ... class Pair:
    ...     first: torch.Tensor
    ...     second: torch.Tensor
    >>> pair = Pair(first=torch.zeros(2), second=torch.ones(2))
    >>> take(pair, torch.tensor([1])).second
    tensor([1.])
    """
    if not isinstance(cls, type):
        raise TypeError(f"@pure.state decorates a class, got {shown(cls)}")
    record: Any = attrs.frozen(kw_only=True, eq=False)(cls)
    fields = attrs.fields(record)
    for field in fields:
        if field.validator or field.converter or isinstance(field.default, _Factory):
            raise TypeError(
                f"{record.__name__}.{field.name} has a validator, converter or factory default; "
                "a @state record is built inside compiled code and takes plain fields only"
            )
    record.__init__ = _plain_init(record, fields)
    dynamic = tuple(f.name for f in fields if not f.metadata.get("static"))
    fixed = tuple(f.name for f in fields if f.metadata.get("static"))
    record.__tree_fields__ = dynamic
    record.__static_fields__ = fixed
    _register(record, dynamic, fixed)
    return record


def _plain_init(cls: type, fields: Sequence[attrs.Attribute]) -> Callable[..., None]:
    """Write an `__init__` that dynamo can trace; attrs' own frozen one it cannot."""
    scope: dict[str, Any] = {"_object": object}
    arguments = []
    for field in fields:
        if field.default is attrs.NOTHING:  # with a default of its own all mistakes get one message
            arguments.append(f"{field.name}=...")
        else:
            scope[f"_default_{field.name}"] = field.default
            arguments.append(f"{field.name}=_default_{field.name}")
    lines = [f"  _object.__setattr__(self, {f.name!r}, {f.name})" for f in fields] or ["  pass"]
    shown = ", ".join(f"{field.name}=..." for field in fields)
    scope["_by_name"] = f"{cls.__name__} takes its fields by name: {cls.__name__}({shown})"
    signature = ", ".join(("self", "*_positional", *arguments))
    missing = [f"{field.name} is ..." for field in fields if field.default is attrs.NOTHING]
    refusal = f"  if {' or '.join(['_positional', *missing])}:\n   raise TypeError(_by_name)\n"
    body = refusal + "\n".join(lines)
    source = f"def make({', '.join(scope)}):\n def __init__({signature}):\n{body}\n return __init__"
    made: dict[str, Any] = {}
    module = sys.modules.get(cls.__module__)  # None where code is run by `exec` under another name
    exec(source, {} if module is None else module.__dict__, made)
    return made["make"](**scope)


def _register(cls: type, dynamic: tuple[str, ...], fixed: tuple[str, ...]) -> None:
    def statics(node: Any) -> tuple:
        values = tuple(getattr(node, name) for name in fixed)
        for name, value in zip(fixed, values, strict=True):
            if isinstance(value, torch.Tensor):
                raise TypeError(f"{cls.__name__}.{name} is static and holds a tensor; make it an ordinary field")
        return values

    def flatten(node: Any) -> tuple[list, tuple]:
        return [getattr(node, name) for name in dynamic], statics(node)

    def flatten_with_keys(node: Any) -> tuple[list, tuple]:
        return [(pytree.GetAttrKey(name), getattr(node, name)) for name in dynamic], statics(node)

    def unflatten(values: Any, context: Any) -> Any:
        return cls(**dict(zip(dynamic, values, strict=True)), **dict(zip(fixed, context, strict=True)))

    pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        flatten_with_keys_fn=flatten_with_keys,
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
    )


@state
class Shared:
    """A value that all samples of a batch share; `take`, `put` and `join` leave it as it is."""

    value: Any


def map_samples(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `function` to corresponding tensors of equally built trees, skipping `Shared` nodes.

    A direct recursion over records, tuples and dicts: torch's generic tree map costs
    four times as much per call, and this runs several times a step.
    """
    if isinstance(tree, torch.Tensor):
        return function(tree, *rest)
    if tree is None or isinstance(tree, Shared):
        return tree
    if isinstance(tree, tuple | list):
        return type(tree)(map_samples(function, *nodes) for nodes in zip(tree, *rest, strict=True))
    if isinstance(tree, dict):
        return {key: map_samples(function, node, *(other[key] for other in rest)) for key, node in tree.items()}
    cls = type(tree)
    names = getattr(cls, "__tree_fields__", None)
    if names is None:
        raise TypeError(f"{cls.__name__} is not a pytree record; decorate it with @pure.state")
    dynamic = {n: map_samples(function, getattr(tree, n), *(getattr(other, n) for other in rest)) for n in names}
    return cls(**dynamic, **{name: getattr(tree, name) for name in cls.__static_fields__})


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a small tensor from the CPU to a device without waiting for what the device is doing."""
    if tensor.device == device:  # asking costs a tenth of a `to` that does nothing
        return tensor
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def numbers(tensor: torch.Tensor) -> list | None:
    """Return the numbers of a tensor; None under `torch.vmap`, where it stands for several."""
    try:
        return tensor.tolist()
    except RuntimeError as error:
        if "have storage" not in str(error):
            raise
        return None


def take(tree: T, index: torch.Tensor) -> T:
    """Select samples `index` (I, int64, on the CPU) of every tensor of a tree, as new tensors.

    Raises:
        TypeError: `index` is no such tensor.
        ValueError: there is no sample of that number.
    """
    most = _last("take", index)

    def select(leaf: torch.Tensor) -> torch.Tensor:
        if most >= leaf.shape[0]:
            raise ValueError(_no_sample("take", most, leaf))
        return leaf.index_select(0, send(index, leaf.device))

    return map_samples(select, tree)


def put(tree: T, index: torch.Tensor, part: T) -> T:
    """Replace samples `index` (I, int64, on the CPU) of a tree by those of `part`, out of place.

    Raises:
        TypeError: `index` is no such tensor.
        ValueError: there is no sample of that number, or `part` is built differently or has other sizes.
    """
    most = _last("put", index)

    def replace(leaf: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        if most >= leaf.shape[0]:
            raise ValueError(_no_sample("put", most, leaf))
        if new.shape[0] != len(index) or new.shape[1:] != leaf.shape[1:] or new.dtype != leaf.dtype:
            raise ValueError(
                f"put takes a part of {len(index)} samples of {tuple(leaf.shape[1:])} {leaf.dtype}, "
                f"got {tuple(new.shape)} {new.dtype}"
            )
        return leaf.index_copy(0, send(index, leaf.device), new)

    try:
        return map_samples(replace, tree, part)
    except (AttributeError, KeyError, TypeError) as error:
        if pytree.tree_structure(tree) == pytree.tree_structure(part):
            raise
        raise ValueError("put takes a part that is built like the tree, such as take(tree, index)") from error


def _last(name: str, index: Any) -> int:
    """Return the largest entry of an index of samples, -1 of none."""
    tensor = isinstance(index, torch.Tensor)
    if not tensor or index.dtype != torch.int64 or index.ndim != 1 or index.device.type != "cpu":
        got = f"a tensor of {tuple(index.shape)} {index.dtype}" if tensor else repr(index)[:80]
        raise TypeError(f"{name} takes the numbers of samples as an int64 tensor (I,) on the CPU, got {got}")
    entries = index.tolist()
    if entries and min(entries) < 0:
        raise ValueError(f"{name} counts samples from 0, got {min(entries)}")
    return max(entries, default=-1)


def _no_sample(name: str, most: int, leaf: torch.Tensor) -> str:
    return f"{name} was given sample {most} of a batch of {leaf.shape[0]}; samples are counted from 0"


def join(*trees: T) -> T:
    """Concatenate the samples of equally built trees.

    Raises:
        TypeError: something is no tree of `@state` records, tuples, dicts and tensors.
        ValueError: there is none, or the trees are built differently (by other plans, with and without guidance),
            or differ in a `Shared` value (another resolution, say), so that no batch can hold them.
    """
    if not trees:
        raise ValueError("join takes at least one tree")
    structure = pytree.tree_structure(trees[0])
    if any(pytree.tree_structure(other) != structure for other in trees[1:]):
        raise ValueError(
            "these requests cannot be joined: their states are built differently; "
            "join only what the same denoiser initialised, all with guidance or all without"
        )
    first = _shared_leaves(trees[0])
    for other in trees[1:]:
        found = _shared_leaves(other)
        if len(found) != len(first) or not all(_same(a, b) for a, b in zip(first, found, strict=True)):
            raise ValueError(
                "these requests cannot be joined: a value that all samples share differs "
                "(usually the resolution or the text length); run them in separate batches"
            )
    return map_samples(lambda *leaves: torch.cat(leaves), *trees)


def _shared_leaves(tree: Tree) -> list:
    nodes = pytree.tree_leaves(tree, is_leaf=lambda node: isinstance(node, Shared))
    return [leaf for node in nodes if isinstance(node, Shared) for leaf in pytree.tree_leaves(node.value)]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        # On meta there are no values to compare, only shapes.
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and (a.is_meta or torch.equal(a, b)))
    return a == b


def leaves_with_paths(tree: Tree) -> Iterator[tuple[str, Any]]:
    """Yield `(path, leaf)` of a tree, the path as a person would write it (`.cache.probe`)."""
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        yield pytree.keystr(path), leaf


def tensors_of(tree: Tree) -> dict[str, torch.Tensor]:
    """Return the tensors of a tree by their paths; see `leaves_with_paths`."""
    return {path: leaf for path, leaf in leaves_with_paths(tree) if isinstance(leaf, torch.Tensor)}


def signature(tree: Tree) -> tuple:
    """Structure and metadata of a tree: what the carry check of the loop compares, without any copy."""
    leaves, spec = pytree.tree_flatten(tree)
    return spec, tuple(describe(leaf) for leaf in leaves)


def describe(leaf: Any) -> Any:
    """Shape, strides, dtype, device and placements of a tensor; other leaves describe themselves."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    placements = getattr(leaf, "placements", None)
    return tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device, placements
