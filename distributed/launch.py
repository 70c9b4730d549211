"""Run a function in several processes of one group: one for every GPU, or several on a CPU.

    answer = run(function, 4, argument)  # `function(argument)` in 4 processes; rank 0's answer

`function` asks `torch.distributed` for its rank. The calling process computes nothing: it
watches. Whatever ends the run (an error, a process that dies, Ctrl-C), no process outlives it.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import pickle
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
import torch

from pure.checks import shown
from pure.distributed.rank import SIGNALS, RankResult, RankSetup, be_rank

__all__ = ["run"]

MOST = 256  # processes on one machine: a slip of a digit would take all its memory
LOADING = 1800.0  # seconds that ranks may be apart: one may load a checkpoint for long
AGREE = 1.0  # seconds after a first error in which the death that caused it may be noticed
STOP = 15.0  # seconds that rank 0 has when interrupted, by default
LEAVE = 10.0  # seconds that ranks have to leave once all are done


@attrs.frozen(eq=False)
class Rank:
    """A process, and the line on which it answers."""

    process: Any
    report: Connection

    def answer(self) -> RankResult | None:
        """Return what it answered, or None if it died before."""
        try:
            return pickle.loads(self.report.recv_bytes())
        except (EOFError, OSError):
            return None


def run(
    function: Callable[..., Any],
    count: int,
    *args: Any,
    device: str = "cpu",
    timeout: float = LOADING,
    start: str | None = None,
    patience: float = STOP,
) -> Any:
    """Call `function(*args)` in `count` new processes and return what rank 0 returns.

    Args:
        function: called in every process, with `torch.distributed` initialised.
        count: number of processes.
        args: its arguments.
        device: "cpu", or "cuda" where process i computes on GPU i.
        timeout: seconds that one exchange between processes may take before it is an error.
        start: "fork" or "spawn". By default they are forked, which takes a third of a second, where
            that is safe: without CUDA, without other Python threads, and with one thread each to
            compute with. Spawned processes import everything anew; function and arguments must be
            picklable, and a script needs `if __name__ == "__main__":`.
        patience: seconds that rank 0 has to finish its step and say what is done, when interrupted.

    Raises:
        ValueError: `count` is not 1 to 256, or above the number of GPUs.
        TypeError: `function` is none.
        RuntimeError: a process died.
        Exception: what the first process to fail raised; a note says which process, and where.
        KeyboardInterrupt: Ctrl-C, unless rank 0 made something else of it: an error, or an orderly end.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
        raise ValueError(f"count={shown(count)}: give a number of processes from 1 to {MOST}, the most on one machine")
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"run takes a function, then the number of processes; got {shown(function)}")
    if device == "cuda" and count > (there := torch.cuda.device_count()):
        raise ValueError(f"{count} processes need a GPU each and this machine has {there}; start {there or 'on a CPU'}")
    threads = max(1, torch.get_num_threads() // count)
    # A forked child cannot use CUDA, and hangs in the threads and locks that its parent had.
    safe = device == "cpu" and threads == 1 and threading.active_count() == 1
    context = multiprocessing.get_context(start or ("fork" if safe else "spawn"))
    if context.get_start_method() == "fork":
        _import_what_ranks_need()
    ranks: list[Rank] = []
    with tempfile.TemporaryDirectory(prefix="puredit-", ignore_cleanup_errors=True) as folder:
        try:
            with _undisturbed():
                for rank in range(count):
                    setting = RankSetup(rank=rank, count=count, device=device, folder=Path(folder),
                                      timeout=timeout, threads=threads)  # fmt: skip
                    ranks.append(_started(context, setting, function, args))
            result = _watched(ranks, patience)
            _dismiss(ranks)
            return result
        finally:
            _end(ranks)


def _import_what_ranks_need() -> None:
    """Import in the parent what every forked rank would import on its own: seconds each, instead of nothing."""
    import torch._dynamo
    import torch.distributed._functional_collectives
    import torch.distributed.tensor  # noqa: F401


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back: children inherit that, and listen once they have said what signals mean to them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with warnings.catch_warnings():
            # Newer Pythons warn of a fork beside threads: torch's own, which a child does not use.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(context: Any, setting: RankSetup, function: Callable[..., Any], args: tuple) -> Rank:
    report, theirs = context.Pipe()
    process = context.Process(target=be_rank, args=(setting, theirs, function, args), name=f"rank {setting.rank}")
    process.start()
    theirs.close()
    return Rank(process, report)


def _watched(ranks: Sequence[Rank], patience: float = STOP) -> Any:
    """Wait for all ranks; return rank 0's result or raise what went wrong first."""
    answers: dict[int, RankResult] = {}
    try:
        while len(answers) < len(ranks):
            answers |= _collect(ranks, answers, None)
            if failed := [number for number, answer in answers.items() if answer.error is not None]:
                raise _blamed(ranks, answers, failed[0])
    except KeyboardInterrupt:
        # The others take part until rank 0 has ended its step: its Python code runs only between exchanges.
        answers |= _stopped(ranks, answers, patience)
        if 0 not in answers or isinstance(answers[0].error, KeyboardInterrupt):
            raise
        if (error := answers[0].error) is not None:
            raise error from None
    return answers[0].result


def _collect(ranks: Sequence[Rank], answers: dict[int, RankResult], seconds: float | None) -> dict[int, RankResult]:
    """Return the next answers of ranks that have given none; a rank that died answers with that."""
    silent = {number: rank for number, rank in enumerate(ranks) if number not in answers}
    lines = [line for rank in silent.values() for line in (rank.report, rank.process.sentinel)]
    ready = multiprocessing.connection.wait(lines, seconds)
    found: dict[int, RankResult] = {}
    for number, rank in silent.items():
        if rank.report in ready or rank.process.sentinel in ready:
            found[number] = rank.answer() or RankResult(error=_death(rank, number, len(ranks)))
    return found


def _death(rank: Rank, number: int, count: int) -> Exception:
    rank.process.join()
    code = rank.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    hint = "; the machine may be out of memory" if code == -signal.SIGKILL else ""
    return _Death(f"process {number} of {count} {how}{hint}")


class _Death(RuntimeError):
    """A rank died; what the others saw then is a consequence."""


def _blamed(ranks: Sequence[Rank], answers: dict[int, RankResult], first: int) -> BaseException:
    """Return the error to raise: a rank's death, whenever it is noticed, else the first; rank 0's if it is the same."""
    until = time.monotonic() + AGREE
    while (left := until - time.monotonic()) > 0 and len(answers) < len(ranks) and not _deaths(answers):
        answers = answers | _collect(ranks, answers, left)
    if deaths := _deaths(answers):
        return RuntimeError(str(deaths[0]))
    error: Any = answers[first].error
    leading = answers[0].error if 0 in answers else None
    return leading if leading is not None and str(leading) == str(error) else error


def _deaths(answers: dict[int, RankResult]) -> list[BaseException]:
    return [answer.error for answer in answers.values() if isinstance(answer.error, _Death)]


def _stopped(ranks: Sequence[Rank], answers: dict[int, RankResult], patience: float) -> dict[int, RankResult]:
    """Ask rank 0 to stop and return its answer, if it gives one in time."""
    until = time.monotonic() + patience
    if 0 not in answers and ranks:
        ranks[0].process.terminate()
    while 0 not in answers and ranks and (left := until - time.monotonic()) > 0:
        answers = answers | _collect(ranks, answers, left)
    return answers


def _dismiss(ranks: Sequence[Rank]) -> None:
    """Let ranks leave that are all done."""
    until = time.monotonic() + LEAVE
    for rank in ranks:
        with contextlib.suppress(OSError):
            rank.report.send_bytes(b"leave")
    for rank in ranks:
        rank.process.join(max(0.0, until - time.monotonic()))


def _end(ranks: Sequence[Rank]) -> None:
    """End every rank that still runs, and leave no trace of any."""
    for rank in ranks:
        rank.process.kill()
    for rank in ranks:
        rank.process.join()
        rank.process.close()
        rank.report.close()
