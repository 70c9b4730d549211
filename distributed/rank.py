"""The child's side of `run`: join the others, call the function, say what came of it, leave together.

A rank that is done, or that failed, stays until its parent lets it go: its sockets remain open,
so that what the others see is never the consequence of somebody else's end.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.distributed as dist

__all__ = ["RankResult", "RankSetup", "be_rank"]

SIGNALS = {signal.SIGINT, signal.SIGTERM}


@attrs.frozen(kw_only=True)
class RankSetup:
    """What a rank needs before it starts.

    Attributes:
        rank: which one it is, on all hosts.
        count: how many there are, on all hosts.
        local: which one of this host it is.
        device: type of the device, "cpu" or "cuda"; of GPUs rank i of a host has number i.
        folder: of this host's ranks; it goes with the last of them.
        meet: URL where the ranks find each other.
        interface: of the network between hosts; None: torch chooses.
        closed: handles that are the parent's alone.
        timeout: seconds that one exchange between ranks may take.
        threads: threads for computing.
    """

    rank: int
    count: int
    local: int
    device: str
    folder: Path
    meet: str
    timeout: float
    threads: int
    interface: str | None = None
    closed: tuple[int, ...] = ()


@attrs.frozen(kw_only=True)
class RankResult:
    """What a rank returned, or the error that ended it."""

    result: Any = None
    error: BaseException | None = None


def be_rank(
    setting: RankSetup, report: multiprocessing.connection.Connection, function: Callable[..., Any], args: tuple
) -> None:
    """Be one rank, in a process of its own."""
    _obey(setting.rank)
    for handle in setting.closed:  # another host must see this one's parent end
        with contextlib.suppress(OSError):
            os.close(handle)
    threading.Thread(target=_follow_parent, args=(setting.folder,), daemon=True).start()
    try:
        _join(setting)
        answer = RankResult(result=function(*args))
    except BaseException as error:
        answer = RankResult(error=_annotated(error, setting))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report.send_bytes(_packed(answer, setting))
    with contextlib.suppress(EOFError, OSError):
        report.recv_bytes()
    if dist.is_initialized():
        dist.destroy_process_group()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Taking an interpreter with torch apart takes seconds, and nothing in it is worth that.
    os._exit(0)


def _obey(rank: int) -> None:
    """Leave signals that everybody is sent to the parent: it asks rank 0 to stop with SIGTERM, and kills the others.

    A terminal sends Ctrl-C to every process of a command, and those that manage services send SIGTERM to every one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if rank else _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _interrupt(number: int, frame: object) -> None:
    """Stop once: of a signal to all, the parent sends a second one."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent(folder: Path) -> None:
    """End with the parent, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _join(setting: RankSetup) -> None:
    """Meet the other ranks."""
    torch.set_num_threads(setting.threads)
    if setting.device == "cuda":
        torch.cuda.set_device(setting.local)
    if setting.interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", setting.interface)
    dist.init_process_group(
        "nccl" if setting.device == "cuda" else "gloo",
        init_method=setting.meet,
        rank=setting.rank,
        world_size=setting.count,
        timeout=timedelta(seconds=setting.timeout),
    )


def _annotated(error: BaseException, setting: RankSetup) -> BaseException:
    """Add where it happened, which would be lost on the way to the parent."""
    trace = "".join(traceback.format_exception(error)).rstrip()
    error.add_note(f"in process {setting.rank} of {setting.count}:\n{trace}")
    return error


def _packed(answer: RankResult, setting: RankSetup) -> bytes:
    """Return the answer as bytes; only rank 0's result is wanted, and an error that cannot be sent becomes text."""
    result = None if setting.rank else answer.result
    try:
        packed = pickle.dumps(RankResult(result=result, error=answer.error))
        pickle.loads(packed)
        return packed
    except Exception as why:
        told = answer.error or why
        stand_in = RuntimeError(f"{type(told).__name__}: {told}")
        for note in getattr(told, "__notes__", ()):
            stand_in.add_note(note)
        return pickle.dumps(RankResult(error=stand_in))
