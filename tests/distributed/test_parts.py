"""What ranks are made of, each alone and in one process: what they are given, whom they obey, what they send."""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import DeviceMesh

from pure.distributed import (
    Hosts,
    HostsDiffer,
    HostsError,
    Sizes,
    collectives,
    context_parallel,
    launch,
    make_mesh,
    rank,
    row_layers,
    ulysses,
)
from pure.distributed import hosts as hosts_module
from pure.distributed.hosts import Meeting, _check
from pure.distributed.mesh import Axis
from pure.distributed.ring import Ring
from pure.distributed.row_layers import RowGroupNorm
from pure.distributed.sharded_weight import ShardedWeight
from pure.distributed.ulysses import Ulysses
from pure.models.flux.denoiser import flux
from pure.sharding import Kind

GROUP: Any = None


def of(size: int, index: int = 0, name: str = "ulysses") -> Axis:
    return Axis(name, index, size, GROUP)


def test_every_option_reaches_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["pure.distributed.context_parallel"]
    axes = {"ring": of(2, 1, "ring"), "ulysses": of(3, 2)}
    monkeypatch.setattr(module, "axis", lambda mesh, name: axes[name])
    mesh, denoiser = object.__new__(DeviceMesh), flux({"num_layers": 1, "num_single_layers": 1})
    options: tuple[Any, ...] = ({}, {"float8": True}, {"overlap": True}, {"rotate": "allgather"}, {"fp32": False})
    for changes in options:
        asked = {"float8": False, "overlap": False, "rotate": "p2p", "fp32": True, **changes}
        edited: Any = context_parallel(mesh, **changes).edit(denoiser)
        outer, inner = edited.attend, edited.attend.attend
        assert {
            "float8": outer.float8,
            "overlap": outer.overlap,
            "rotate": inner.rotate,
            "fp32": inner.fp32,
        } == asked
        assert (outer.axis, outer.row, inner.axis, inner.attend) == (axes["ulysses"], 1, axes["ring"], denoiser.attend)
        assert edited.head.reads == denoiser.reads == ("image",) and edited.agree.then is denoiser.agree
        every: Any = context_parallel(mesh, **changes).edit(attrs.evolve(denoiser, reads=None))
        assert every.head.reads == ("image", "text"), "a head that says nothing may read all of them"
        assert edited.embed.streams == denoiser.streams and edited.head.division.index == 1 * 3 + 2


def test_hosts_are_told_apart() -> None:
    places = [Hosts(count=2, index=0, address=(name, 80)).place for name in ("a.b", "::1")]
    assert places == ["a.b:80", "[::1]:80"]
    hosts = Hosts(count=3, index=0, address=("a", 80), agreed={"x": "1"})
    message = {"index": 1, "count": 3, "processes": 6, "agreed": {"x": "1"}}
    _check(hosts, 6, message, {})
    for changes, there, said in (
        ({"index": 0}, {}, "two hosts have number 0"),
        ({"index": 3}, {}, "two hosts have number 3"),
        ({}, {1: None}, "two hosts have number 1"),
        ({"count": 2}, {}, "started for 2 hosts, host 0 for 3"),
        ({"processes": 3}, {}, "started for 3 processes in all, host 0 for 6"),
        ({"agreed": {"x": "2"}}, {}, "x: 1 on host 0, 2 on host 1"),
        ({"agreed": {"x": "1", "y": "3"}}, {}, "y: not given on host 0, 3 on host 1"),
    ):
        others: Any = there
        with pytest.raises(HostsDiffer, match=said):
            _check(hosts, 6, message | changes, others)


class Stopped(Exception):
    """Ends a run before it begins."""


def test_ranks_of_a_later_host_follow_those_of_the_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def started(context: Any, setting: Any, *_: Any) -> Any:
        made.append(setting)
        if len(made) == 2:
            raise Stopped
        return launch.Rank(Process(), Process(), "")  # type: ignore[arg-type]

    monkeypatch.setattr(launch, "_started", started)
    monkeypatch.setattr(launch, "meet", lambda *_: Meeting(hosts=(), ranks="tcp://a:1", interface="eth9"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    with pytest.raises(Stopped):
        launch.run(print, 6, start="spawn", timeout=7.0, hosts=Hosts(count=3, index=2, address=("a", 1)))
    assert [(s.rank, s.local, s.count, s.threads, s.timeout) for s in made] == [(4, 0, 6, 3, 7.0), (5, 1, 6, 3, 7.0)]
    assert {(s.meet, s.interface) for s in made} == {("tcp://a:1", "eth9")}


class Process:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_rank_joins_with_its_threads_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: seen.update(threads=threads))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **rest: seen.update(rest, backend=backend))
    setting = rank.RankSetup(rank=2, count=4, local=0, device="cpu", folder=Path(), meet="m", timeout=7.0, threads=3)
    rank._join(setting)
    assert seen.pop("timeout").total_seconds() == 7.0
    assert seen == {"threads": 3, "backend": "gloo", "init_method": "m", "rank": 2, "world_size": 4}


