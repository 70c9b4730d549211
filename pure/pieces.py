r"""The four pieces a step is made of, and their compilation.

    front + probe -> middle + residual  (computed)  -> back + head
                  \-> fill-in           (skipped)   /

Where rules skip the middle whatever the probe says, and nothing but the head follows, the last block of the
front leaves out what the head does not read: with a mask, most of the text's part of it.

Each piece is a frozen record of functions with a pure `__call__`. Records compare by
value, so that denoisers with equal pieces share one compilation.

Shapes: B samples, K remembered steps; streams are (B, tokens, width).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
import torch
import torch.utils._pytree as pytree

from pure import inductor
from pure.block import Block, Params
from pure.checks import flag, refuse
from pure.plan import Probe
from pure.predictors import Hold, Predictor
from pure.rules import Rules
from pure.tree import Tree, map_samples, numbers

Streams = tuple[torch.Tensor, ...]
FP16_MAX = torch.finfo(torch.float16).max


def _backend(instance: Any, attribute: attrs.Attribute, value: object) -> None:
    if not isinstance(value, str) and (isinstance(value, type) or not callable(value)):
        raise refuse(instance, attribute.name, value, "a backend is a name, such as 'inductor', or a function")


def _mode(instance: Any, attribute: attrs.Attribute, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise refuse(instance, attribute.name, value, "a mode is a name, such as 'max-autotune', or None")


@attrs.frozen(kw_only=True)
class CompileOptions:
    """How pieces are compiled.

    Attributes:
        backend: a `torch.compile` backend, by name or as a function.
        mode: a `torch.compile` mode, or None.
        regional: compile every kind of block once and loop over blocks in Python (seconds); False
            compiles each of the four pieces as one graph (minutes on large stacks, somewhat
            faster steps).
    """

    backend: str | Callable = attrs.field(default="inductor", validator=_backend)
    mode: str | None = attrs.field(default=None, validator=_mode)
    regional: bool = attrs.field(default=True, validator=flag)


@attrs.frozen
class Stack:
    """A run of consecutive blocks; `dense` copies what it returns."""

    runs: tuple[Callable[[Params, Tree, Tree, Callable], Tree], ...]
    attend: Callable
    dense: bool = False

    def __call__(self, params: Sequence[Params], hidden: Tree, context: Tree) -> Tree:
        """Run the blocks in order; `params` holds the group of each."""
        for run, group in zip(self.runs, params, strict=True):
            hidden = run(group, hidden, context, self.attend)
        return map_samples(_dense, hidden) if self.dense else hidden


def _dense(stream: torch.Tensor) -> torch.Tensor:
    # Not `contiguous`, which leaves the stride of a batch of one as it was, and a view a view: a graph is compiled for
    # either. Within a graph the copy is the writing of the result.
    return stream.clone(memory_format=torch.contiguous_format)


@attrs.frozen
class Dense:
    """A function of streams, alone in its graph, whose streams come out dense.

    One compilation then serves all blocks of a kind, whatever is before them.

    Attributes:
        run: of an embedding, which also returns a context, or of a block.
    """

    run: Callable[..., Any]

    @property
    def stays_eager(self) -> bool:
        """Whether the function cannot be traced."""
        return stays_eager(self.run)

    def __call__(self, *arguments: Any) -> Any:
        """Run the function."""
        found = self.run(*arguments)
        if isinstance(found, tuple):
            hidden, context = found
            return map_samples(_dense, hidden), context
        return map_samples(_dense, found)


def ending(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Return the blocks where nothing but the head follows: the last one may do less (see `Ending`)."""
    return tuple(
        attrs.evolve(block, run=getattr(block.run, "last", block.run)) if block is blocks[-1] else block
        for block in blocks
    )


@attrs.frozen
class Front:
    """Embedding and the front blocks; returns hidden, context and the probe residual, None if there is no probe."""

    embed: Callable
    stack: Stack
    probe: Callable | None
    of: Callable | None = None

    def __call__(
        self, params: Params, blocks: Sequence[Params], prepared: Tree, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Tree, Tree, torch.Tensor | None]:
        """Embed latents and timestep, run the front blocks, and return what the probe compares: what they added."""
        entry, context = self.embed(params, prepared, latents, timestep)
        hidden = self.stack(blocks, entry, context)
        if self.probe is None:
            return hidden, context, None
        if self.of is not None:
            found = self.of(params, entry, context)
            # Dense, as the state keeps it: a view would have the strides of what it is a part of.
            return hidden, context, _cast(found, difference_dtype(found)).contiguous()
        return hidden, context, _difference(self.probe(hidden), self.probe(entry))


