"""Keyword arguments of a forward as a tree whose tensors have the sample first, and back.

The rule, for a call with B samples: a tensor whose first dimension is B is per sample; a
list or tuple of B tensors of other shapes has one per sample; so has one of B lists (of
sizes, say), which must then be equal. All else is shared. The rule can be wrong where
another dimension happens to be B: name such arguments as shared; `adapt` compares a batch
with its first sample alone and refuses what does not agree.
"""

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

from pure.models.errors import CheckpointError
from pure.tree import Shared, state, static

PER_SAMPLE, COMMON, RAGGED, REPEATED, PLAIN = "per sample", "common", "ragged", "repeated", "plain"


@state
class Ragged:
    """Tensors of different lengths, one per sample, padded with zeros."""

    rows: torch.Tensor  # (B, longest, ...)
    lengths: torch.Tensor  # (B,) int64 on the CPU


@attrs.frozen
class ArgumentLeaf:
    """What one argument (or entry of a container) is; `value`: the sample's dimension, or what is no tensor."""

    kind: str
    value: Any = None


@attrs.frozen
class Layout:
    """How arguments are put together again."""

    spec: pytree.TreeSpec
    leaves: tuple[ArgumentLeaf, ...]


@state
class Arguments:
    """All keyword arguments of a forward but latents and timestep."""

    samples: tuple[torch.Tensor | Ragged, ...]  # in the order of the leaves, each with B rows
    shared: Shared  # a tuple of tensors
    layout: Layout = static()


def pack(
    kwargs: Mapping[str, Any], batch: int, shared: Collection[str] = (), second: Collection[str] = ()
) -> Arguments:
    """Sort arguments of a call with `batch` samples by the rule of this module.

    Args:
        kwargs: tensors, plain values, and lists, tuples and dicts of them.
        batch: number of samples.
        shared: names of arguments that all samples share, whatever their shapes.
        second: names of tensors whose second dimension is the sample.

    Raises:
        CheckpointError: an argument can be neither shared nor split, or is an object that
            cannot be part of an immutable record.
    """
    found: list[tuple[ArgumentLeaf, Any]] = []
    specs = {}
    for name, value in kwargs.items():
        if name in second:
            found.append((ArgumentLeaf(PER_SAMPLE, 1), value.movedim(1, 0)))
            specs[name] = pytree.tree_structure(0)
            continue
        entry = None if name in shared else batch
        flat, specs[name] = pytree.tree_flatten(value, is_leaf=lambda node, b=entry: _one_each(node, b))
        found += [_sorted(name, leaf, entry) for leaf in flat]
    # The spec of the whole, with one leaf where each argument has as many as its own spec says.
    spec = pytree.tree_structure({name: pytree.tree_unflatten([0] * s.num_leaves, s) for name, s in specs.items()})
    return Arguments(
        samples=tuple(value for leaf, value in found if leaf.kind in (PER_SAMPLE, RAGGED)),
        shared=Shared(value=tuple(value for leaf, value in found if leaf.kind == COMMON)),
        layout=Layout(spec, tuple(leaf for leaf, _ in found)),
    )


def has_samples(value: Any, batch: int) -> bool:
    """Whether the rule of this module gives each of `batch` samples a part of an argument."""
    flat = pytree.tree_leaves(value, is_leaf=lambda node: _one_each(node, batch))
    return any(
        leaf.ndim > 0 and leaf.shape[0] == batch if isinstance(leaf, torch.Tensor) else isinstance(leaf, list | tuple)
        for leaf in flat
    )


def _one_each(node: Any, batch: int | None) -> bool:
    """Whether a container has one entry for each sample, so that it is one leaf."""
    if batch is None or not isinstance(node, list | tuple) or len(node) != batch:
        return False
    if all(isinstance(entry, torch.Tensor) and entry.ndim for entry in node):
        return not all(entry.shape[0] == batch for entry in node)
    return all(isinstance(entry, list | tuple) and not _tensors(entry) for entry in node)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _sorted(name: str, leaf: Any, batch: int | None) -> tuple[ArgumentLeaf, Any]:
    if isinstance(leaf, torch.Tensor):
        split = batch is not None and leaf.ndim > 0 and leaf.shape[0] == batch
        return ArgumentLeaf(PER_SAMPLE, 0) if split else ArgumentLeaf(COMMON), leaf
    if isinstance(leaf, list | tuple) and leaf and isinstance(leaf[0], torch.Tensor):
        return ArgumentLeaf(RAGGED, type(leaf)), padded(leaf)
    if isinstance(leaf, list | tuple):
        if any(entry != leaf[0] for entry in leaf):
            raise CheckpointError(
                f"{name} has one entry per sample and they differ ({leaf}); run samples that differ in it apart"
            )
        entries, spec = pytree.tree_flatten(leaf[0])
        return ArgumentLeaf(REPEATED, (type(leaf), spec, tuple(hashable(name, entry) for entry in entries))), None
    return ArgumentLeaf(PLAIN, hashable(name, leaf)), None


def padded(entries: Any) -> Ragged:
    """Pad tensors that differ in their first dimension only into one.

    Raises:
        CheckpointError: they differ in another dimension.
    """
    rests = {(tuple(entry.shape[1:]), entry.dtype) for entry in entries}
    if len(rests) > 1:
        raise CheckpointError(f"tensors of one list differ in more than their length: {sorted(map(str, rests))}")
    return Ragged(
        rows=torch.nn.utils.rnn.pad_sequence(list(entries), batch_first=True),
        lengths=torch.tensor([len(entry) for entry in entries]),
    )


def hashable(name: str, value: Any) -> Any:
    """Return a plain value, which can be a part of the structure of a state.

    Raises:
        CheckpointError: it is an object of another kind, which could change between steps.
    """
    if value is None or isinstance(value, str | int | float | complex | torch.dtype | torch.device | slice):
        return value
    raise CheckpointError(
        f"{name} holds a {type(value).__name__}, which cannot be part of a state; "
        "supported are tensors, numbers, strings and None, and lists, tuples and dicts of them"
    )


def unpack(arguments: Arguments, batch: int) -> dict[str, Any]:
    """Return the keyword arguments for `batch` samples, in new containers."""
    samples, shared = iter(arguments.samples), iter(arguments.shared.value)
    leaves = [_restored(leaf, samples, shared, batch) for leaf in arguments.layout.leaves]
    return pytree.tree_unflatten(leaves, arguments.layout.spec)


def _restored(leaf: ArgumentLeaf, samples: Any, shared: Any, batch: int) -> Any:
    if leaf.kind == PER_SAMPLE:
        return next(samples).movedim(0, leaf.value)
    if leaf.kind == COMMON:
        return next(shared)
    if leaf.kind == RAGGED:
        ragged = next(samples)
        lengths = ragged.lengths.tolist()
        return leaf.value(row[:length] for row, length in zip(ragged.rows.unbind(0), lengths, strict=True))
    if leaf.kind == REPEATED:
        kind, spec, entries = leaf.value
        return kind(pytree.tree_unflatten(entries, spec) for _ in range(batch))
    return leaf.value


def outline_of(arguments: Arguments) -> tuple:
    """Return which arguments are given and which are left out, and the values of switches; without sizes."""
    leaves, spec = arguments.layout.leaves, arguments.layout.spec
    given = pytree.tree_unflatten([leaf.kind != PLAIN or leaf.value is not None for leaf in leaves], spec)
    names = tuple((pytree.keystr(path), there) for path, there in pytree.tree_flatten_with_path(given)[0])
    return names, tuple(leaf.value for leaf in leaves if leaf.kind == PLAIN and isinstance(leaf.value, bool | str))
