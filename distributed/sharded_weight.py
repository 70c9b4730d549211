"""A weight of which this rank holds a part, and which says what a product with it needs from the others.

The code of a model is that for one device: it calls `F.linear` and `F.rms_norm` with what stands
under a parameter's name. What stands there here is a `ShardedWeight`, which torch asks to do
the product itself: on its part, with one collective over the ranks. Eager and compiled code
(`fullgraph=True`) take it alike.

Shapes: O outputs, I inputs of a product; a weight is (O, I), of a norm (I,).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pure.distributed.collectives import add, gather, wait
from pure.sharding import Kind, shares


class ShardedWeight(torch.Tensor):
    """A part of a weight; its shape, type and device are those of the part.

    It is an argument of `F.linear`, `F.rms_norm` or `F.embedding`, and nothing else can be done with it.

    Attributes:
        local: the part, a plain or a quantised tensor.
        kind: ROW, GATHERED, NORM or TABLE; parts of the other kinds are plain tensors.
        whole: features of the dimension that is split, all ranks together.
        group: name of the process group of the ranks that hold the parts.
        ranks: how many these are.
    """

    local: torch.Tensor
    kind: Kind
    whole: int
    group: str
    ranks: int

    @staticmethod
    def __new__(cls, local: torch.Tensor, kind: Kind, whole: int, group: str, ranks: int) -> "ShardedWeight":
        """Describe the part to torch."""
        return torch.Tensor._make_wrapper_subclass(
            cls, local.shape, strides=local.stride(), dtype=local.dtype, device=local.device
        )

    def __init__(self, local: torch.Tensor, kind: Kind, whole: int, group: str, ranks: int) -> None:
        self.local, self.kind, self.whole, self.group, self.ranks = local, kind, whole, group, ranks

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"ShardedWeight({self.kind.value}, {tuple(self.shape)} of {self.whole}, {self.ranks} ranks)"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Kind, int, str, int]]:
        return ["local"], (self.kind, self.whole, self.group, self.ranks)

    @classmethod
    def __tensor_unflatten__(
        cls, tensors: Mapping[str, torch.Tensor], rest: tuple[Kind, int, str, int], size: Any, stride: Any
    ) -> "ShardedWeight":
        return cls(tensors["local"], *rest)

    def _stable_hash_for_caching(self) -> str:
        """Tell apart what inductor must compile apart, in its cache on disk."""
        return repr((type(self).__name__, *self.__tensor_flatten__()[1]))

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear:
            return _product(*args, **(kwargs or {}))
        if func is F.embedding:
            return _looked_up(*args, **(kwargs or {}))
        if func is F.rms_norm or func is torch.rms_norm:  # torch.compile sees the second
            return _normalised(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:  # what torch.nn.Parameter does to a tensor
            part: ShardedWeight = args[0]
            return cls(part.local.detach(), part.kind, part.whole, part.group, part.ranks)
        raise NotImplementedError(
            f"{func} cannot be done with a part of a weight, only F.linear, F.rms_norm and F.embedding can; do it to "
            "all parameters before they are split, or to the parts: tensor_parallel(..., local=...)"
        )


def _product(x: torch.Tensor, weight: ShardedWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return the product of features (..., I) of this rank, or of all, with a weight: all outputs (..., O)."""
    if weight.kind is Kind.TABLE:
        raise NotImplementedError("a table that is split over ranks is looked up, not multiplied with")
    if weight.kind is Kind.GATHERED:
        return _gather(F.linear(x, weight.local, bias), weight)
    out = wait(add(F.linear(x, weight.local), weight.group))
    return out if bias is None else out + bias


def _looked_up(ids: torch.Tensor, weight: ShardedWeight, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return all features (..., I) of entries of a table."""
    return _gather(F.embedding(ids, weight.local, *args, **kwargs), weight)


def _gather(x: torch.Tensor, weight: ShardedWeight) -> torch.Tensor:
    """Put the outputs (..., part of O) of all ranks together; the fewer of the last ranks are padded on the way."""
    widths = shares(weight.whole, weight.ranks)
    gathered = wait(gather(F.pad(x, (0, widths[0] - x.shape[-1])).unsqueeze(0), weight.group)).unbind(0)
    return torch.cat([part[..., :width] for part, width in zip(gathered, widths, strict=True)], dim=-1)


def _normalised(x: torch.Tensor, shape: Sequence[int], weight: ShardedWeight, eps: float) -> torch.Tensor:
    """Divide this rank's features (..., part of I) by the root mean square of all ranks', times the weight."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    squares = wait(add(wide.square().sum(-1, keepdim=True), weight.group))
    return (wide * torch.rsqrt(squares / weight.whole + eps) * weight.local).to(x.dtype)
