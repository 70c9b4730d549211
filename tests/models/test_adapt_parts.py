"""The parts that a model is adapted with, each alone: its arguments, copies of its structure, its lists of blocks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree

import pure
from pure.models import CheckpointError
from pure.models.accelerate.components import ModelOutput
from pure.models.adapt.adapt import adapt
from pure.models.adapt.arguments import has_samples, pack, padded, unpack
from pure.models.adapt.forward import Forward, prediction_of
from pure.models.adapt.search import discover, search
from pure.models.adapt.structure import copied, described, lists
from tests.support.generic import Draw

DRAW = Draw(0)
TABLE = DRAW(3, 3)
GIVEN: dict[str, Any] = {
    "rows": DRAW(2, 3),
    "second": DRAW(4, 2, 5),
    "common": DRAW(2, 5),  # of two rows, and shared by its name
    "table": TABLE,
    "level": torch.tensor(0.5),
    "ragged": [DRAW(3, 4), DRAW(1, 4)],
    "pair": (DRAW(3, 4), DRAW(2, 4)),
    "sizes": ([(4, 6)], [(4, 6)]),
    "scale": 0.5,
    "nothing": None,
    "inside": {"rows": DRAW(2, 1), "list": ["x", TABLE]},
}


def packed() -> Any:
    return pack(GIVEN, 2, shared=("common",), second=("second",))


def equal(found: Any, wanted: Any) -> bool:
    (one, spec), (other, wanted_spec) = map(pytree.tree_flatten, (found, wanted))
    pairs = zip(one, other, strict=True)
    return spec == wanted_spec and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b for a, b in pairs
    )


def test_arguments_come_back_as_they_were() -> None:
    assert equal(unpack(packed(), 2), GIVEN)
    assert all(leaf.shape[0] == 2 for leaf in pytree.tree_leaves(packed().samples))
    assert [tuple(each.shape) for each in packed().shared.value] == [(2, 5), (3, 3), (), (3, 3)]


@pytest.mark.parametrize("row", [0, 1])
def test_arguments_of_one_sample(row: int) -> None:
    here = slice(row, row + 1)
    own = {
        "rows": GIVEN["rows"][here],
        "second": GIVEN["second"][:, here],
        "ragged": GIVEN["ragged"][here],
        "pair": GIVEN["pair"][here],
        "sizes": GIVEN["sizes"][here],
        "inside": {"rows": GIVEN["inside"]["rows"][here], "list": ["x", TABLE]},
    }
    assert equal(unpack(pure.take(packed(), torch.tensor([row])), 1), {**GIVEN, **own})


@pytest.mark.parametrize(
    ("value", "has"),
    [
        (GIVEN["rows"], True),
        (TABLE, False),
        (DRAW(4, 2), False),
        (torch.tensor(1.0), False),
        (GIVEN["ragged"], True),
        ([(1, 2), (1, 2)], True),
        ([(1, 2)], False),
        ({"a": [TABLE, GIVEN["rows"]]}, True),
        (3, False),
    ],
)
def test_what_has_a_part_for_each_sample(value: Any, has: bool) -> None:
    assert has_samples(value, 2) is has


def test_lists_of_samples_differ_in_their_length_only() -> None:
    with pytest.raises(CheckpointError, match="sizes has one entry per sample and they differ"):
        pack({"sizes": [[(4, 6)], [(4, 6)], [(6, 4)]]}, 3)
    with pytest.raises(CheckpointError, match="tensors of one list differ in more than their length"):
        padded([DRAW(3, 4), DRAW(3, 5)])
    assert padded(GIVEN["ragged"]).lengths.tolist() == [3, 1]


class Holder(torch.nn.Module):
    """One map under two names, a buffer, and a map further inside."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = torch.nn.Linear(2, 2, bias=False)
        self.register_buffer("table", torch.zeros(2))
        self.inner = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, bias=False)})


def test_a_copy_has_other_parameters_and_leaves_the_module_alone() -> None:
    module = Holder()
    before = dict(module.state_dict(keep_vars=True))
    params = {name: torch.full_like(tensor, number) for number, (name, tensor) in enumerate(before.items())}
    del params["second.weight"]
    made: Any = copied(module, params)
    assert made.first is made.second and made.first is not module.first
    assert made.first.weight is params["first.weight"] and made.table is params["table"]
    assert made.inner["a"].weight is params["inner.a.weight"]
    now = module.state_dict(keep_vars=True)
    assert all(now[name] is tensor for name, tensor in before.items())


def test_a_copy_that_calls_something_else_runs_no_hooks_of_the_original() -> None:
    module, seen = Holder(), []
    for register in (module.first.register_forward_hook, module.first.register_forward_pre_hook):
        register(lambda *_: seen.append(1))
    made: Any = copied(module, forwards={"first": lambda x: x + 1})
    assert torch.equal(made.first(torch.ones(2)), torch.full((2,), 2.0)) and not seen
    module.first(torch.ones(2))
    assert len(seen) == 2


