"""What a model does to its streams between two blocks, recorded without computing it.

In place of a block's output the model is handed a `Symbol`: a tensor with a shape, a type
and a device, but without numbers. Every torch function that meets one is written on a
tape, with the other tensors it used, and answered by another symbol. Played back, the tape
does the same to numbers. A model that asks a symbol for its numbers is stopped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree


class Untraceable(Exception):
    """The model asks for numbers between two blocks, or does there what a tape cannot hold."""


@attrs.frozen
class Slot:
    """A place on the tape: an output of the block before, or of an operation."""

    number: int


@attrs.frozen
class Constant:
    """A tensor that an operation uses and that no block has made: its number among them."""

    number: int


@attrs.frozen
class Slice:
    """A slice, which Python cannot hash before version 3.12."""

    start: Any
    stop: Any
    step: Any


@attrs.frozen
class Op:
    """One torch function; `leaves` are its flattened arguments: slots, constants and plain values."""

    function: Callable
    spec: pytree.TreeSpec
    leaves: tuple
    results: tuple[int, ...]


def assigned(target: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """Return `target` with `target[index] = value` done to it, out of place."""
    copy = target.clone()
    copy[index] = value
    return copy


# What is known of a tensor without its numbers.
KNOWN = frozenset(
    getattr(torch.Tensor, name)
    for name in ("size", "dim", "stride", "numel", "nelement", "__len__", "is_contiguous", "element_size", "get_device")
) | frozenset((torch.Tensor.is_floating_point, torch.Tensor.is_complex, torch.is_floating_point, torch.is_complex))


class Symbol(torch.Tensor):
    """A tensor without numbers: its place on a tape, and a twin on the meta device."""

    twin: torch.Tensor
    tape: "Tape"
    slot: int

    @staticmethod
    def __new__(cls, twin: torch.Tensor, device: torch.device, tape: "Tape", slot: int) -> "Symbol":
        """Make one of the twin's shape and type, on `device`."""
        made = torch.Tensor._make_wrapper_subclass(cls, twin.shape, dtype=twin.dtype, device=device)
        made.twin, made.tape, made.slot = twin, tape, slot
        return made

    def __repr__(self, **kwargs: Any) -> str:
        return f"Symbol({tuple(self.twin.shape)}, {self.twin.dtype}, slot {self.slot})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in KNOWN or getattr(func, "__name__", "") == "__get__":
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        symbol = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Symbol))
        return symbol.tape.record(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        raise Untraceable(f"{func} asks for the numbers of what a block returns")


@attrs.define(eq=False)
class Tape:
    """What has been done to symbols so far: the operations and the tensors they used."""

    device: torch.device
    ops: list[Op] = attrs.field(factory=list)
    constants: list[torch.Tensor] = attrs.field(factory=list)
    slots: int = 0

    def symbol(self, twin: torch.Tensor) -> Symbol:
        """Return a symbol in a new slot, of the shape and type of `twin` (on any device)."""
        self.slots += 1
        return Symbol(twin if twin.is_meta else twin.to("meta"), self.device, self, self.slots - 1)

    def record(self, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Write a function down and return the symbols of its results.

        Raises:
            Untraceable: its results depend on numbers, or it writes a symbol into a tensor.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if (fresh := _out_of_place(function)) is not None:
            return self._write(fresh, leaves[0], spec, leaves)
        return self._results(function, leaves, spec)

    def _write(self, function: Callable, target: Any, spec: pytree.TreeSpec, leaves: list) -> Any:
        """What is written into a symbol becomes a new slot, which the symbol stands for from now on."""
        if not isinstance(target, Symbol):
            raise Untraceable("what a block returns is written into another tensor")
        changed = self._results(function, leaves, spec)
        if changed.shape != target.shape:
            raise Untraceable(f"what a block returns is given another shape in place, {tuple(changed.shape)}")
        target.slot = changed.slot
        return target

    def _results(self, function: Callable, leaves: list, spec: pytree.TreeSpec) -> Any:
        args, kwargs = pytree.tree_unflatten([_shadow(leaf) for leaf in leaves], spec)
        try:
            with torch._C.DisableTorchFunctionSubclass():
                shadows = function(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as error:
            raise Untraceable(f"{getattr(function, '__name__', function)} cannot be followed: {error}") from error
        flat, shape = pytree.tree_flatten(shadows)
        if not flat or not all(isinstance(leaf, torch.Tensor) for leaf in flat):
            raise Untraceable(f"{getattr(function, '__name__', function)} makes something that is no tensor")
        results = [self.symbol(leaf) for leaf in flat]
        written = tuple(self._written(leaf) for leaf in leaves)
        self.ops.append(Op(function, spec, written, tuple(symbol.slot for symbol in results)))
        return pytree.tree_unflatten(results, shape)

    def _written(self, leaf: Any) -> Any:
        if isinstance(leaf, Symbol):
            return Slot(leaf.slot)
        if isinstance(leaf, torch.Tensor):
            self.constants.append(leaf)
            return Constant(len(self.constants) - 1)
        return Slice(leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else leaf

    def behind(self, slots: Iterable[int], since: int) -> tuple[list[Op], set[int]]:
        """Return the operations from number `since` on that lead to `slots`, and the slots they begin from."""
        wanted, found = set(slots), []
        for op in reversed(self.ops[since:]):
            if wanted & set(op.results):
                found.append(op)
                wanted = (wanted - set(op.results)) | {leaf.number for leaf in op.leaves if isinstance(leaf, Slot)}
        return found[::-1], wanted


def _out_of_place(function: Callable) -> Callable | None:
    """Return what computes the same as a function that writes into its first argument; None if it does not write."""
    name = getattr(function, "__name__", "")
    if function is torch.Tensor.__setitem__:
        return assigned
    if name.endswith("_") and not name.startswith("_"):
        return getattr(torch.Tensor, name.removesuffix("_"))
    return None


def _shadow(leaf: Any) -> Any:
    if isinstance(leaf, Symbol):
        return leaf.twin
    return leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf


def play(ops: Sequence[Op], slots: Mapping[int, torch.Tensor], constants: Sequence[torch.Tensor]) -> dict:
    """Do with numbers what the tape says; return the tensor of every slot."""
    known = dict(slots)
    for op in ops:
        leaves = [filled(leaf, known, constants) for leaf in op.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, op.spec)
        results = pytree.tree_leaves(op.function(*args, **kwargs))
        known.update(zip(op.results, results, strict=True))
    return known


def filled(leaf: Any, slots: Mapping[int, torch.Tensor], constants: Sequence[torch.Tensor]) -> Any:
    """Return what a leaf stands for: the tensor of a slot or a constant, or a plain value."""
    if isinstance(leaf, Slot):
        return slots[leaf.number]
    if isinstance(leaf, Slice):
        return slice(leaf.start, leaf.stop, leaf.step)
    return constants[leaf.number] if isinstance(leaf, Constant) else leaf