def difference_dtype(stream: torch.Tensor) -> torch.dtype:
    """Return the type that differences of streams are kept in: of two of fp16 they may be twice its largest number."""
    return torch.float32 if stream.dtype == torch.float16 else stream.dtype


def _difference(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    dtype = difference_dtype(after)
    return _cast(after, dtype) - _cast(before, dtype)


@attrs.frozen
class Kept:
    """One stream that is remembered: its name, and its predictor."""

    name: str
    predictor: Predictor

    @property
    def whole(self) -> bool:
        """Whether the stream itself is remembered, not what the middle adds to it."""
        return self.predictor.on == "hidden"

    @property
    def held(self) -> bool:
        """Whether its newest residual is repeated as it is, which needs no weights."""
        return isinstance(self.predictor, Hold)

    @property
    def looks(self) -> bool:
        """Whether its weights depend on what is remembered (see `pure.predictors.Fitted`)."""
        return hasattr(self.predictor, "fitted")

    def fits(self, times: Sequence[int]) -> bool:
        """Whether they do at a step with these times."""
        return self.looks and self.predictor.fits(times)  # type: ignore[attr-defined]

    def weights(
        self, times: Sequence[int], target: int, first: int, products: np.ndarray | None = None
    ) -> Sequence[float] | torch.Tensor:
        """Return the predictor's weights at one step, K finite numbers or a tensor (K,) of them.

        `products` are those of the row's history, (K, K), where the weights depend on it.

        Raises:
            ValueError: they are something else.
        """
        if products is not None and self.fits(times):
            weights = self.predictor.fitted(products, times, target)  # type: ignore[attr-defined]
        else:
            weights = self.predictor.weights(times, target, first)
        try:
            found = numbers(weights) if isinstance(weights, torch.Tensor) else weights
            good = len(weights) == len(times) and (found is None or all(map(math.isfinite, found)))
        except TypeError:
            good = False
        if not good:
            raise ValueError(
                f"{self.predictor} gave the weights {weights!r} for step {target}; a predictor that looks back to "
                f"{len(times)} computed steps gives {len(times)} finite numbers"
            )
        return weights


@attrs.frozen
class Middle:
    """The middle blocks; returns hidden and, per kept stream, what a later skip will need."""

    stack: Stack
    kept: tuple[Kept, ...]

    def __call__(self, blocks: Sequence[Params], hidden: Tree, context: Tree) -> tuple[Tree, Streams]:
        """Run the middle blocks; `params` of each are in `blocks`."""
        out = self.stack(blocks, hidden, context)
        return out, tuple(self._left(stream, hidden, out) for stream in self.kept)

    def _left(self, stream: Kept, hidden: Tree, out: Tree) -> torch.Tensor:
        after = getattr(out, stream.name)
        if stream.whole:
            # A block may return a view of a larger tensor; keeping it would keep that alive
            # and change the strides of the state.
            return _cast(after, difference_dtype(after)).clone(memory_format=torch.contiguous_format)
        return _difference(after, getattr(hidden, stream.name)).contiguous()


@attrs.frozen
class Fill:
    """The fill-in: one weighted sum per kept stream instead of the middle blocks."""

    kept: tuple[Kept, ...]

    def __call__(self, hidden: Tree, history: tuple[Streams, ...], weights: tuple[torch.Tensor | None, ...]) -> Tree:
        """Predict the kept streams from `history`, (B, K) `weights` each; other streams pass through."""
        filled = {
            stream.name: self._predict(stream, getattr(hidden, stream.name), past, row)
            for stream, past, row in zip(self.kept, history, weights, strict=True)
        }
        cls = type(hidden)
        rest = {n: getattr(hidden, n) for n in (*cls.__tree_fields__, *cls.__static_fields__) if n not in filled}
        return cls(**filled, **rest)

    def _predict(self, stream: Kept, now: torch.Tensor, past: Streams, weights: torch.Tensor | None) -> torch.Tensor:
        if weights is None:  # a held stream: weight 1 on the newest
            return _narrowed(now + past[0], now.dtype)
        rows = weights.view(*weights.shape, *(1,) * (now.ndim - 1)).unbind(1)  # K of (B, 1, 1)
        if stream.whole:
            total = rows[0] * _cast(past[0], weights.dtype)
            rows, past = rows[1:], past[1:]
        else:
            total = _cast(now, weights.dtype)
        for weight, residual in zip(rows, past, strict=True):  # addcmul: one pass over memory each
            total = torch.addcmul(total, _cast(residual, weights.dtype), weight)
        return _narrowed(total, now.dtype)


def _narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return x in the type of its stream, clipped where the blocks of a model in fp16 clip it, too."""
    if dtype == torch.float16:
        x = x.clamp(-FP16_MAX, FP16_MAX)
    return _cast(x, dtype)


def _cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return x in a type; asking costs a tenth of a `to` that does nothing."""
    return x if x.dtype == dtype else x.to(dtype)


@attrs.frozen
class Back:
    """The back blocks and the head."""

    stack: Stack
    head: Callable

    def __call__(self, params: Params, blocks: Sequence[Params], hidden: Tree, context: Tree) -> torch.Tensor:
        """Run the back blocks and the head; return the prediction."""
        return self.head(params, self.stack(blocks, hidden, context), context)


@attrs.frozen
class Verifying(Back):
    """The same, and what the back blocks added to the stream that is measured."""

    probe: Callable

    def __call__(self, params: Params, blocks: Sequence[Params], hidden: Tree, context: Tree) -> Any:
        """Return the prediction and the residual (B, N, D)."""
        ended = self.stack(blocks, hidden, context)
        added = _difference(self.probe(ended), self.probe(hidden)).contiguous()
        return self.head(params, ended, context), added


class Branching(Protocol):
    """Ranks of which each runs one branch of guidance; rows are c0 u0 c1 u1 .., see `pure.guidance`."""

    @property
    def index(self) -> int:
        """The branch of this rank: its rows are `index`, `index` + `count`, ..."""
        ...

    @property
    def count(self) -> int:
        """The number of branches, and of ranks."""
        ...

    def together(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows of all branches, (count B, ...), of those of this rank's, (B, ...)."""
        ...


@attrs.frozen(kw_only=True)
class Pieces:
    """All that a step calls, and what it needs to decide what to call.

    Attributes:
        front, middle, fill, back: the four pieces.
        brief: the front where it is known beforehand that the middle is skipped.
        kept: the streams that are remembered.
        span: index of the first middle block, and of the first back block.
        count: number of blocks.
        probing: whether the change of the front residual is ever measured.
        rules: when to compute.
        probe: how the change is measured.
        agree: adds the sums of the change over the ranks that divide the tokens.
        branching: which rows under guidance are this rank's, where ranks divide the branches.
        compiled: whether any piece is.
        follows: whether a change is that since the last step, skipped or not.
        seen: what is compared of latents and noise levels, where that is not the front residual or what is embedded.
        gains: whether a change is how much the prediction is going to change.
        parts: the middle blocks one by one, where they are skipped so; each decides by what enters it.
        enters: the stream that is measured.
        verifies: whether skipped steps are verified by the back blocks, which then return what they added, too.
        depths: of each kept stream, how many computed steps its predictor looks back to.
        keeps: all that is remembered, in words that no other plan has.
    """

    front: Callable
    brief: Callable
    middle: Callable
    fill: Callable
    back: Callable
    kept: tuple[Kept, ...]
    span: tuple[int, int]
    count: int
    probing: bool
    rules: Rules
    probe: Probe | None
    agree: Callable[[torch.Tensor], torch.Tensor] | None
    branching: Branching | None
    compiled: bool
    follows: bool
    seen: Callable | None
    gains: bool
    verifies: bool
    parts: tuple[Pieces, ...]
    enters: Callable[[Tree], torch.Tensor]
    depths: tuple[int, ...]
    keeps: str


def compiled(options: CompileOptions | None, function: Callable) -> Callable:
    """Compile a function or piece; equal ones share the compilation, without options it stays eager."""
    return function if options is None or stays_eager(function) else _compile(options, function)


def stays_eager(function: Callable) -> bool:
    """Whether a function says that it cannot be traced (`stays_eager = True`)."""
    return getattr(function, "stays_eager", False)


def mark_batch(tree: Tree, batch: int) -> None:
    """Tell dynamo that sub-batches of any size will follow, so that the middle compiles once for all of them.

    A batch of one is left alone: dynamo specialises on it in any case.
    """
    if batch > 1:
        for leaf in pytree.tree_leaves(tree):
            if isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == batch:
                torch._dynamo.maybe_mark_dynamic(leaf, 0)


@functools.cache
def _compile(options: CompileOptions, function: Callable) -> Callable:
    # isolate_recompiles: all pieces of a kind share one code object, and with it dynamo's
    # limit of recompilations; without it the ninth denoiser of a process falls back to eager.
    settings: dict[str, Any] = {"backend": options.backend, "isolate_recompiles": True}
    settings |= {"options": inductor.options(options.mode)} if options.backend == "inductor" else {"mode": options.mode}
    return torch.compile(function if hasattr(function, "__code__") else function.__call__, fullgraph=True, **settings)
