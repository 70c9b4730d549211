"""Many ranks on one machine: a function runs in forked processes that share a gloo group.

    results = ranks.run(function, 4, argument)  # `function(argument)` on each of 4 ranks

`function` asks `torch.distributed` for its rank. What it returns is pickled; what it raises is
raised here, with the rank's traceback. A rank that waits for ever fails the test.
"""

import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before the fork, or every rank would import them anew: seconds each instead of nothing.
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed._functional_collectives  # what a collective imports when it is first called
import torch.distributed.tensor

LIMIT = 120.0  # seconds; the tests that take longest take a tenth of that
GRACE = 2.0  # seconds that the others have to report what they saw when one rank has failed


class RankError(AssertionError):
    """A rank failed, or did not come to an end."""


def run(function: Callable[..., Any], count: int, *args: Any, limit: float = LIMIT) -> list[Any]:
    """Return what `function(*args)` returns on each of `count` ranks, in their order.

    Raises:
        RankError: a rank raised an exception, died, or was not done after `limit` seconds.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="ranks") as folder:
        answers = [Path(folder, f"answer{rank}") for rank in range(count)]
        processes = [
            context.Process(target=_rank, args=(rank, count, folder, answers[rank], function, args), daemon=True)
            for rank in range(count)
        ]
        with warnings.catch_warnings():
            # Newer Pythons warn of a fork beside threads; a child uses none of its parent's.
            warnings.simplefilter("ignore", DeprecationWarning)
            for process in processes:
                process.start()
        try:
            _wait(processes, limit)
        finally:
            late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
            for process in processes:
                process.kill()
                process.join()
        return _collect(answers, late, limit)


def _wait(processes: list, limit: float) -> None:
    """Wait until all are done, or one failed and the others had time to fail too, or the time is over."""
    end, failed = time.monotonic() + limit, False
    while running := [process for process in processes if process.exitcode is None]:
        left = end - time.monotonic()
        if left <= 0:
            return
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=left)
        if not failed and any(process.exitcode for process in processes):
            failed, end = True, min(end, time.monotonic() + GRACE)


def _collect(answers: list[Path], late: list[int], limit: float) -> list[Any]:
    results, errors = [], list[tuple[float, str]]()
    for rank, path in enumerate(answers):
        if not path.exists():
            fate = f"was not done after {limit:g} s, or waited for a rank that failed" if rank in late else "died"
            errors.append((math.inf, f"rank {rank} {fate}"))
            continue
        done, value = pickle.loads(path.read_bytes())
        results.append(value)
        if not done:
            errors.append((path.stat().st_mtime_ns, f"rank {rank} raised\n{value}"))
    if errors:
        # The first to fail is the one that did something wrong; the others lost their partner.
        raise RankError("\n".join(error for _, error in sorted(errors)))
    return results


def _rank(rank: int, count: int, folder: str, answer: Path, function: Callable, args: tuple) -> None:
    """Run in the child: join the group, call the function, write down what came of it, and end at once."""
    code = 1
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
        outcome = pickle.dumps((True, function(*args)))
        code = 0
    except BaseException:
        outcome = pickle.dumps((False, traceback.format_exc()))
    partial = answer.with_suffix(".part")
    partial.write_bytes(outcome)
    partial.rename(answer)
    # A rank that leaves early would break what the others still send.
    if code == 0:
        dist.barrier()
    # Neither pytest's clean-up nor the destructors of what the parent had belong to a rank.
    os._exit(code)
