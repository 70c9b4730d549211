"""Share a training step among single-threaded processes.

On a few cores two processes of one thread each beat one process of two threads: they
meet once a step, not at every operation. All functions work in a lone process too.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist


def run(function: Callable, *, processes: int, work: Path, arguments: tuple) -> None:
    """Call ``function(*arguments)`` in every one of ``processes`` processes."""
    if processes == 1:
        function(*arguments)
        return
    meeting = work / "rendezvous"
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.spawn(_start, (processes, meeting.resolve(), function, arguments), nprocs=processes)


def _start(rank: int, processes: int, meeting: Path, function: Callable, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    function(*arguments)
    dist.destroy_process_group()


def rank() -> int:
    """This process's number, from zero."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean(tensors: list[Tensor], scalars: list[float]) -> list[float]:
    """Average tensors in place over all processes; returns the averaged scalars."""
    if count() == 1:
        return scalars
    flat = torch.cat([*(t.flatten() for t in tensors), torch.tensor(scalars)])
    dist.all_reduce(flat)
    flat /= count()
    sizes = [t.numel() for t in tensors]
    *parts, averaged = flat.split([*sizes, len(scalars)])
    torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])
    return averaged.tolist()


def divide(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``function(rows)``, each process computing an equal part of the rows.

    The whole is computed everywhere where the rows do not divide evenly.
    """
    if count() == 1 or len(rows) % count():
        return function(rows)
    own = function(rows.chunk(count())[rank()]).contiguous()
    parts = [torch.empty_like(own) for _ in range(count())]
    dist.all_gather(parts, own)
    return torch.cat(parts)
