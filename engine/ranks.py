"""Several processes for one command: how many, which shares of the work, and which of them prints.

Rank 0 shows and saves; the others take the same steps and print nothing. Without a launcher the
processes are started here and this one watches them; under `torchrun` this one is a rank itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import torch

from pure.composition import compose
from pure.configs import Parallel
from pure.configs.sizes import count_of
from pure.distributed.mesh import Sizes
from pure.engine.errors import Failure, Misuse
from pure.engine.libraries import quiet_imports, quiet_libraries
from pure.notes import Note

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from pure.distributed.hosts import Hosts
    from pure.engine.quantizing import Quantizer
    from pure.models import Pipeline
    from pure.models.family import Description

__all__ = ["check_shares", "count_processes", "is_follower", "notes_on", "share", "spread"]

Payload = TypeVar("Payload")


# ------------------------------------------------------------------------------ before anything is loaded


def count_processes(wanted: int | None, environ: Mapping[str, str], groups: int = 1, hosts: int = 1) -> int:
    """Return the number of processes: what a launcher started, or what `--num-gpus` sets.

    Args:
        wanted: `--num-gpus`, on all hosts together.
        environ: of this process.
        groups: equal ones into which they are divided.
        hosts: among which they are divided; by default each has one.

    Raises:
        Misuse: the two differ, or there are fewer GPUs, or they cannot be divided.
    """
    count = _count(wanted, environ, hosts)
    if count % groups:
        least = groups * -(-count // groups)
        raise Misuse(
            f"--dp-size {groups}: {count_of(count)} cannot be divided into {groups} equal groups; "
            f"write --num-gpus {least}, or leave --dp-size out"
        )
    return count


def _count(wanted: int | None, environ: Mapping[str, str], hosts: int) -> int:
    started = _launched(environ)
    if started is not None:
        if wanted not in (None, started):
            raise Misuse(f"--num-gpus {wanted}: the launcher started {started} processes; leave --num-gpus out")
        return started
    count = wanted or hosts
    if count % hosts:
        least = hosts * -(-count // hosts)
        raise Misuse(
            f"--num-gpus {count} is for all {hosts} hosts (--nnodes), which have equal numbers of them; write {least}"
        )
    if torch.cuda.is_available() and count // hosts > (there := torch.cuda.device_count()):
        gpus = "1 GPU" if there == 1 else f"{there} GPUs"
        cure = f"write --num-gpus {there * hosts} or leave it out"
        each = f", {count // hosts} on each of {hosts} hosts" if hosts > 1 else ""
        raise Misuse(f"--num-gpus {count}{each}: this machine shows {gpus}; {cure}")
    return count


def _launched(environ: Mapping[str, str]) -> int | None:
    """Return how many processes a launcher such as torchrun started, None where there is none.

    Raises:
        Misuse: what it left in the environment are no numbers.
    """
    if any(name not in environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return None
    for name in ("RANK", "WORLD_SIZE"):
        if not environ[name].isdecimal():
            raise Misuse(f"environment {name}={environ[name]!r} is no number; start with torchrun, or unset it")
    return int(environ["WORLD_SIZE"])


def is_follower(environ: Mapping[str, str]) -> bool:
    """Whether a launcher started this process as another rank than 0, which prints nothing.

    >>> is_follower({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    True
    """
    try:
        return (_launched(environ) or 1) > 1 and int(environ["RANK"]) > 0
    except Misuse:
        return False


def check_shares(sizes: Sizes, found: Description) -> None:
    """Check that the model can be split into shares of these sizes.

    Raises:
        Misuse: it cannot.
    """
    from pure.distributed.tensor_parallel import check_tensor_parallel

    try:
        for denoiser in found.denoisers.values():
            check_tensor_parallel(denoiser, sizes.tp)
    except ValueError as error:
        raise Misuse(f"tp_size {sizes.tp}: {error}") from error


def notes_on(sizes: Sizes, device: str) -> tuple[Note, ...]:
    """Return a note on the processes before they start."""
    if sizes.total == 1:
        return ()
    axes = " x ".join(f"{axis} {size}" for axis, size in attrs.asdict(sizes).items() if size > 1)
    where = "on the CPU, as there is no GPU" if device == "cpu" else "on a GPU each"
    return (Note(f"{sizes.total} processes {where}: {axes}", "note"),)


# ------------------------------------------------------------------------------ while they run


def place(mesh: DeviceMesh) -> tuple[int, int]:
    """Return which of the ranks that work on the same samples this is, and how many these are."""
    import torch.distributed as dist

    from pure.distributed.mesh import companions

    return dist.get_rank() % companions(mesh), companions(mesh)


def share(pipeline: Pipeline, shares: Parallel, mesh: DeviceMesh, quantize: Quantizer | None = None) -> Pipeline:
    """Return this rank's share of a pipeline of which it has read its part: a denoiser of some tokens, or of a branch.

    With `quantize` the part is quantised.
    """
    from pure.distributed.context_parallel import context_parallel
    from pure.distributed.guidance_parallel import guidance_parallel
    from pure.distributed.tensor_agreement import tensor_agreement
    from pure.distributed.tensor_parallel import place_parts

    options: Any = attrs.asdict(shares, filter=lambda field, _: field.name not in ("sizes", "extra"))
    params = place_parts(pipeline.params, pipeline.denoiser, mesh, local=quantize)
    divided = compose(context_parallel(mesh, **options), guidance_parallel(mesh), tensor_agreement(mesh))
    denoiser = divided(pipeline.denoiser)
    return attrs.evolve(pipeline, params=params, denoiser=denoiser)


def spread(
    payload: Payload,
    sizes: Sizes,
    found: Description,
    lead: Callable[[Payload, DeviceMesh], None],
    follow: Callable[[Payload, DeviceMesh], None],
    environ: Mapping[str, str],
    patience: float | None = None,
    hosts: Hosts | None = None,
    timeout: float | None = None,
) -> None:
    """Carry out `payload` in several processes: `lead` as rank 0, `follow` as the others.

    Args:
        payload: what to do.
        sizes: of the mesh.
        found: a checkpoint, whose classes are imported before processes are forked.
        lead: called with the payload and the mesh, and
        follow: likewise.
        environ: of this process.
        patience: seconds that rank 0 has to end when it is interrupted; None: those of `pure.distributed.run`.
        hosts: that share the processes; None: this one.
        timeout: seconds that one exchange between processes may take; None: half an hour.

    Raises:
        Misuse: the hosts were not started alike.
        Failure: a host did not come, or something failed on another one.
        Exception: that of the first process that failed.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if _launched(environ) is None:
        from pure.distributed.hosts import HostsDiffer, HostsError
        from pure.distributed.launch import run

        if device == "cpu":
            _import_parts(found)
        _stop_progress_bars()
        limits = {"patience": patience, "timeout": timeout}
        more: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
        try:
            run(_rank, sizes.total, payload, sizes, lead, follow, device, device=device, hosts=hosts, **more)
        except HostsError as error:
            kind = Misuse if isinstance(error, HostsDiffer) else Failure
            raise kind(str(error)) from error
        return
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(int(environ.get("LOCAL_RANK", 0)))
    limit = None if timeout is None else timedelta(seconds=timeout)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=limit)
    _rank(payload, sizes, lead, follow, device)
    # Who leaves early would break what the others still send.
    dist.barrier()
    dist.destroy_process_group()


def _import_parts(found: Description) -> None:
    """Import in this process what every forked rank would import on its own: seconds each, instead of nothing."""
    quiet_libraries()
    for name in ("context_parallel", "guidance_parallel", "tensor_parallel"):
        importlib.import_module(f"pure.distributed.{name}")
    for component, library in found.libraries.items():
        # Loading the part reports what is wrong with it.
        with contextlib.suppress(Exception):
            getattr(importlib.import_module(library), found.classes[component])


def _stop_progress_bars() -> None:
    """End the threads that tqdm leaves behind after a download: a process with other threads cannot be forked."""
    from tqdm import TMonitor

    for thread in threading.enumerate():
        if isinstance(thread, TMonitor):
            thread.exit()


def _rank(
    payload: Payload,
    sizes: Sizes,
    lead: Callable[[Payload, DeviceMesh], None],
    follow: Callable[[Payload, DeviceMesh], None],
    device: str,
) -> None:
    import torch.distributed as dist

    from pure.distributed.mesh import make_mesh

    mesh = make_mesh(sizes, device)
    quiet_imports()
    if dist.get_rank() == 0:
        lead(payload, mesh)
    else:
        with _silence():
            follow(payload, mesh)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Print nothing: rank 0 has printed it."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
