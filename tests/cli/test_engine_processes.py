"""What goes between the processes of a command: orders, answers, errors and limits, with stand-ins for torch."""

import errno
import importlib
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import attrs
import pytest
import torch

from pure import identity
from pure.configs import Parallel
from pure.distributed import Sizes
from pure.distributed.hosts import JOIN, Hosts, HostsDiffer, HostsError
from pure.engine import maker, ranks, weights
from pure.engine.engine import Order, Recipe
from pure.engine.errors import Failure, Misuse
from pure.engine.hosts import agreeing, hosts_of
from pure.engine.lines import Line, make_lines
from pure.engine.maker import REMEMBERED, Hand, Maker, Written
from pure.engine.sample import Sample
from pure.engine.weights import weigh, weigh_whole
from pure.testing import toys

# ------------------------------------------------------------------------------ recipes on their way


def recipe(number: int = 0, plain: Any = "plain", denoiser: Any = None) -> Recipe:
    rest: dict[str, Any] = {"request": None, "caching": number, "fps": None, "notes": (), "idle": ()}
    rest["denoiser"] = denoiser or ("cached", number)
    return Recipe(order=Order(fps=number), plain=plain, **rest)


def made(asked: list[Any]) -> Maker:
    """A maker whose engine makes a new recipe whenever it is asked."""

    def make(order: Any, caching: Any) -> Recipe:
        asked.append((order, caching))
        return recipe(caching)

    engine: Any = SimpleNamespace(recipe=make, together=False)
    return Maker(engine)


def test_a_recipe_of_another_process_is_made_once_with_its_cache_and_once_without():
    asked: list[Any] = []
    one: Any = made(asked)
    for cached, denoiser in ((True, ("cached", 3)), (False, "plain"), (True, ("cached", 3)), (False, "plain")):
        found = one.read(Written(key="a", order=Order(fps=3), caching=3, cached=cached))  # type: ignore[arg-type]
        assert found.denoiser == denoiser
    assert asked == [(Order(fps=3), 3)] * 2
    assert one.read(Written(key="b", order=Order(fps=4), caching=4, cached=True)).denoiser == ("cached", 4)  # type: ignore[arg-type]


def test_as_many_recipes_and_denoisers_are_remembered_as_said():
    asked: list[Any] = []
    one: Any = made(asked)
    for number in range(REMEMBERED + 1):
        one.read(Written(key=str(number), order=Order(), caching=number, cached=True))  # type: ignore[arg-type]
    assert len(one.denoisers) == len(one._recipes) == REMEMBERED
    assert one.denoisers[-1] == ("cached", REMEMBERED) and one.denoisers[0] == ("cached", 1)
    equal = ("cached", int("2"))
    assert one.known(recipe(denoiser=equal)).denoiser is one.denoisers[1], "an equal one may be compiled already"


@attrs.define
class Wire:
    """A line that keeps what is told and gives one answer."""

    remote: bool
    answer: Any = None
    told: list[Any] = attrs.field(factory=list)

    def tell(self, order: Any) -> None:
        if isinstance(self.answer, OSError):
            raise self.answer
        self.told.append(order)

    def listen(self) -> Any:
        return self.answer


def plainly(value: Any) -> Any:
    return attrs.asdict(value, recurse=False) if isinstance(value, Written) else value


@pytest.mark.parametrize("remote", [False, True])
def test_an_order_is_told_without_what_only_rank_0_knows(remote):
    here: Any = Mock()
    wire: Any = Wire(remote, answer=True)
    hand = Hand(here, wire)
    sample, bare = Sample(prompt="a", seed=1, job="job", number=3), Sample(prompt="a", seed=1)
    one, plain = recipe(5), recipe(5).uncached
    hand.start("key", one, [sample])
    hand.denoise("", plain, [sample], observe=lambda frame: None)
    hand.warm_up("key", one, "a prompt", 2)
    hand.keep([1, 0])
    asked = {"order": Order(fps=5), "caching": 5}
    assert [(name, *map(plainly, args)) for name, args in wire.told] == [
        ("start", {"key": "key", "cached": True, **asked}, (bare,)),
        ("denoise", {"key": "", "cached": False, **asked}, (bare,)),
        ("warm_up", {"key": "key", "cached": True, **asked}, "a prompt", 2),
        ("keep", (1, 0)),
    ]
    assert (here.start.called, here.keep.called) == (not remote, not remote) and hand.remote is remote