@pytest.mark.parametrize("number", [0, 1])
def test_rank_0_alone_obeys_and_all_wait_to_be_let_go(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", lambda which, handler: handlers.update({which: handler}))
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    rank._obey(number)
    assert handlers[signal.SIGINT] == signal.SIG_IGN
    assert handlers[signal.SIGTERM] == (signal.SIG_IGN if number else rank._interrupt)
    done: list[str] = []

    class Line:
        def send_bytes(self, packed: bytes) -> None:
            done.append("answered")

        def recv_bytes(self) -> None:
            done.append("let go")
            raise EOFError

    def leave(code: int) -> None:
        done.append(f"left with {code}")
        raise Stopped

    monkeypatch.setattr(rank, "_follow_parent", lambda folder: None)
    monkeypatch.setattr(rank, "_join", lambda setting: done.append("joined"))
    monkeypatch.setattr(rank.os, "_exit", leave)
    setting = rank.RankSetup(rank=number, count=2, local=0, device="cpu", folder=Path(), meet="", timeout=1, threads=1)
    line: Any = Line()
    with pytest.raises(Stopped):
        rank.be_rank(setting, line, lambda: done.append("called"), ())
    assert done == ["joined", "called", "answered", "let go", "left with 0"]


def test_the_ranks_of_a_mesh_are_the_product_of_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(ring=2, ulysses=3, tp=5, cfg=2, dp=7)
    assert (sizes.each, sizes.total) == (60, 420)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    for running in (1, 3):
        monkeypatch.setattr(dist, "get_world_size", lambda running=running: running)
        with pytest.raises(ValueError, match=rf"is 2 ranks and {running} are running; start 2, or give sizes"):
            make_mesh(Sizes(ring=2))


def test_what_is_sent_lies_row_after_row(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []
    for name in ("all_to_all_single", "all_gather_single", "all_reduce"):
        monkeypatch.setattr(collectives.fc, name, lambda x, *_: sent.append(x) or x)
    turned = torch.arange(6.0).view(2, 3).t()
    collectives.exchange(turned, [2, 1], [2, 1], GROUP)
    collectives.gather(turned, GROUP)
    collectives.add(turned, GROUP)
    assert [x.is_contiguous() and torch.equal(x, turned) for x in sent] == [True] * 3


def test_a_group_norm_in_half_takes_its_statistics_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_layers, "gather", lambda x, group: x)
    monkeypatch.setattr(row_layers, "wait", lambda x: x)
    norm = torch.nn.GroupNorm(2, 4)
    x = (torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) + 30).to(torch.bfloat16)
    found = RowGroupNorm(norm, of(1))(x)
    wanted = F.group_norm(x.float(), 2, norm.weight, norm.bias, norm.eps)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=2**-8, atol=1e-4)  # rounded once


def test_parts_of_a_weight_are_compiled_apart_and_stay_parts_as_parameters() -> None:
    local = torch.zeros(2, 3)
    given = (Kind.ROW, 6, "g", 2)
    others = [(Kind.GATHERED, 6, "g", 2), (Kind.ROW, 5, "g", 2), (Kind.ROW, 6, "h", 2), (Kind.ROW, 6, "g", 3)]
    names = [ShardedWeight(local, *each)._stable_hash_for_caching() for each in (given, given, *others)]
    assert names[0] == names[1] and len(set(names)) == 5
    for each in (given, *others):
        kept: Any = torch.nn.Parameter(ShardedWeight(local, *each), requires_grad=False)
        assert isinstance(kept, ShardedWeight) and torch.equal(kept.local, local)
        assert (kept.kind, kept.whole, kept.group, kept.ranks) == each


def test_a_ring_of_one_takes_any_attention_and_no_tokens_attend_to_nothing() -> None:
    def refused(*_: Any) -> torch.Tensor:
        raise Stopped

    alone: Any = Ring(refused, of(1, name="ring"))
    none = torch.zeros(1, 0, 2, 4)
    with pytest.raises(Stopped):
        alone(*(torch.zeros(1, 3, 2, 4),) * 3, lengths=(3,))
    both = torch.zeros(3, 1, 2, 2, 4)
    assert alone(none, none, none, lengths=(0,)) is none and alone._around(none, both, None, (3,)) is none
    with pytest.raises(ValueError, match=r"which the attention .*refused.* does not give; use rotate='allgather'"):
        Ring(refused, of(2, name="ring"))


