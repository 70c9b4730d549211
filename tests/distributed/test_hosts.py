"""Several hosts, each a process of this machine here: they meet, agree, and end together whatever ends one of them."""

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import torch.distributed as dist

from pure.distributed import launch
from pure.distributed.hosts import Hosts, HostsDiffer, HostsError, _interface, meet
from pure.distributed.launch import run
from tests.distributed.test_launch import gone

LIMIT = 60.0
launch._import_what_ranks_need()  # before hosts are forked, or each would import it anew


def free_address() -> tuple[str, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()


def start(index: int, address: tuple[str, int], function: Any, *args: Any, **changes: Any) -> tuple[Any, Any]:
    """Start a host in a process; return it, and where it sends what `run` returned or raised there."""
    ours, theirs = multiprocessing.Pipe()

    def be() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in its background ignore it
        found = Hosts(**{"count": 2, "index": index, "address": address, "patience": 20.0, **changes})
        try:
            outcome: Any = run(function, 4, *args, start="fork", hosts=found)
        except BaseException as error:
            outcome = error
        theirs.send((type(outcome).__name__, str(outcome), getattr(outcome, "__notes__", [])))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=be)
    process.start()
    theirs.close()
    return process, ours


def outcomes(started: list[tuple[Any, Any]]) -> list[Any]:
    """Wait for all hosts, each for a limited time."""
    found = []
    for process, line in started:
        found.append(line.recv() if line.poll(LIMIT) else None)
        process.join(LIMIT if found[-1] else 0)
        process.kill()
    return found


def both(function: Any, *args: Any, **changes: Any) -> list[Any]:
    """Run a function on 2 ranks of each of 2 hosts."""
    address = free_address()
    return outcomes([start(index, address, function, *args, **changes) for index in (1, 0)])[::-1]


def total() -> list[int]:
    """Return what all ranks add up to, and how many there are."""
    summed = torch.tensor([1 + dist.get_rank()])
    dist.all_reduce(summed)
    return [int(summed), dist.get_world_size(), dist.get_rank()]


def test_ranks_of_two_hosts_are_one_group_and_the_first_host_has_the_result():
    assert both(total) == [("list", "[10, 4, 0]", []), ("NoneType", "None", [])]


# ------------------------------------------------------------------------------ how a job ends


def work(phase: str, rank: int, code: int, folder: str) -> None:
    """Load, take steps together, let rank 0 decode; one rank dies, or raises where `code` is above 0."""
    Path(folder, str(os.getpid())).touch()

    def now(here: str) -> None:
        if here == phase and dist.get_rank() == rank:
            if code > 0:
                raise KeyError("lost")
            os.kill(os.getpid(), -code)

    now("load")
    for step in range(3 if phase == "decode" else 10**6):
        dist.all_reduce(torch.zeros(1))
        if step == 2:
            now("step")
    now("decode")
    if dist.get_rank() == 0 and phase == "decode":
        time.sleep(LIMIT)  # longer than the test waits


@pytest.mark.parametrize("phase", ["load", "step", "decode"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_rank_that_is_killed_ends_the_job_on_both_hosts_with_its_error(phase, rank, tmp_path):
    """On either host; nobody is left, and no host tells what it saw itself: a connection that was closed."""
    began = time.monotonic()
    message = f"process {rank} of 4 was killed by SIGKILL; the machine may be out of memory"
    assert both(work, phase, rank, -signal.SIGKILL, str(tmp_path)) == [("RuntimeError", message, [])] * 2
    assert time.monotonic() - began < LIMIT
    assert all(gone(int(rank.name)) for rank in tmp_path.iterdir())


def test_an_error_on_one_host_is_told_on_the_other(tmp_path):
    first, second = both(work, "step", 2, 1, str(tmp_path))
    assert second[0] == "KeyError" and first[:2] == ("HostsError", "KeyError: 'lost'")
    assert "in process 2 of 4" in first[2][0] and "in now" in first[2][0]


@pytest.mark.parametrize("index", [0, 1])
def test_a_host_that_is_gone_ends_the_other(index, tmp_path):
    address = free_address()
    started = [start(each, address, work, "never", 0, 0, str(tmp_path)) for each in (0, 1)]
    until = time.monotonic() + LIMIT
    while len(list(tmp_path.iterdir())) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    started[index][0].kill()
    (found,) = outcomes([started[1 - index]])
    assert found == ("RuntimeError", f"host {index} is lost: its command has ended, or its network", [])
    started[index][0].join()
    while not all(gone(int(rank.name)) for rank in tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
    assert all(gone(int(rank.name)) for rank in tmp_path.iterdir())


def test_ctrl_c_on_the_first_host_ends_the_second(tmp_path):
    address = free_address()
    started = [start(each, address, work, "never", 0, 0, str(tmp_path)) for each in (0, 1)]
    until = time.monotonic() + LIMIT
    while len(list(tmp_path.iterdir())) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(started[0][0].pid, signal.SIGINT)
    first, second = outcomes(started)
    assert first[0] == "KeyboardInterrupt" and second[:2] == ("HostsError", "RuntimeError: interrupted on host 0")


# ------------------------------------------------------------------------------ hosts that do not meet


def meeting(first: Hosts, second: Hosts, processes: tuple[int, int] = (4, 4)) -> list[Any]:
    """Let two hosts meet, in threads; return what each of them got."""
    found: list[Any] = [None, None]

    def come(place: int, hosts: Hosts) -> None:
        try:
            found[place] = meet(hosts, processes[place])
            found[place].close()
        except HostsError as error:
            found[place] = error

    threads = [threading.Thread(target=come, args=pair) for pair in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    return found


FIRST = Hosts(count=2, index=0, address=("127.0.0.1", 1), patience=10.0, agreed={"--seed": "1", "torch": "2"})


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"count": 3}, 4, "host 1 was started for 3 hosts, host 0 for 2; give all the same"),
        ({"index": 2}, 4, r"two hosts have number 2 \(--node-rank\); give each of 2 its own, from 0"),
        ({}, 2, "host 1 was started for 2 processes in all, host 0 for 4"),
        ({"agreed": {"--seed": "1", "torch": "3"}}, 4, "host 1 has other settings than host 0; torch: 2 on host 0"),
        ({"agreed": {"torch": "2", "--tp-size": "2"}}, 4,
         "--seed: 1 on host 0, not given on host 1; --tp-size: not given on host 0, 2 on host 1"),
    ],
)  # fmt: skip
def test_hosts_that_were_started_otherwise_say_so_on_both(changes, processes, message):
    first = attrs.evolve(FIRST, address=free_address())
    found = meeting(first, attrs.evolve(first, **{"index": 1, **changes}), (4, processes))
    for error in found:
        with pytest.raises(HostsDiffer, match=message):
            raise error