@pytest.mark.parametrize(
    ("error", "lost"), [(ValueError("of a sample"), False), (Misuse("wrong"), False), (RuntimeError("broken"), True)]
)
def test_a_hand_is_lost_by_other_errors_than_those_of_samples(error, lost):
    here: Any = Mock(step=Mock(side_effect=error))
    wire: Any = Wire(remote=False)
    hand = Hand(here, wire)
    with pytest.raises(type(error), match=str(error)):
        hand.step()
    assert hand.lost is (error if lost else None)


def test_an_error_of_another_process_is_raised_here_and_a_broken_line_loses_the_hand():
    wire: Any = Wire(remote=True, answer=ValueError("of a sample"))
    hand = Hand(Mock(), wire)
    with pytest.raises(ValueError, match="of a sample"):
        hand.step()
    assert hand.lost is None
    wire.answer = OSError(errno.EPIPE, "gone")
    with pytest.raises(OSError, match="gone"):
        hand.step()
    assert isinstance(hand.lost, OSError)


def test_a_result_is_of_the_sample_that_was_asked_for():
    here: Any = Mock(finish=lambda row, share: attrs.make_class("Made", ["sample", "row", "share"])("none", row, share))
    sample = Sample(prompt="a", seed=1, number=2)
    found: Any = Hand(here).finish(sample, 3, share=4)
    assert (found.sample, found.row, found.share) == (sample, 3, 4)


@pytest.mark.parametrize(
    ("leading", "together", "done"),
    [(True, False, ["step", "finish"]), (False, False, ["step"]), (False, True, ["step", "finish"]),
     (True, True, ["step", "finish"])],
)  # fmt: skip
def test_the_first_of_a_group_answers_and_decodes(monkeypatch, leading, together, done):
    orders = iter([("step", ()), ("finish", (0, 1)), ("admit", ()), None])
    answers: list[Any] = []
    line = SimpleNamespace(leading=leading, hear=lambda: next(orders), answer=answers.append)
    ran: list[str] = []

    class Makes:
        def __init__(self, engine: Any) -> None: ...

        def step(self) -> str:
            ran.append("step")
            return "stepped"

        def finish(self, row: int, share: int) -> str:
            ran.append("finish")
            return f"row {row}"

        def admit(self) -> None:
            raise ValueError("other lengths")

    monkeypatch.setattr(maker, "Maker", Makes)
    monkeypatch.setattr(maker, "make_lines", lambda mesh: ["another", line])
    engine: Any = SimpleNamespace(together=together)
    maker.take_orders(engine, Mock(get_local_rank=lambda axis: {"dp": 1}[axis]))
    assert ran == done
    assert [str(each) for each in answers] == (["stepped", "row 0", "other lengths"] if leading else [])


def test_a_group_of_one_other_process_is_told(monkeypatch):
    sent: list[Any] = []
    monkeypatch.setattr(
        "torch.distributed.broadcast_object_list", lambda orders, src, group: sent.append((orders, src))
    )
    group: Any = "group"
    for ranks_of in ((0,), (3,), (0, 1)):
        Line(ranks=ranks_of, group=group).tell(ranks_of)
    assert sent == [([(3,)], 0), ([(0, 1)], 0)]
    assert [Line(ranks=each, group=group).remote for each in ((0,), (0, 1), (2, 3))] == [False, False, True]


