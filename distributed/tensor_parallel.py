"""Tensor parallelism: every rank holds a part of every block's parameters, and computes with it.

    params = tensor_parallel(params, denoiser, mesh)  # on each rank; `denoiser` stays as it is
    state = denoiser.init(params, conditioning, latents, steps)

`params` and the result are dicts of tensors under the same names; for `Experts` they are dicts
of such dicts. The denoiser is not changed: a part of a projection has fewer heads, a part of a
feed-forward network is narrower, and where a product needs the other ranks its weight does what
is needed (`tensor_weight.ShardedWeight`). Latents, streams, caches and predictions are whole and
the same on every rank, to the last bit if all ranks run the same kernels; if they may not, as
compilers choose for themselves, `tensor_agreement(mesh)` makes them decide alike.

Parameters are quantised after they are split: `local` is given the dict of plain parts.

Shapes: a weight is (outputs, inputs), a bias (outputs,).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from pure import Denoiser, Experts, Params
from pure.checks import check_argument, shown
from pure.distributed.mesh import Axis, axis, shares, start
from pure.distributed.sharded_weight import ShardedWeight
from pure.sharding import Kind, Part, Placement, Sharding

AXIS = "tp"
Local = Callable[[Any], Any]


def tensor_parallel(params: Any, denoiser: Denoiser | Experts, mesh: DeviceMesh, *, local: Local | None = None) -> Any:
    """Return this rank's part of the parameters, which the same denoiser takes.

    Args:
        params: all parameters under the checkpoint's names; for `Experts` a dict of them per expert.
        denoiser: whose they are, before or after it was transformed.
        mesh: as `make_mesh` gives it; its axis "tp" is read.
        local: from plain parts, built as `params`, to what is used in their place: quantised ones, for
            instance. Tensors may become others of the same shape.

    Raises:
        ValueError: the denoiser cannot be split (see `check_tensor_parallel`), or the parameters are not
            its own (see `part_of`), or the mesh has no axis "tp".
    """
    check_argument(denoiser, (Denoiser, Experts), "the order is (params, denoiser, mesh), with a Denoiser or Experts")
    check_argument(params, Mapping, "params is a dict of tensors by name, such as pipeline.params")
    along = axis(mesh, AXIS)
    if along.size == 1:
        return params if local is None else local(params)
    if isinstance(denoiser, Experts):
        shardings = {name: _sharding(each, along.size) for name, each in denoiser.denoisers.items()}
        parts = {name: part_of(params[name], each, along.index, along.size) for name, each in shardings.items()}
        used = parts if local is None else local(parts)
        return {name: _placed(used[name], each, along) for name, each in shardings.items()}
    sharding = _sharding(denoiser, along.size)
    part = part_of(params, sharding, along.index, along.size)
    return _placed(part if local is None else local(part), sharding, along)


def check_tensor_parallel(denoiser: Denoiser | Experts, ranks: int) -> None:
    """Refuse what cannot be split over so many ranks; no parameters and no processes are needed for it.

    Raises:
        ValueError: nothing says how this denoiser is split, or it has fewer heads than there are ranks.
        TypeError: this is no denoiser.

    >>> from pure.models.flux import flux
    >>> check_tensor_parallel(flux({}), 8)
    """
    check_argument(denoiser, (Denoiser, Experts), "what is split is a Denoiser or Experts")
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"ranks={shown(ranks)}: give a number of ranks from 1 on")
    for each in denoiser.denoisers.values() if isinstance(denoiser, Experts) else (denoiser,):
        if ranks > 1:
            _sharding(each, ranks)


def _sharding(denoiser: Denoiser, ranks: int) -> Sharding:
    if (sharding := denoiser.sharding) is None:
        raise ValueError(
            "this denoiser does not say how its parameters are split over ranks (Denoiser.sharding is None); "
            f"give axis {AXIS!r} the size 1, or use one of the families in pure.models.registry"
        )
    if ranks > sharding.heads:
        raise ValueError(
            f"the attention has {sharding.heads} heads, fewer than the {ranks} ranks of axis {AXIS!r}, which need "
            f"one each; give it the size {sharding.heads} or less, best a divisor of {sharding.heads}, "
            "and the other ranks to ulysses or ring"
        )
    return sharding


def part_of(params: Params, sharding: Sharding, rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """Return what one rank holds, as plain tensors: new ones where they are parts, the same where they are whole.

    Where ranks do not divide heads or features, the first ranks hold one more.

    Args:
        params: all parameters of one denoiser.
        sharding: how they are split.
        rank: from 0 to `ranks` - 1.
        ranks: how many there are.

    Raises:
        ValueError: the parameters are not those that `sharding` is for, or are split or quantised already.

    >>> two_heads = Sharding(2, (Placement("*.to_out", Kind.ROW, (Part(2, 3),)),))
    >>> part_of({"attn.to_out.weight": torch.arange(6.0).view(1, 6)}, two_heads, rank=1, ranks=2)
    {'attn.to_out.weight': tensor([[3., 4., 5.]])}
    """
    found = {name: sharding.find(name) for name in params}
    if not any(found.values()):
        patterns = ", ".join(each.pattern for each in sharding.placements[:3])
        raise ValueError(
            f"no parameter is called {patterns} or otherwise as this sharding says; give the parameters of "
            "the denoiser it belongs to, under the names of its checkpoint"
        )
    return {
        name: tensor if (placement := found[name]) is None else _part(name, tensor, placement, rank, ranks)
        for name, tensor in params.items()
    }


def _part(name: str, tensor: torch.Tensor, placement: Placement, rank: int, ranks: int) -> torch.Tensor:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise ValueError(
            f"{name} is a {type(tensor).__name__}, which cannot be split; split plain parameters, once, and "
            "quantise the parts: tensor_parallel(..., local=...)"
        )
    dim = _dim(name, placement)
    if dim is None:
        return tensor
    wanted = sum(part.features for part in placement.parts)
    if tensor.shape[dim] != wanted:
        raise ValueError(
            f"{name} is {tuple(tensor.shape)}, and its placement splits {wanted} features of dimension {dim}; "
            "the parameters belong to another config than the denoiser"
        )
    return _cut(tensor.detach(), dim, placement.parts, rank, ranks)


def _dim(name: str, placement: Placement) -> int | None:
    """Return the dimension that is split; None for the bias of a sum, which is added whole."""
    if placement.kind is not Kind.ROW:
        return 0
    return None if name.endswith(".bias") else 1


def _cut(tensor: torch.Tensor, dim: int, parts: tuple[Part, ...], rank: int, ranks: int) -> torch.Tensor:
    """Return a rank's units of every part, as a tensor of its own: all of it would stay alive under a view."""
    pieces, before = [], 0
    for part in parts:
        units = shares(part.count, ranks)
        pieces.append(tensor.narrow(dim, before + start(units, rank) * part.width, units[rank] * part.width))
        before += part.features
    return torch.cat(pieces, dim=dim)


def _placed(params: Params, sharding: Sharding, along: Axis) -> dict[str, torch.Tensor]:
    """Return parts as blocks take them: those that need the other ranks know them."""
    placed = {}
    for name, part in params.items():
        placement = sharding.find(name)
        if placement is not None and placement.kind is not Kind.COLUMN and not name.endswith(".bias"):
            whole = sum(each.features for each in placement.parts)
            part = ShardedWeight(part, placement.kind, whole, along.group.group_name, along.size)
        placed[name] = part
    return placed
