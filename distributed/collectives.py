"""What ranks send each other, as functions that return new tensors and can be compiled.

The only file that imports torch's functional collectives, which have no public name.
Each is only launched; `wait` for what it returns before it is read.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as fc

Group = Any  # a process group, or its name


def exchange(
    rows: torch.Tensor, received: Sequence[int], sent: Sequence[int], group: dist.ProcessGroup
) -> torch.Tensor:
    """Send every rank its share of the rows (dim 0), and receive one from each: (sum of received, ...).

    Args:
        rows: those for the first rank first.
        received: rows that come from each rank.
        sent: rows that go to each rank; they sum to those there are.
        group: who takes part.
    """
    return fc.all_to_all_single(rows.contiguous(), list(received), list(sent), group)


def gather(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Return the tensors of all ranks, equally shaped, one after the other along dim 0."""
    return fc.all_gather_single(x.contiguous(), 0, group)


def add(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Return the sum of the tensors of all ranks, equally shaped."""
    return fc.all_reduce(x.contiguous(), "sum", group)


def wait(x: torch.Tensor) -> torch.Tensor:
    """Return the tensor once it has arrived."""
    return fc.wait_tensor(x)
