"""Immutable records as pytrees, and batch surgery on them."""

from typing import Any, cast

import attrs
import hypothesis
import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import strategies as st

import pure
from pure import Shared
from pure.tree import describe, leaves_with_paths, map_samples, signature


@pure.state
class Leafy:
    """A tensor, a default and a static field."""

    value: torch.Tensor
    other: torch.Tensor | None = None
    name: str = pure.static(default="leaf")


def tree_of(batch: int) -> dict:
    rows = torch.arange(batch * 2.0).view(batch, 2)
    return {
        "leafy": Leafy(value=rows, name="first"),
        "pair": (rows + 100, [rows.long()]),
        "nothing": None,
        "shared": Shared(value=torch.ones(3)),
    }


def test_records_are_frozen_keyword_only_and_slotted() -> None:
    leafy = Leafy(value=torch.zeros(1))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        cast(Any, leafy).value = torch.ones(1)
    with pytest.raises(TypeError, match="takes its fields by name"):
        cast(Any, Leafy)(torch.zeros(1))
    with pytest.raises(TypeError, match=r"Leafy takes its fields by name: Leafy\(value=..., other=..., name=...\)"):
        cast(Any, Leafy)()
    assert not hasattr(leafy, "__dict__")
    assert (leafy.other, leafy.name) == (None, "leaf") and Leafy(value=leafy.value, name="x").name == "x"


def test_flattening_keeps_static_fields_in_the_structure() -> None:
    leaves, spec = pytree.tree_flatten(Leafy(value=torch.zeros(2), name="a"))
    assert len(leaves) == 2
    assert pytree.tree_unflatten(leaves, spec).name == "a"
    assert spec != pytree.tree_structure(Leafy(value=torch.zeros(2), name="b"))


def test_a_tensor_in_a_static_field_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Leafy.name is static and holds a tensor; make it an ordinary field"):
        pytree.tree_flatten(Leafy(value=torch.zeros(1), name=cast(Any, torch.zeros(1))))


@pytest.mark.parametrize(
    "field",
    [
        attrs.field(validator=attrs.validators.instance_of(int)),
        attrs.field(converter=int),
        attrs.field(factory=list),
    ],
)
def test_fields_that_cannot_be_traced_are_refused(field: object) -> None:
    with pytest.raises(TypeError, match=r"Bad.value has a validator, converter or factory default"):
        pure.state(type("Bad", (), {"__annotations__": {"value": int}, "value": field}))


def test_records_are_built_inside_compiled_code() -> None:
    torch._dynamo.reset()

    def function(x: torch.Tensor) -> Leafy:
        return attrs.evolve(Leafy(value=x + 1), other=x)

    made = torch.compile(function, fullgraph=True, backend="eager")(torch.zeros(2))
    assert torch.equal(made.value, torch.ones(2)) and made.name == "leaf"


@hypothesis.given(batch=st.integers(1, 6), data=st.data())
def test_take_and_put_are_inverse(batch: int, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), min_size=1, unique=True)))
    tree = tree_of(batch)
    part = pure.take(tree, index)
    assert torch.equal(part["leafy"].value, tree["leafy"].value[index]) and part["leafy"].name == "first"
    assert part["shared"] is tree["shared"] and part["nothing"] is None
    back = pure.put(tree, index, part)
    assert all(torch.equal(a, b) for a, b in zip(_tensors(back), _tensors(tree), strict=True))
    zeroed = pure.put(tree, index, map_samples(torch.zeros_like, part))
    assert bool((zeroed["pair"][0][index] == 0).all()) and bool((tree["pair"][0] >= 100).all())


@hypothesis.given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_join_undoes_take(sizes: list[int]) -> None:
    tree = tree_of(sum(sizes))
    parts = torch.arange(sum(sizes)).split(sizes)
    joined = pure.join(*(pure.take(tree, part) for part in parts))
    assert all(torch.equal(a, b) for a, b in zip(_tensors(joined), _tensors(tree), strict=True))


def test_join_refuses_requests_that_share_nothing() -> None:
    one, two = ({"x": torch.zeros(1), "table": Shared(value=torch.full((2,), float(i)))} for i in range(2))
    assert torch.equal(pure.join(one, one)["x"], torch.zeros(2))
    for trees in ((one, two), (one, one, two)):
        with pytest.raises(ValueError, match="cannot be joined: a value that all samples share differs"):
            pure.join(*trees)