def test_modules_of_other_settings_or_types_are_other_functions() -> None:
    plain = described(torch.nn.LayerNorm(4, eps=1e-5))
    assert plain == described(torch.nn.LayerNorm(4, eps=1e-5))
    others = [torch.nn.LayerNorm(4, eps=1e-6), torch.nn.LayerNorm(4).to(torch.bfloat16), torch.nn.LayerNorm(5)]
    others += [torch.nn.LayerNorm(4, bias=False), torch.nn.RMSNorm(4, eps=1e-5)]
    assert plain not in [described(other) for other in others]
    pair = [described(torch.nn.Sequential(torch.nn.LayerNorm(4), one)) for one in others]
    assert len(set(map(repr, pair))) == len(others)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.linear(x))


class Double(torch.nn.Module):
    """A block of two streams."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.block(x) + y.mean(1, keepdim=True), self.block(y), None


class Joins(torch.nn.Module):
    """Blocks of two streams, then blocks of both as one, and then one that reads a number; the lists lie inside."""

    inner: Any

    def __init__(self, positional: bool) -> None:
        super().__init__()
        self.positional = positional
        self.inner = torch.nn.Module()
        self.inner.body = torch.nn.Module()
        self.inner.body.pairs = torch.nn.ModuleList(Double() for _ in range(2))
        self.inner.body.singles = torch.nn.ModuleList(Block() for _ in range(3))
        self.tail = torch.nn.ModuleList([Block()])

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> tuple:
        x, y = hidden_states * timestep.view(-1, 1, 1), text * 2
        for block in self.inner.body.pairs:
            x, y, _ = block(x, y)
        x = torch.cat([y, x], 1) if self.positional else torch.cat([y, x], dim=1)
        for block in self.inner.body.singles:
            x = block(x)
        x = x * (1 if x.sum().item() > 0 else 2)
        for block in self.tail:
            x = block(x)
        return (x[:, text.shape[1] :],)


@pytest.mark.parametrize("positional", [True, False])
def test_streams_are_followed_into_what_is_joined_of_them(positional: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Joins(positional).eval().requires_grad_(False)
    call = {"hidden_states": DRAW(1, 3, 4), "timestep": torch.ones(1), "text": DRAW(1, 2, 4)}
    assert [name for name, _ in lists(model)] == ["inner.body.pairs", "inner.body.singles", "tail"]
    calls, _ = discover(model, call)
    cuts = search(model, call, calls, torch.device("cpu"))
    # From the blocks of two streams on, and from those of one; the last block alone is no run.
    assert [cut.blocks[0] for cut in cuts] == ["inner.body.pairs.0", "inner.body.singles.0"]
    assert [len(cut.blocks) for cut in cuts] == [5, 3]
    assert adapt(model, example=call).cut.blocks == cuts[0].blocks


def test_a_prediction_is_what_a_forward_returns() -> None:
    one, two = DRAW(2, 3), DRAW(2, 4)
    for raw in (one, (one,), SimpleNamespace(sample=one), SimpleNamespace(sample=(one,))):
        assert prediction_of(raw) is prediction_of(raw, several=True) is one
    for raw in ([one, one], ([one, one],), SimpleNamespace(sample=[one, one])):
        assert equal(prediction_of(raw), torch.stack([one, one]))
    assert equal(prediction_of((one, [two, two]), several=True), (one, torch.stack([two, two])))
    with pytest.raises(CheckpointError, match="returns 2 things"):
        prediction_of((one, two))
    for several in (False, True):
        for raw, kind in (({"a": one}, "dict"), ((3,), "int"), ([], "list"), ((), "tuple")):
            with pytest.raises(CheckpointError, match=f"returns (a {kind}|0 things)"):
                prediction_of(raw, several)


@pytest.mark.parametrize("record", [False, True])
def test_a_component_answers_as_it_did(record: bool) -> None:
    """As a record or a tuple as the pipeline asks, or in the only way it has."""
    pair, asked = DRAW(2, 3), (("return_dict", False),)
    found = ModelOutput.of(pair, Forward("x", "t", plain=asked), record)
    assert (found.sample if record else found[0]) is pair and (record or type(found) is tuple)
    assert ModelOutput.of(pair, Forward("x", "t"), record)[0] is pair
    assert ModelOutput.of(pair, Forward("x", "t", bare=True), record) is pair
    listed = ModelOutput.of(pair, Forward("x", "t", listed=True), record)[0]
    assert equal(listed, list(pair)) and equal(listed, [pair[0], pair[1]])
    several = (pair, pair)
    assert ModelOutput.of(several, Forward("x", "t"), record) is several
