"""Tensor parallelism: every rank holds a part of every block's parameters, and computes with it.

    params = tensor_parallel(params, denoiser, mesh)  # on each rank; `denoiser` stays as it is
    state = denoiser.init(params, conditioning, latents, steps)

`params` and the result are dicts of tensors under the same names; for `Experts` they are dicts
of such dicts. The denoiser is not changed: a part of a projection has fewer heads, a part of a
feed-forward network is narrower, and where a product needs the other ranks its weight does what
is needed (`sharded_weight.ShardedWeight`). Latents, streams, caches and predictions are whole and
the same on every rank, to the last bit if all ranks run the same kernels; if they may not, as
compilers choose for themselves, `tensor_agreement(mesh)` makes them decide alike.

Parameters are quantised after they are split: `local` is given the dict of plain parts.

Shapes: a weight is (outputs, inputs), a bias (outputs,).
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.distributed.device_mesh import DeviceMesh

from pure import Denoiser, Experts, Params
from pure.checks import check_argument, shown
from pure.distributed.mesh import Axis, axis
from pure.distributed.sharded_weight import ShardedWeight
from pure.experts import denoisers_of
from pure.sharding import Cut, Kind, Sharding, divisible

AXIS = "tp"
OWN = (Kind.COLUMN, Kind.LOOKUP)
"""Kinds whose parts are plain tensors: nothing is needed from the other ranks."""
P = TypeVar("P", bound=Mapping[str, Any])


def tensor_parallel(
    params: P, denoiser: Denoiser | Experts, mesh: DeviceMesh, *, local: Callable[[P], P] | None = None
) -> P:
    """Return this rank's part of the parameters, as dicts, which the same denoiser takes.

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
    along = _axis_of(params, denoiser, mesh)
    parts: Any
    if along.size == 1:
        parts = params
    elif isinstance(denoiser, Experts):
        parts = {
            name: part_of(params[name], divisible(each.sharding, along.size), along.index, along.size)
            for name, each in denoiser.denoisers.items()
        }
    else:
        parts = part_of(params, divisible(denoiser.sharding, along.size), along.index, along.size)
    return place_parts(parts, denoiser, mesh, local=local)


def place_parts(
    parts: P, denoiser: Denoiser | Experts, mesh: DeviceMesh, *, local: Callable[[P], P] | None = None
) -> P:
    """Return this rank's part of the parameters as the denoiser takes it, where only the part was read.

        mesh = make_mesh(Sizes(tp=2), device="cuda")
        pipeline = load_pipeline(path, device="cuda", part=(mesh.get_local_rank("tp"), 2))
        params = place_parts(pipeline.params, pipeline.denoiser, mesh)

    Args:
        parts: what `part_of` returns for this rank, or `load_pipeline` with `part`; for `Experts` a dict of such.
        denoiser: whose they are, before or after it was transformed.
        mesh: as `make_mesh` gives it; its axis "tp" is read.
        local: as `tensor_parallel` takes it.

    Raises:
        ValueError: the denoiser cannot be split (see `check_tensor_parallel`), or the mesh has no axis "tp".
    """
    along = _axis_of(parts, denoiser, mesh)
    used: Any = parts if local is None else local(parts)
    if along.size == 1:
        return used
    if not isinstance(denoiser, Experts):
        made: Any = placed(used, divisible(denoiser.sharding, along.size), along)
        return made
    each: Any = {n: placed(used[n], divisible(d.sharding, along.size), along) for n, d in denoiser.denoisers.items()}
    return each


def _axis_of(params: Any, denoiser: Denoiser | Experts, mesh: DeviceMesh) -> Axis:
    check_argument(denoiser, (Denoiser, Experts), "the order is (params, denoiser, mesh), with a Denoiser or Experts")
    check_argument(params, Mapping, "params is a dict of tensors by name, such as pipeline.params")
    return axis(mesh, AXIS)


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
    for each in denoisers_of(denoiser).values():
        if ranks > 1:
            divisible(each.sharding, ranks)


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

    >>> from pure.sharding import Part, Placement
    >>> two_heads = Sharding(2, (Placement("*.to_out", Kind.ROW, (Part(2, 3),)),))
    >>> part_of({"attn.to_out.weight": torch.arange(6.0).view(1, 6)}, two_heads, rank=1, ranks=2)
    {'attn.to_out.weight': tensor([[3., 4., 5.]])}
    """
    if not any(map(sharding.find, params)):
        patterns = ", ".join(each.pattern for each in sharding.placements[:3])
        raise ValueError(
            f"no parameter is called {patterns} or otherwise as this sharding says; give the parameters of "
            "the denoiser it belongs to, under the names of its checkpoint"
        )
    return {name: _part(name, tensor, sharding.cut(name, rank, ranks)) for name, tensor in params.items()}


def _part(name: str, tensor: torch.Tensor, cut: Cut | None) -> torch.Tensor:
    if cut is None:
        return tensor
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise ValueError(
            f"{name} is a {type(tensor).__name__}, which cannot be split; split plain parameters, once, and "
            "quantise the parts: tensor_parallel(..., local=...)"
        )
    cut.check(name, tensor.shape)
    return cut.of(tensor.detach())


def placed(params: Params, sharding: Sharding, along: Axis) -> dict[str, torch.Tensor]:
    """Return parts as blocks and modules take them: those that need the other ranks know them."""
    found = {}
    for name, part in params.items():
        placement = sharding.find(name)
        if placement is not None and placement.kind not in OWN and not name.endswith(".bias"):
            whole = sum(each.features for each in placement.parts)
            part = ShardedWeight(part, placement.kind, whole, along.group.group_name, along.size)
        found[name] = part
    return found