def test_join_works_where_there_are_no_values() -> None:
    one, two = ({"x": torch.zeros(1), "t": Shared(value=torch.zeros(size, device="meta"))} for size in (2, 3))
    same = {"x": torch.zeros(1), "t": Shared(value=torch.zeros(2, device="meta"))}
    assert pure.join(one, same)["x"].shape == (2,)
    with pytest.raises(ValueError, match="cannot be joined"):
        pure.join(one, two)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_join_refuses_shared_values_of_different_types(device: str) -> None:
    one, two = (
        {"x": torch.zeros(1), "t": Shared(value=torch.zeros(2, dtype=dtype, device=device))}
        for dtype in (torch.float32, torch.float64)
    )
    with pytest.raises(ValueError, match="cannot be joined: a value that all samples share differs"):
        pure.join(one, two)


def test_an_unregistered_record_is_refused() -> None:
    with pytest.raises(TypeError, match=r"object is not a pytree record; decorate it with @pure.state"):
        pure.take({"x": object()}, torch.tensor([0]))


def test_paths_read_like_code() -> None:
    paths = [path for path, _ in leaves_with_paths({"a": Leafy(value=torch.zeros(1), other=torch.ones(1))})]
    assert paths == ["['a'].value", "['a'].other"]


def test_signatures_see_structure_and_metadata() -> None:
    base = Leafy(value=torch.zeros(2, 3))
    assert signature(base) == signature(Leafy(value=torch.ones(2, 3)))
    others = [torch.zeros(3, 2), torch.zeros(3, 2).T, torch.zeros(2, 3).double(), torch.zeros(2, 3, device="meta")]
    for value in others:
        assert signature(base) != signature(Leafy(value=value))
    assert signature(base) != signature(Leafy(value=base.value, other=base.value))
    assert describe("text") == "text" and describe(torch.zeros(2))[:3] == ((2,), (1,), torch.float32)


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize(
    "index",
    [[0, 1], 0, None, torch.tensor([True, False]), torch.tensor([0.0]), torch.tensor(0), torch.tensor([[0]])],
    ids=str,
)
def test_samples_are_named_by_a_list_of_whole_numbers(index: Any) -> None:
    rows = torch.zeros(3, 2)
    for name, call in (("take", lambda: pure.take(rows, index)), ("put", lambda: pure.put(rows, index, rows))):
        with pytest.raises(TypeError, match=rf"{name} takes the numbers of samples as an int64 tensor \(I,\) on the"):
            call()


@pytest.mark.parametrize(("index", "message"), [([0, 3], "sample 3 of a batch of 3"), ([-1], "from 0, got -1")])
def test_samples_that_are_not_there_are_refused(index: list, message: str) -> None:
    rows, numbers = torch.zeros(3, 2), torch.tensor(index)
    with pytest.raises(ValueError, match=message):
        pure.take(rows, numbers)
    with pytest.raises(ValueError, match=message):
        pure.put(rows, numbers, torch.zeros(len(index), 2))


@pytest.mark.parametrize("part", [torch.zeros(1, 2), torch.zeros(2, 3), torch.zeros(2, 2).double()], ids=str)
def test_a_part_of_other_sizes_is_not_put(part: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"put takes a part of 2 samples of \(2,\) torch.float32, got"):
        pure.put(torch.zeros(3, 2), torch.tensor([0, 1]), part)


@pytest.mark.parametrize("part", [None, {"b": torch.zeros(1, 2)}, torch.zeros(1, 2)], ids=str)
def test_a_part_that_is_built_differently_is_not_put(part: Any) -> None:
    with pytest.raises(ValueError, match=r"put takes a part that is built like the tree, such as take\(tree, index\)"):
        pure.put({"a": torch.zeros(3, 2)}, torch.tensor([0]), part)


def test_join_takes_trees() -> None:
    with pytest.raises(ValueError, match="join takes at least one tree"):
        pure.join()
    with pytest.raises(TypeError, match=r"int is not a pytree record; decorate it with @pure.state"):
        pure.join(3, 4)
