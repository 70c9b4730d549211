"""A module of another library, such as a text encoder, of which every rank holds and computes a part.

    part = tensor_parallel_module(encoder, encoder_sharding(encoder), mesh)  # on each rank

The module is not changed. The copy shares what is whole, holds this rank's part of the rest, and counts
the heads that it has; where a product needs the other ranks its weight does what is needed, as in
`tensor_parallel`. All ranks call it with the same inputs and get the same outputs, to the last bit.
"""

import copy
import fnmatch
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch.distributed.device_mesh import DeviceMesh

from pure.checks import check_argument
from pure.distributed.mesh import Axis, neighbours
from pure.distributed.tensor_parallel import part_of, placed
from pure.sharding import Sharding, shares

Module = TypeVar("Module", bound=torch.nn.Module)

__all__ = ["tensor_parallel_module"]


def tensor_parallel_module(module: Module, sharding: Sharding, mesh: DeviceMesh) -> Module:
    """Return this rank's part of a module, which is called like the whole one.

    All ranks of the mesh share it, whatever its axes. With more ranks than `sharding.heads` they share it
    in groups of as many as divide them: 8 ranks and 4 heads are two groups of 4.

    Args:
        module: with plain parameters, on its device; all of them, or this rank's parts, where only these were read.
        sharding: of its parameters, by their names.
        mesh: as `make_mesh` gives it; every rank of it must call this.

    Raises:
        ValueError: the parameters are not those that `sharding` is for, or are quantised.
        TypeError: an argument is something else.
    """
    check_argument(module, torch.nn.Module, "a module of torch is split")
    check_argument(sharding, Sharding, "see pure.models.encoder_sharding")
    along = neighbours(mesh, sharding.heads)
    if along.size == 1:
        return module
    given = dict(module.named_parameters())
    own = given if _is_part(given, sharding, along) else part_of(given, sharding, along.index, along.size)
    parts = placed(own, sharding, along)
    # What the memo of a copy lists is taken in place of a copy: one entry also stands for tied parameters.
    memo = {id(parameter): _parameter(parts[name]) for name, parameter in given.items()}
    memo |= {id(buffer): buffer for buffer in module.buffers()}
    part = copy.deepcopy(module, memo)
    for name, each in part.named_modules():
        for count in sharding.counts:
            if fnmatch.fnmatchcase(name, count.pattern) and hasattr(each, count.attribute):
                units = shares(count.part.count, along.size)[along.index]
                setattr(each, count.attribute, units * count.part.width)
    return part


def _is_part(given: Mapping[str, torch.Tensor], sharding: Sharding, along: Axis) -> bool:
    """Whether all parameters are this rank's parts already, of which only these were read."""
    cuts = {name: sharding.cut(name, along.index, along.size) for name in given}
    return all(
        cut is None or given[name].shape[cut.dim] == sum(end - begin for begin, end in cut.runs)
        for name, cut in cuts.items()
    )


def _parameter(part: torch.Tensor) -> torch.nn.Parameter:
    return part if isinstance(part, torch.nn.Parameter) else torch.nn.Parameter(part, requires_grad=False)