def test_hosts_that_agree_know_where_the_ranks_meet_and_over_which_network():
    first = attrs.evolve(FIRST, address=free_address())
    found = meeting(first, attrs.evolve(first, index=1))
    assert found[0].ranks == found[1].ranks and found[0].ranks.startswith("tcp://127.0.0.1:")
    assert found[0].interface == found[1].interface == _interface("127.0.0.1") == "lo"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": 1}, "host 0 cannot be reached at 127.0.0.1:.* within 0.3 seconds: Connection refused"),
        ({}, r"1 of 2 hosts did not come to 127.0.0.1:.* within 0.3 seconds \(missing: 1\)"),
        ({"address": ("192.0.2.1", 9)}, "host 0 cannot listen at 192.0.2.1:9: Cannot assign requested address"),
        ({"address": ("no.such.host.invalid", 9)}, "the address no.such.host.invalid:9 is unknown"),
        ({"address": ("no.such.host.invalid", 9), "index": 1}, "address no.such.host.invalid:9 of host 0 is unknown"),
    ],
)  # fmt: skip
def test_hosts_that_do_not_come_end_the_wait(changes, message):
    hosts = attrs.evolve(FIRST, address=free_address(), patience=0.3)
    with pytest.raises(HostsError, match=message):
        meet(attrs.evolve(hosts, **changes), 4)


def test_a_port_that_is_taken_is_an_error_and_strangers_are_sent_away():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HostsError, match=r"cannot listen at 127.0.0.1:\d+: Address already in use; give an"):
            meet(attrs.evolve(FIRST, address=taken.getsockname()), 4)
    first = attrs.evolve(FIRST, address=free_address())
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(meet(first, 4)))
    thread.start()
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\2[]", b"\0\0\0\7" + json.dumps({"a": 1}).encode()):
        until = time.monotonic() + 10
        while True:
            try:
                stranger = socket.create_connection(first.address)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < until
                time.sleep(0.01)
        with stranger, contextlib.suppress(ConnectionResetError):
            stranger.sendall(sent)
            assert stranger.recv(1) == b""
    meet(attrs.evolve(first, index=1), 4).close()
    thread.join(10)
    done[0].close()


def test_a_number_of_processes_that_hosts_cannot_share():
    with pytest.raises(ValueError, match="3 processes cannot be divided among 2 hosts; give a multiple of them"):
        run(total, 3, hosts=FIRST)


def test_a_failure_is_told_in_words_and_a_death_as_one():
    told: list[Any] = []
    host: Any = type("Host", (), {"send": lambda self, **message: told.append(message)})()
    launch._tell([launch.Other(host)], ValueError("bad"))
    death = RuntimeError("process 1 of 4 died")
    death.__cause__ = launch._Death("process 1 of 4 died")
    launch._tell([launch.Other(host)], death)
    launch._tell([launch.Other(host)])
    assert told == [
        {"failed": "ValueError: bad", "death": False, "notes": []},
        {"failed": "process 1 of 4 died", "death": True, "notes": []},
        {"done": True},
    ]
    assert pickle.loads(pickle.dumps(HostsError("gone"))).args == ("gone",)
