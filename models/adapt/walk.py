"""Running a forward with stand-ins in place of its blocks.

A walk runs a copy of the model. What is called outside the blocks runs for real and its
results are written down, so that a second walk, to the end, need not run it again. Blocks
hand out symbols; the walk notes what each was called with.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

from pure.block import Params
from pure.models.adapt.structure import copied, units
from pure.models.adapt.tape import Symbol, Tape
from pure.models.errors import CheckpointError
from pure.tree import Tree


class Stop(BaseException):
    """Ends a walk; no `Exception`, which a forward might catch."""


@attrs.frozen(eq=False)
class Mark:
    """Where a symbol stood at a visit; the symbol itself moves on when it is written into."""

    slot: int
    twin: torch.Tensor


@attrs.frozen(eq=False)
class Visit:
    """One call of a block: its flattened arguments, and how much was on the tape by then."""

    leaves: tuple
    spec: pytree.TreeSpec
    since: int
    outputs: tuple  # leaves of what the stand-in returned


@attrs.define(eq=False)
class Journal:
    """Results of what runs outside the blocks, in order of the calls: written by one walk, read by the next."""

    entries: list[tuple[str, Any, list]] = attrs.field(factory=list)

    def write(self, name: str, result: Any) -> None:
        """Add a result, and the versions of its tensors, which tell of writes into them."""
        self.entries.append((name, result, [(leaf, leaf._version) for leaf in _watched(result)]))

    def replayable(self) -> tuple:
        """Return `(name, result, usable)` of every call; results that were written into are of no use."""
        return tuple(
            (name, result, all(leaf._version == version for leaf, version in watched))
            for name, result, watched in self.entries
        )


def _watched(tree: Tree) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not leaf.is_inference()]


def marked(leaves: Sequence[Any]) -> tuple:
    """Replace symbols by their marks."""
    return tuple(Mark(leaf.slot, leaf.twin) if isinstance(leaf, Symbol) else leaf for leaf in leaves)


def symbolic(tree: Tree) -> bool:
    """Whether a tree holds a symbol."""
    return any(isinstance(leaf, Symbol) for leaf in pytree.tree_leaves(tree))


def run_and_write(journal: Journal, name: str, module: torch.nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """Run a module outside the blocks and write its result down, unless it depends on what a block returned."""
    result = type(module).forward(module, *args, **kwargs)
    if not symbolic((args, kwargs)):
        journal.write(name, result)
    return result


def read_or_run(entries: Iterator[tuple], name: str, module: torch.nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """Return the next of `entries`, which an earlier walk wrote down; run the module where there is none, or no use."""
    if not symbolic((args, kwargs)) and (entry := next(entries, None)) is not None:
        before, result, usable = entry
        if before != name:
            raise CheckpointError(
                f"the model calls {name} where it called {before} before; it must call its modules in one order"
            )
        if usable:
            return result
    return type(module).forward(module, *args, **kwargs)


@attrs.frozen(eq=False)
class Outline:
    """What a walk runs: a module, and the names of the blocks that are replaced, in the order of their calls."""

    module: torch.nn.Module
    blocks: tuple[str, ...]
    outer: tuple[str, ...]  # names of the parameters outside these blocks

    def run(self, params: Params, kwargs: Mapping[str, Any], arrive: Callable, around: Callable) -> Any:
        """Run the forward of a copy.

        Args:
            params: parameters by name.
            kwargs: arguments of the forward.
            arrive: `(number, *args, **kwargs) -> result` of a block.
            around: `(name, module, *args, **kwargs) -> result` of what is outside the blocks.

        Raises:
            CheckpointError: the parameters have other names than when the model was adapted.
        """
        missing = [name for name in self.outer if name not in params]
        if missing:
            raise CheckpointError(
                f"{type(self.module).__name__} has no parameter {missing[0]} any more: it was changed since it was "
                "adapted (LoRA weights, quantisation); adapt it again"
            )
        stand_ins = {name: functools.partial(arrive, number) for number, name in enumerate(self.blocks)}
        copy = copied(self.module, {name: params[name] for name in self.outer}, stand_ins)
        for name, unit in list(units(copy)):
            if name not in stand_ins and "forward" not in vars(unit):
                vars(unit)["forward"] = functools.partial(around, name, unit)
        return copy(**kwargs)


def outline(module: torch.nn.Module, blocks: Sequence[str], names: Sequence[str]) -> Outline:
    """Return the model in which `blocks` are replaced; `names` are all its parameters."""
    inside = tuple(f"{name}." for name in blocks)
    return Outline(module, tuple(blocks), tuple(name for name in names if not name.startswith(inside)))


@attrs.define(eq=False)
class Walk:
    """A walk through the blocks up to number `last`, which ends there.

    Attributes:
        answers: `(number, leaves, tape) -> result` of a block, with symbols for tensors.
        last: number of the block at which to stop.
        tape, visits, journal: what was seen.
    """

    answers: Callable[[int, tuple, Tape], Any]
    last: int
    tape: Tape
    visits: list[Visit] = attrs.field(factory=list)
    journal: Journal = attrs.field(factory=Journal)

    def go(self, model: Outline, params: Params, kwargs: Mapping[str, Any]) -> "Walk":
        """Run the model up to the last block of the walk.

        Raises:
            CheckpointError: the blocks are not all called, or not in this order.
        """
        try:
            model.run(params, kwargs, self.arrive, functools.partial(run_and_write, self.journal))
        except Stop:
            return self
        raise CheckpointError(
            f"{type(model.module).__name__} ended after {len(self.visits)} of {self.last + 1} blocks: with these "
            "arguments it leaves some out"
        )

    def arrive(self, number: int, /, *args: Any, **kwargs: Any) -> Any:
        """Note the call of a block and answer it."""
        if number != len(self.visits):
            raise CheckpointError(
                f"block {number} was called in place of block {len(self.visits)}; adapt the model with arguments "
                "like these"
            )
        leaves, spec = pytree.tree_flatten((args, kwargs))
        since = len(self.tape.ops)
        result = self.answers(number, tuple(leaves), self.tape)
        self.visits.append(Visit(marked(leaves), spec, since, marked(pytree.tree_leaves(result))))
        if number == self.last:
            raise Stop
        return result
