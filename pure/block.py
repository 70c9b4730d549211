"""Transformer blocks as pure functions, and their parameters grouped by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs
import torch

from pure.checks import check_argument, function, kind, optional, whole
from pure.tree import Tree

Params = Mapping[str, torch.Tensor]
"""Parameters of a denoiser, under the names of its checkpoint."""
T = TypeVar("T")
RUN = function("a block runs a function (params, hidden, context, attend) -> hidden")


@attrs.frozen
class Block:
    """One transformer block: a pure function and the prefix of its parameters' names.

    `run(params, hidden, context, attend) -> hidden` receives the parameters under the
    names that remain after the prefix, so that equal blocks share one compilation.

    Attributes:
        run: the function; an `Ending` does less where only the head follows.
        prefix: of its parameters' names.
        number: if given, `run` gets it among the parameters under the name "number", as an int64
            tensor of shape (). With it a block selects its part of what `prepare` computed for all
            blocks, and blocks with different numbers still share one compilation.
    """

    run: Callable[[Params, Tree, Tree, Callable], Tree] = attrs.field(validator=RUN)
    prefix: str = attrs.field(validator=kind(str, "the prefix is text, such as 'blocks.0.'"))
    number: int | None = attrs.field(default=None, validator=optional(whole(0, "the number of a block")))


@attrs.frozen
class Ending:
    """The function of a block that has less to do where only the head follows.

    Attributes:
        run: `run(params, hidden, context, attend, last)`; if `last`, streams that the head does not
            read may be returned unchanged.
    """

    run: Callable[[Params, Tree, Tree, Callable, bool], Tree] = attrs.field(validator=RUN)

    def __call__(self, params: Params, hidden: T, context: Tree, attend: Callable) -> T:
        """Run the whole block."""
        return self.run(params, hidden, context, attend, False)

    @property
    def last(self) -> Last:
        """The function that runs as much of the block as the head needs."""
        return Last(self.run)


@attrs.frozen
class Last:
    """An `Ending` where only the head follows; a record, so that equal ones share one compilation."""

    run: Callable[[Params, Tree, Tree, Callable, bool], Tree]

    def __call__(self, params: Params, hidden: T, context: Tree, attend: Callable) -> T:
        """Run as much of the block as the head needs."""
        return self.run(params, hidden, context, attend, True)


@attrs.frozen
class Bound:
    """Parameters grouped by block, once per request and without copies."""

    all: Params
    blocks: tuple[Params, ...]


Weights = Params | Bound | Mapping[str, Params | Bound]
"""Parameters of a denoiser, grouped or not; of several experts a mapping of such by name."""


def bind(blocks: Sequence[Block], params: Weights) -> Bound:
    """Group a flat parameter dict by block; what is grouped already is returned as it is.

    Raises:
        KeyError: a block finds no parameter under its prefix.
        TypeError: `params` is no dict of tensors.
    """
    if isinstance(params, Bound):
        return params
    if not isinstance(params, Mapping):
        cure = "dict(module.state_dict())" if isinstance(params, torch.nn.Module) else "pipeline.params"
        raise TypeError(f"params is a dict of tensors by name, got {type(params).__name__}; pass {cure}")
    for block in blocks:
        check_argument(block, Block, "the blocks of a denoiser are pure.Block(...)")
    groups: dict[str, dict[str, torch.Tensor]] = {block.prefix: {} for block in blocks if block.prefix}
    lengths = sorted({len(prefix) for prefix in groups}, reverse=True)
    flat: dict[str, torch.Tensor] = {}
    for name, tensor in params.items():
        if isinstance(tensor, Bound | Mapping):
            raise TypeError(f"these are the parameters of several experts, {', '.join(params)}; pass one expert's")
        flat[name] = tensor
        for length in lengths:
            if name[:length] in groups:
                groups[name[:length]][name[length:]] = tensor
                break
    for prefix, group in groups.items():
        if not group:
            raise KeyError(f"no parameter starts with {prefix!r}; these parameters belong to another denoiser")
    for block in blocks:
        if block.number is not None:
            group = groups[block.prefix]
            group["number"] = torch.tensor(block.number, device=next(iter(group.values())).device)
    return Bound(flat, tuple(groups.get(block.prefix, {}) for block in blocks))
