"""Meshes: names, sizes, and what is said when they do not fit; and the ranks that tests run on."""

import time

import hypothesis
import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as fc
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh

from pure.distributed import Sizes, make_mesh
from pure.distributed.mesh import neighbours
from pure.sharding import shares, start
from tests.support import ranks


def _coordinates(sizes):
    mesh = make_mesh(sizes)
    names = mesh.mesh_dim_names or ()
    total = fc.wait_tensor(fc.all_reduce(torch.tensor([1.0]), "sum", mesh["ulysses"]))
    return names, tuple(mesh.get_local_rank(name) for name in names), total.item()


def test_axes_have_names_and_tp_varies_fastest():
    found = ranks.run(_coordinates, 8, Sizes(ring=2, ulysses=2, tp=2))
    assert [names for names, _, _ in found] == [("dp", "cfg", "ring", "ulysses", "tp")] * 8
    assert [where for _, where, _ in found] == [(0, 0, r, u, t) for r in (0, 1) for u in (0, 1) for t in (0, 1)]
    assert [total for *_, total in found] == [2.0] * 8


def _neighbours():
    mesh = init_device_mesh("cpu", (2, 1, 2, 2), mesh_dim_names=("dp", "cfg", "ulysses", "tp"))
    found = []
    for most in (None, 3, 1):
        along = neighbours(mesh, most)
        found.append((along.size, dist.get_process_group_ranks(along.group), along.index))
    with pytest.raises(ValueError, match="most=0: a group has at least 1 rank"):
        neighbours(mesh, 0)
    return found


def test_neighbours_work_on_the_same_samples():
    """Groups along an axis "dp" exchange nothing."""
    for rank, found in enumerate(ranks.run(_neighbours, 8)):
        first, pair = rank // 4 * 4, rank // 2 * 2
        assert found[0] == (4, list(range(first, first + 4)), rank % 4)
        assert found[1] == (2, [pair, pair + 1], rank % 2)
        assert found[2] == (1, [rank], 0)


def test_guidance_has_two_branches():
    with pytest.raises(ValueError, match="the size of axis 'cfg' is 3, and guidance has two branches; give 1 or 2"):
        Sizes(cfg=3)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_a_size_is_a_whole_number(size):
    with pytest.raises(ValueError, match=r"the size of axis 'ulysses' is .*; give a whole number from 1 on"):
        Sizes(ulysses=size)


def _too_many():
    with pytest.raises(ValueError, match=r"is 4 ranks and 2 are running; start 4, or give sizes whose product is 2"):
        make_mesh(Sizes(ring=2, ulysses=2))


def test_a_mesh_of_another_size_than_the_world_is_refused():
    ranks.run(_too_many, 2)


def test_one_process_alone_is_told_to_start_ranks():
    with pytest.raises(RuntimeError, match=r"a mesh of 2 ranks needs processes .* start them with"):
        make_mesh(Sizes(ring=2))


def _fails(rank):
    if dist.get_rank() == rank:
        raise KeyError("what is wrong")
    dist.barrier()


def test_what_a_rank_raises_is_reported():
    with pytest.raises(ranks.RankError, match=r"(?s)^rank 1 raised\n.*KeyError: 'what is wrong'"):
        ranks.run(_fails, 2, 1)


def _waits():
    if dist.get_rank() == 0:
        time.sleep(60)


def test_a_rank_that_waits_for_ever_is_reported():
    with pytest.raises(ranks.RankError, match=r"rank 0 was not done after 1 s"):
        ranks.run(_waits, 2, limit=1.0)


@hypothesis.given(st.integers(0, 100), st.integers(1, 9))
def test_shares_are_as_even_as_they_can_be(total, count):
    found = shares(total, count)
    assert sum(found) == total and len(found) == count
    assert max(found) - min(found) <= 1 and list(found) == sorted(found, reverse=True)
    assert [start(found, index) for index in range(count)] == [sum(found[:index]) for index in range(count)]