def test_answers_come_from_the_first_of_a_group(monkeypatch):
    did: list[Any] = []

    def exchange(name: str) -> Any:
        def call(values: list[Any], group: str, **ends: int) -> None:
            did.append((name, list(values), group, ends))
            values[0] = "told"

        return call

    for name in ("broadcast", "send", "recv"):
        monkeypatch.setattr(f"torch.distributed.{name}_object_list", exchange(name))
    group: Any = "group"
    line = Line(ranks=(2, 3), group=group)
    assert line.hear() == line.listen() == "told"
    line.answer("done")
    assert did == [
        ("broadcast", [None], "group", {"src": 0}), ("recv", [None], "group", {"src": 2}),
        ("send", ["done"], "group", {"dst": 0}),
    ]  # fmt: skip
    for rank in (2, 3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        assert line.leading == (rank == 2)


def test_every_group_has_a_line_to_rank_0(monkeypatch):
    made: list[Any] = []
    monkeypatch.setattr(
        "torch.distributed.new_group",
        lambda ranks, timeout, backend: made.append((ranks, timeout.days > 365, backend)) or f"group {len(made)}",
    )
    mesh: Any = SimpleNamespace(mesh=torch.arange(8).reshape(2, 2, 2), mesh_dim_names=("tp", "dp", "ring"))
    lines = make_lines(mesh)
    assert [(line.ranks, line.group) for line in lines] == [((0, 1, 4, 5), "group 1"), ((2, 3, 6, 7), "group 2")]
    assert made == [([0, 1, 4, 5], True, "gloo"), ([0, 2, 3, 6, 7], True, "gloo")]
    hands = maker.make_hands(Mock(), mesh)
    assert [hand.remote for hand in hands] == [False, True] and not maker.make_hands(Mock(), None)[0].remote


# ------------------------------------------------------------------------------ how many, and where


@pytest.mark.parametrize(
    ("wanted", "groups", "hosts", "count"), [(None, 1, 1, 1), (4, 2, 1, 4), (None, 1, 2, 2), (4, 1, 2, 4), (6, 3, 2, 6)]
)
def test_processes_are_divided_among_groups_and_hosts(wanted, groups, hosts, count):
    assert ranks.count_processes(wanted, {}, groups, hosts) == count


@pytest.mark.parametrize(
    ("wanted", "groups", "hosts", "message"),
    [
        (2, 4, 1, "--dp-size 4: 2 processes cannot be divided into 4 equal groups; write --num-gpus 4, or leave"),
        (3, 1, 2, "--num-gpus 3 is for all 2 hosts .--nnodes., which have equal numbers of them; write 4"),
        (6, 1, 2, "--num-gpus 6, 3 on each of 2 hosts: this machine shows 2 GPUs; write --num-gpus 4 or leave it out"),
        (3, 1, 1, "--num-gpus 3: this machine shows 2 GPUs; write --num-gpus 2 or leave it out"),
    ],
)
def test_processes_that_cannot_be_divided(monkeypatch, wanted, groups, hosts, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ranks.count_processes(4, {}, 1, 2) == 4 and ranks.count_processes(2, {}) == 2
    with pytest.raises(Misuse, match=message):
        ranks.count_processes(wanted, {}, groups, hosts)


ADDRESS = {"nnodes": 2, "node_rank": 1, "dist_init_addr": "a:1"}


def test_hosts_as_the_flags_say():
    assert hosts_of({}, {}) is None is hosts_of({"nnodes": 1, "node_rank": 0}, {})
    assert hosts_of(ADDRESS, {"RANK": "1"}) == Hosts(count=2, index=1, address=("a", 1), patience=JOIN)
    found = hosts_of({**ADDRESS, "dist_init_addr": "[fd00::1]:65535", "dist_timeout": 7.5}, {})
    assert found == Hosts(count=2, index=1, address=("fd00::1", 65535), patience=7.5)
    for address in ("a:0", "a:65536", ":1", "a", "a:", "[a]:1", "fd00::1:1", "a:1x", "a:\u0661x"):
        with pytest.raises(Misuse, match="write HOST:PORT, such as"):
            hosts_of({**ADDRESS, "dist_init_addr": address}, {})


def test_what_hosts_compare():
    one = Hosts(count=2, index=0, address=("a", 1))
    checkpoint: Any = SimpleNamespace(found=SimpleNamespace(index={"a": 1}, configs={"b": 2}))
    values = {"seed": (1,), "height": None, "warmup": False, "debug": True, "model_path": "x", "output_dir": "y"}
    found: Any = agreeing(one, {**values, "node_rank": 1, "log_level": "info"}, checkpoint, **{"the prompts": ["a"]})
    agreed = dict(found.agreed)
    assert agreed.pop("--seed") == "[1]" and agreed.pop("the prompts") == '["a"]'
    assert set(agreed) == {"puredit", "torch", "device", "the configs of the checkpoint"}
    assert agreed["torch"] == torch.__version__ and agreed["device"] == "cpu"
    own = (
        "node_rank",
        "dist_init_addr",
        "log_level",
        "debug",
        "save_output",
        "no_save_output",
        "config",
        "output_path",
    )
    assert set(agreeing(one, dict.fromkeys(own, "x"), checkpoint).agreed) == set(agreed)  # type: ignore[union-attr]
    for changes in ({"index": {"a": 2}}, {"configs": {"b": 3}}, {"configs": {"b": 2, "long": "x" * 99}}):
        other: Any = SimpleNamespace(found=SimpleNamespace(**{**vars(checkpoint.found), **changes}))
        text = agreeing(one, values, other).agreed["the configs of the checkpoint"]  # type: ignore[union-attr]
        assert text != agreed["the configs of the checkpoint"]
    assert text.startswith('{"configs": {"b": 2, "long": "xxxxxxxxxx... (') and len(text) == 40 + len("... (12345678)")
    assert agreeing(None, values, checkpoint) is None


# ------------------------------------------------------------------------------ while they run


def test_the_place_of_a_rank_among_those_of_its_samples(monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 6)
    monkeypatch.setattr("pure.distributed.mesh.companions", lambda mesh: 4)
    assert ranks.place(Mock()) == (2, 4)


@pytest.mark.parametrize(
    ("given", "passed"),
    [({}, {}), ({"patience": 3.0}, {"patience": 3.0}), ({"timeout": 9.0}, {"timeout": 9.0}),
     ({"patience": 0.0, "timeout": 9.0}, {"patience": 0.0, "timeout": 9.0})],
)  # fmt: skip
def test_processes_are_started_with_the_limits_that_are_set(monkeypatch, given, passed):
    calls: list[Any] = []
    monkeypatch.setattr("pure.distributed.launch.run", lambda *args, **options: calls.append((args, options)))
    monkeypatch.setattr(ranks, "_import_parts", lambda found: calls.append(found))
    found: Any = "found"
    hosts: Any = "hosts"
    ranks.spread("payload", Sizes(tp=2, dp=3), found, len, repr, {}, hosts=hosts, **given)  # type: ignore[arg-type]
    imported, (args, options) = calls
    assert imported == "found" and args == (ranks._rank, 6, "payload", Sizes(tp=2, dp=3), len, repr, "cpu")
    assert options == {"device": "cpu", "hosts": "hosts", **passed}


@pytest.mark.parametrize(("error", "kind"), [(HostsDiffer("unlike"), Misuse), (HostsError("gone"), Failure)])
def test_errors_of_hosts(monkeypatch, error, kind):
    monkeypatch.setattr("pure.distributed.launch.run", Mock(side_effect=error))
    monkeypatch.setattr(ranks, "_import_parts", Mock())
    found: Any = "found"
    with pytest.raises(kind, match=str(error)):
        ranks.spread("payload", Sizes(tp=2), found, Mock(), Mock(), {})


@pytest.mark.parametrize(("gpu", "timeout"), [(False, None), (True, 5.0)])
def test_under_a_launcher_a_process_is_a_rank_until_all_are_done(monkeypatch, gpu, timeout):
    launched = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": "1"}
    did: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: did.append(number))
    name = "torch.distributed."
    monkeypatch.setattr(name + "init_process_group", lambda backend, timeout: did.append((backend, timeout)))
    monkeypatch.setattr(ranks, "_rank", lambda *each: did.append(each))
    monkeypatch.setattr(name + "barrier", lambda: did.append("wait"))
    monkeypatch.setattr(name + "destroy_process_group", lambda: did.append("end"))
    found: Any = "found"
    ranks.spread("payload", Sizes(tp=4), found, len, repr, launched, timeout=timeout)  # type: ignore[arg-type]
    started = [1, ("nccl", timedelta(seconds=5))] if gpu else [("gloo", None)]
    assert did == [*started, ("payload", Sizes(tp=4), len, repr, "cuda" if gpu else "cpu"), "wait", "end"]


def test_the_share_of_a_process_is_quantised_and_its_options_are_those_of_the_run(monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(
        importlib.import_module("pure.distributed.tensor_parallel"),
        "place_parts",
        lambda params, denoiser, mesh, local: given.append((params, denoiser, mesh, local)) or "part",
    )
    for name in ("context_parallel", "guidance_parallel", "tensor_agreement"):
        monkeypatch.setattr(
            importlib.import_module(f"pure.distributed.{name}"),
            name,
            lambda mesh, name=name, **kw: given.append((name, mesh, kw)) or identity,
        )
    denoiser = toys.random_denoiser()
    pipeline: Any = attrs.make_class("P", ["params", "denoiser"])("whole", denoiser)
    shares = Parallel(sizes=Sizes(tp=2), float8=True, rotate="allgather", fp32=False, overlap=True, extra=("vae",))
    mesh: Any = "mesh"
    quantize: Any = "quantize"
    found: Any = ranks.share(pipeline, shares, mesh, quantize)
    options = {"float8": True, "rotate": "allgather", "fp32": False, "overlap": True}
    assert (found.params, found.denoiser) == ("part", denoiser)
    assert given == [
        ("whole", denoiser, "mesh", "quantize"), ("context_parallel", "mesh", options),
        ("guidance_parallel", "mesh", {}), ("tensor_agreement", "mesh", {}),
    ]  # fmt: skip


# ------------------------------------------------------------------------------ bytes


def test_weights_of_every_component_are_counted_whole_and_held(monkeypatch):
    class Cut:
        def cut(self, name: str, rank: int, size: int) -> Any:
            assert (rank, size) == (0, 1)
            return SimpleNamespace(uncut=lambda shape: (2 * shape[0], *shape[1:])) if name == "weight" else None

    encoders = {"text_encoder": torch.nn.Linear(3, 5), "text_encoder_2": torch.nn.Linear(2, 2, bias=False).half()}
    monkeypatch.setattr(weights, "text_encoders", lambda pipeline: encoders)
    monkeypatch.setattr("pure.models.encoder_sharding", lambda each: Cut() if each.in_features == 3 else None)
    params = {"weight": torch.zeros(4, 2, dtype=torch.bfloat16), "bias": torch.zeros(7)}
    pipeline: Any = SimpleNamespace(
        params=params,
        denoiser=SimpleNamespace(sharding=Cut()),
        codec=SimpleNamespace(vae=torch.nn.Linear(1, 1)),
    )
    sizes = {"text_encoder": 4 * (15 + 5), "text_encoder_2": 2 * 4, "vae": 4 * 2}
    assert weigh(pipeline) == {"transformer": 16 + 28, **sizes}
    assert weigh_whole(pipeline) == {"transformer": 32 + 28, **sizes, "text_encoder": 4 * (30 + 5)}