def test_ulysses_says_what_a_row_of_ranks_holds_and_gives_queries_as_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any, lengths: tuple) -> torch.Tensor:
        seen.append((q.shape[2], k.shape[2], v.shape[2], lengths))
        return q

    def nothing_comes(rows: torch.Tensor, received: list[int], sent: list[int], group: Any) -> torch.Tensor:
        assert sum(sent) == len(rows)
        return rows.new_zeros(sum(received), rows.shape[1])

    monkeypatch.setattr(ulysses, "exchange", nothing_comes)
    monkeypatch.setattr(ulysses, "wait", lambda x: x)
    q, k = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 2, 8)
    for row, lengths in ((0, (2, 1, 3, 4)), (1, (3, 4, 2, 1))):
        divided = Ulysses(attend, of(2), row)
        assert divided(q, k, k, None, True, lengths=lengths).shape == q.shape
        assert divided(q, k, k, lengths=lengths).shape == q.shape
    assert seen == [(4, 2, 2, (3, 7)), (2, 2, 2, (3, 7)), (4, 2, 2, (7, 3)), (2, 2, 2, (7, 3))]


def test_shares_are_put_together_in_their_order_and_kept_apart_from_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sys.modules["pure.distributed.context_parallel"]
    monkeypatch.setattr(module, "gather", lambda x, group: torch.cat([x, x + group]))
    monkeypatch.setattr(module, "wait", lambda x: x)
    division = module.Division(Axis("ring", 0, 2, 10), Axis("ulysses", 0, 2, 1))  # type: ignore[arg-type]
    assert [int(each) for each in division.gathered(torch.tensor(0))] == [0, 1, 10, 11]
    eager: Any = Eager()
    for each, stays in ((eager, True), (len, False)):
        assert module.Divided(each, (), None, division).stays_eager is stays
        assert module.Together(each, (), division).stays_eager is stays
    stream = torch.zeros(1, 8, 4)
    own = module.Divided(eager, (), None, division)._own(stream)
    assert own.shape == (1, 2, 4) and own.untyped_storage().nbytes() == own.nbytes
    axes = {"ring": of(2, 1, "ring"), "ulysses": of(1)}
    monkeypatch.setattr(module, "axis", lambda mesh, name: axes[name])
    edited: Any = context_parallel(object.__new__(DeviceMesh)).edit(flux({"num_layers": 1, "num_single_layers": 1}))
    assert edited.own(SimpleNamespace(own="mine")) == "mine"


class Eager:
    stays_eager = True


def test_hosts_that_do_not_come_are_named_and_those_that_came_learn_why(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(count=4, index=0, address=("a", 80), patience=1.0)
    monkeypatch.setattr(hosts_module.select, "select", lambda *_: ([], [], []))
    there: Any = {2: SimpleNamespace(report=None)}
    listening: Any = contextlib.nullcontext()
    with pytest.raises(HostsError, match=r"2 of 4 hosts did not come to a:80 within 1 seconds \(missing: 1, 3\)"):
        hosts_module._admit(hosts, 4, listening, 0.0, there)
    for kind in (HostsError, HostsDiffer):
        told: list[Any] = []
        came: Any = SimpleNamespace(index=1, send=lambda told=told, **message: told.append(message))
        came.report = SimpleNamespace(close=lambda told=told: told.append("closed"))
        answers = iter([came])

        def admit(*_: Any, answers: Any = answers, kind: type = kind) -> Any:
            if (host := next(answers, None)) is None:
                raise kind("the third is another")
            return host

        monkeypatch.setattr(hosts_module, "_admit", admit)
        monkeypatch.setattr(hosts_module, "_listen", lambda _: listening)
        with pytest.raises(kind, match="the third is another"):
            hosts_module.meet(hosts, 4)
        assert told == [{"refused": "the third is another", "differ": kind is HostsDiffer}, "closed"]
    with pytest.raises(ValueError, match="3 processes cannot be divided among 4 hosts; give a multiple of them"):
        launch.run(print, 3, hosts=hosts)


def test_a_connection_waits_for_as_long_as_it_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = hosts_module._connection(socket.create_connection(server.getsockname(), timeout=5.0))
        with contextlib.closing(connection):
            assert os.get_blocking(connection.fileno())
