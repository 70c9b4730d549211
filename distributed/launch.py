"""Run a function in several processes of one group: one for every GPU, or several on a CPU; on one host or several.

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
from typing import Any, TypeVar

import attrs
import torch

from pure.checks import shown
from pure.distributed.hosts import Host, Hosts, HostsError, meet
from pure.distributed.rank import SIGNALS, RankResult, RankSetup, be_rank

__all__ = ["run"]

MOST = 256  # processes on one machine: a slip of a digit would take all its memory
R = TypeVar("R")
LOADING = 1800.0  # seconds that ranks may be apart: one may load a checkpoint for long
AGREE = 1.0  # seconds after a first error in which the death that caused it may be noticed
STOP = 15.0  # seconds that rank 0 has when interrupted, by default
LEAVE = 10.0  # seconds that ranks have to leave once all are done


@attrs.frozen(eq=False)
class Rank:
    """A process, and the line on which it answers.

    Attributes:
        process: of this host.
        report: the line.
        name: for messages.
    """

    process: Any
    report: Connection
    name: str

    @property
    def lines(self) -> tuple[Any, ...]:
        """What becomes ready when it has answered or died."""
        return self.report, self.process.sentinel

    def answer(self) -> RankResult:
        """Return what it answered, or how it died."""
        try:
            return pickle.loads(self.report.recv_bytes())
        except (EOFError, OSError):
            return RankResult(error=_death(self))


@attrs.frozen(eq=False)
class Other:
    """Another host, which answers for all its ranks."""

    host: Host

    @property
    def lines(self) -> tuple[Any, ...]:
        """What becomes ready when it has answered or is lost."""
        return (self.host.report,)

    def answer(self) -> RankResult:
        """Return that it is done, or what went wrong there."""
        message = self.host.receive()
        if message is None:
            return RankResult(error=_Death(f"host {self.host.index} is lost: its command has ended, or its network"))
        if "failed" not in message:
            return RankResult()
        error = (_Death if message.get("death") else HostsError)(str(message["failed"]))
        for note in message.get("notes", ()):
            error.add_note(str(note))
        return RankResult(error=error)


Child = Rank | Other


def run(
    function: Callable[..., R],
    count: int,
    *args: Any,
    device: str = "cpu",
    timeout: float = LOADING,
    start: str | None = None,
    patience: float = STOP,
    hosts: Hosts | None = None,
) -> R:
    """Call `function(*args)` in `count` new processes and return what rank 0 returns.

    Args:
        function: called in every process, with `torch.distributed` initialised.
        count: number of processes, on all hosts together.
        args: its arguments.
        device: "cpu", or "cuda" where process i computes on GPU i.
        timeout: seconds that one exchange between processes may take before it is an error.
        start: "fork" or "spawn". By default they are forked, which takes a third of a second, where
            that is safe: without CUDA, without other Python threads, and with one thread each to
            compute with. Spawned processes import everything anew; function and arguments must be
            picklable, and a script needs `if __name__ == "__main__":`.
        patience: seconds that rank 0 has to finish its step and say what is done, when interrupted.
        hosts: of the job, each of which calls this and starts its share of the processes: the first host the first
            ranks. None: this one only. What the others return is None.

    Raises:
        ValueError: `count` is not 1 to 256, or not a multiple of the hosts, or above the number of GPUs.
        HostsError: hosts do not come, differ, or one of them failed.
        TypeError: `function` is none.
        RuntimeError: a process died.
        Exception: what the first process to fail raised; a note says which process, and where.
        KeyboardInterrupt: Ctrl-C, unless rank 0 made something else of it: an error, or an orderly end.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
        raise ValueError(f"count={shown(count)}: give a number of processes from 1 to {MOST}, the most on one machine")
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"run takes a function, then the number of processes; got {shown(function)}")
    if hosts is not None and count % hosts.count:
        raise ValueError(f"{count} processes cannot be divided among {hosts.count} hosts; give a multiple of them")
    own = count if hosts is None else count // hosts.count
    if device == "cuda" and own > (there := torch.cuda.device_count()):
        raise ValueError(f"{own} processes need a GPU each and this machine has {there}; start {there or 'on a CPU'}")
    threads = max(1, torch.get_num_threads() // own)
    # A forked child cannot use CUDA, and hangs in the threads and locks that its parent had.
    safe = device == "cpu" and threads == 1 and threading.active_count() == 1
    context = multiprocessing.get_context(start or ("fork" if safe else "spawn"))
    if context.get_start_method() == "fork":
        _import_what_ranks_need()
    first = 0 if hosts is None else hosts.index * own
    meeting = None if hosts is None else meet(hosts, count)
    with tempfile.TemporaryDirectory(prefix="puredit-", ignore_cleanup_errors=True) as folder:
        common: dict[str, Any] = {"count": count, "device": device, "folder": Path(folder), "timeout": timeout,
                                  "threads": threads, "meet": f"file://{folder}/meet"}  # fmt: skip
        if meeting is not None:
            forked = context.get_start_method() == "fork"
            handles = tuple(host.report.fileno() for host in meeting.hosts) if forked else ()
            common |= {"meet": meeting.ranks, "interface": meeting.interface, "closed": handles}
        others = () if meeting is None else tuple(map(Other, meeting.hosts))
        ranks: list[Rank] = []
        try:
            with _undisturbed():
                for local in range(own):
                    setting = RankSetup(rank=first + local, local=local, **common)
                    ranks.append(_started(context, setting, function, args))
            result = _watched(ranks, patience, others, leading=first == 0)
            _dismiss(ranks)
            return result
        finally:
            _end(ranks)
            if meeting is not None:
                meeting.close()


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
    return Rank(process, report, f"process {setting.rank} of {setting.count}")


def _watched(ranks: Sequence[Rank], patience: float = STOP, others: Sequence[Other] = (), leading: bool = True) -> Any:
    """Wait for all ranks and hosts; return rank 0's result or raise what went wrong first, on every host.

    Args:
        ranks: of this host.
        patience: seconds that rank 0 has when interrupted.
        others: hosts: of the first one all others, of those the first one.
        leading: whether this is the first host.
    """
    answers: dict[int, RankResult] = {}
    workers: list[Child] = [*ranks, *others]
    done = leading
    try:
        while len(answers) < len(workers):
            answers |= _collect(workers, answers, None)
            if failed := [number for number, answer in answers.items() if answer.error is not None]:
                raise _blamed(workers, answers, failed[0])
            if not done and answers.keys() >= set(range(len(ranks))):
                done = True
                _tell(others)
    except KeyboardInterrupt:
        # The others take part until rank 0 has ended its step: its Python code runs only between exchanges.
        answers |= _stopped(ranks if leading else (), answers, patience)
        if not leading or 0 not in answers or isinstance(answers[0].error, KeyboardInterrupt):
            _tell(others, RuntimeError(f"interrupted on {'host 0' if leading else 'another host'}"))
            raise
        if (error := answers[0].error) is not None:
            _tell(others, error)
            raise error from None
    except BaseException as error:
        _tell(others, error)
        raise
    if leading:
        _tell(others)
    return answers[0].result


def _tell(others: Sequence[Other], error: BaseException | None = None) -> None:
    """Tell the other hosts that this one is done, or what went wrong."""
    for other in others:
        if error is None:
            other.host.send(done=True)
        else:
            known = isinstance(error, HostsError) or isinstance(error.__cause__, _Death)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            death = isinstance(error.__cause__, _Death)
            other.host.send(failed=text, death=death, notes=[*getattr(error, "__notes__", ())])


def _collect(workers: Sequence[Child], answers: dict[int, RankResult], seconds: float | None) -> dict[int, RankResult]:
    """Return the next answers of those that have given none; who died answers with that."""
    silent = {number: worker for number, worker in enumerate(workers) if number not in answers}
    ready = multiprocessing.connection.wait([line for one in silent.values() for line in one.lines], seconds)
    return {number: one.answer() for number, one in silent.items() if any(line in ready for line in one.lines)}


def _death(rank: Rank) -> Exception:
    rank.process.join()
    code = rank.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    hint = "; the machine may be out of memory" if code == -signal.SIGKILL else ""
    return _Death(f"{rank.name} {how}{hint}")


class _Death(RuntimeError):
    """A rank died; what the others saw then is a consequence."""


def _blamed(workers: Sequence[Child], answers: dict[int, RankResult], first: int) -> BaseException:
    """Return the error to raise: a rank's death, whenever it is noticed, else the first; rank 0's if it is the same."""
    until = time.monotonic() + AGREE
    while (left := until - time.monotonic()) > 0 and len(answers) < len(workers) and not _deaths(answers):
        answers = answers | _collect(workers, answers, left)
    if deaths := _deaths(answers):
        error = RuntimeError(str(deaths[0]))
        error.__cause__ = deaths[0]
        return error
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
