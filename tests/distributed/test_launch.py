"""Processes that work together: one answer, one error, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pure.distributed import launch
from pure.distributed.launch import run
from pure.distributed.rank import RankResult
from tests.structure.source import ROOT


def total(value: float) -> float:
    """The sum over all ranks of value + rank."""
    summed = torch.tensor(value + dist.get_rank())
    dist.all_reduce(summed)
    return summed.item()


def fail_on(rank: int, error: BaseException) -> None:
    """Raise on one rank while the others wait for it."""
    if dist.get_rank() == rank:
        raise error
    dist.all_reduce(torch.zeros(1))


def die_on(rank: int, code: int) -> None:
    if dist.get_rank() == rank:
        os._exit(code) if code >= 0 else os.kill(os.getpid(), -code)
    dist.all_reduce(torch.zeros(1))


def write_down(folder: Path, wait: bool = True) -> None:
    """Say which process this is, then wait for ever."""
    (folder / str(os.getpid())).touch()
    dist.barrier()
    while wait:
        dist.all_reduce(torch.zeros(1))


class Odd(Exception):
    """An error that cannot be pickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def children() -> set[str]:
    """Processes of this one, those included that have ended; others of the tests may have left some (compilers)."""
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """No child and no file is left behind.

    Threads that earlier tests left in this process (of compilers) do not count, or processes would be spawned.
    """
    count, others = threading.active_count, threading.active_count() - 1
    monkeypatch.setattr(threading, "active_count", lambda: count() - others)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before = children()
    yield
    assert children() <= before  # not even one that has ended and was not waited for
    assert not multiprocessing.active_children()
    assert not list((tmp_path / "tmp").glob("puredit-*"))


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_rank_0_answers(count):
    assert run(total, count, 1.0) == count + count * (count - 1) / 2


def test_answers_are_pickled_of_rank_0_only():
    tensor = run(torch.full, 2, (3,), 2.0)
    assert torch.equal(tensor, torch.full((3,), 2.0))


INHERITED: list[int] = []
"""What a forked process knows and a spawned one does not."""


def total_and_inherited(value: float) -> tuple[float, list[int]]:
    return total(value), INHERITED


def test_a_spawned_process_does_the_same(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys.modules[__name__], "INHERITED", [1])
    assert run(total_and_inherited, 2, 1.0, start="spawn") == (3, [])
    assert run(total_and_inherited, 2, 1.0, start="fork") == (3, [1])
    stop_the_tracker()


def print_to(folder: Path) -> None:
    sys.stdout = (folder / str(dist.get_rank())).open("w")
    print("done", end="")


def test_what_ranks_printed_is_written_when_they_leave(tmp_path):
    run(print_to, 2, tmp_path)
    assert [(tmp_path / name).read_text() for name in "01"] == ["done", "done"]


def stop_the_tracker() -> None:
    """Spawning starts a helper of Python's own, which ends with the interpreter; end it now."""
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._stop()  # pyright: ignore[reportAttributeAccessIssue]


def test_other_python_threads_are_not_forked(monkeypatch):
    started = []
    original = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: started.append(method) or original("fork"))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        run(total, 1, 1.0)
    finally:
        done.set()
        thread.join()
    run(total, 1, 1.0)
    assert started == ["spawn", "fork"]


@pytest.mark.parametrize("count", [0, 257, 10**9])
def test_a_count_that_no_machine_runs(count):
    with pytest.raises(ValueError, match=f"count={count}: give a number of processes from 1 to 256"):
        run(total, count, 1.0)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="3 processes need a GPU each and this machine has 2; start 2"):
        run(total, 3, 1.0, device="cuda")


@pytest.mark.parametrize("rank", [0, 2])
def test_the_first_error_ends_all_and_is_raised_once(rank):
    with pytest.raises(KeyError, match="lost") as caught:
        run(fail_on, 4, rank, KeyError("lost"))
    (note,) = caught.value.__notes__
    assert f"in process {rank} of 4" in note and "fail_on" in note


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_exits_says_why(rank):
    with pytest.raises(SystemExit, match="no model"):
        run(fail_on, 2, rank, SystemExit("no model"))


def test_an_error_that_cannot_be_sent_is_told():
    with pytest.raises(RuntimeError, match=r"^Odd: one two\nin process 1 of 2"):
        run(fail_on, 2, 1, Odd("one", "two"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-signal.SIGKILL, "process 1 of 3 was killed by SIGKILL; the machine may be out of memory"),
        (3, "process 1 of 3 ended with exit code 3"),
    ],
)
def test_a_process_that_dies_ends_the_others(code, message):
    """What the others see, a closed connection, is not what is told."""
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        run(die_on, 3, 1, code)


@pytest.mark.parametrize("first", [0, 1])
def test_the_dead_rank_is_named_though_the_errors_of_survivors_come_first(first, monkeypatch):
    """In any order: what survivors see is a connection that was closed."""
    seen = RankResult(error=ConnectionError("closed by peer"))
    death = RankResult(error=launch._Death("process 2 of 4 was killed by SIGKILL"))
    arriving = iter([{1 - first: seen}, {3: seen}, {2: death}])
    monkeypatch.setattr(launch, "_collect", lambda ranks, answers, seconds: next(arriving))
    monkeypatch.setattr(launch, "AGREE", 60.0)
    ranks: Any = [None] * 4
    error = launch._blamed(ranks, {first: seen}, first)
    assert type(error) is RuntimeError and str(error) == "process 2 of 4 was killed by SIGKILL"


@pytest.mark.parametrize(("leading", "told"), [("lost", 0), ("other", 2)])
def test_of_equal_errors_rank_0_tells(leading, told):
    errors = {2: KeyError("lost"), 1: KeyError("lost"), 0: KeyError(leading)}
    ranks: Any = [None] * 3
    assert launch._blamed(ranks, {rank: RankResult(error=error) for rank, error in errors.items()}, 2) is errors[told]


def test_a_hang_ends_after_the_timeout():
    with pytest.raises(RuntimeError, match=r"(?i)timed out"):
        run(hang, 2, timeout=1.0)


def hang() -> None:
    """Wait for a rank that never comes."""
    if dist.get_rank():
        time.sleep(600)
    dist.all_reduce(torch.zeros(1))


SCRIPT = """
import signal, sys
from pathlib import Path
from typing import Any
from pure.distributed import launch
from pure.distributed.launch import run
from pure.distributed.rank import RankResult
from tests.distributed.test_launch import write_down
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(write_down, 3, Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "to_all", "code"),
    [
        (signal.SIGINT, True, 130),  # Ctrl-C: the terminal tells every process
        (signal.SIGTERM, False, 130),
        (signal.SIGKILL, False, -signal.SIGKILL),
    ],
)
def test_no_process_outlives_its_parent(tmp_path, sent, to_all, code):
    (tmp_path / "ranks").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "ranks")],
        env=environment, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stderr is not None
    until = time.monotonic() + 60
    while len(ranks := list((tmp_path / "ranks").iterdir())) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(ranks) == 3 and parent.poll() is None
    time.sleep(0.3)  # into the exchanges
    os.killpg(parent.pid, sent) if to_all else parent.send_signal(sent)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == code, said
    while not all(gone(int(rank.name)) for rank in ranks) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(gone(int(rank.name)) for rank in ranks)
    assert "Traceback" not in said
