"""Tokens for heads: the data that moves, the attention it makes, what is sent and when."""

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import strategies as st

from pure.attention import attend
from pure.distributed import Sizes, collectives, make_mesh, ulysses
from pure.distributed.mesh import axis
from pure.distributed.ring import Ring
from pure.distributed.ulysses import Ulysses
from pure.testing import toys
from tests.support import ranks
from tests.support.sharded import Collectives

SLOWLY = hypothesis.settings(max_examples=8, suppress_health_check=(HealthCheck.too_slow,), database=None)


def plain(q, k, v, mask=None, whole=False, *, lengths=()):
    return attend(q, k, v, mask)


def mixed(q, k, v, mask=None, whole=False, *, lengths=()):
    """Not attention: every number stays where it is, so that moving it back and forth must give the same bits."""
    return q + 2 * k + 3 * v


def tensors(lengths, batch, heads, width=8, dtype=torch.float32):
    """Queries, keys, values of all tokens, and a mask under which the last is not seen."""
    total = sum(lengths)
    mask = (torch.arange(total) < total - 1).expand(batch, 1, 1, -1)
    return *(toys.normal(batch, total, heads, width, seed=i).to(dtype) for i in range(3)), mask


def own(x, lengths, rank):
    return x[:, sum(lengths[:rank]) :][:, : lengths[rank]]


def exchanged(lengths, batch, heads, inner, masked, options):
    place = axis(make_mesh(Sizes(ulysses=len(lengths))), "ulysses")
    *qkv, mask = tensors(lengths, batch, heads)
    q, k, v = (own(x, lengths, place.index) for x in qkv)
    with Collectives() as sent:
        out = Ulysses(inner, place, **options)(q, k, v, mask if masked else None, lengths=lengths)
    return out, dict(sent.counts), dict(sent.bytes)


@SLOWLY
@hypothesis.given(
    lengths=st.lists(st.integers(0, 5), min_size=2, max_size=4).map(lambda drawn: (*drawn[:-1], drawn[-1] + 2)),
    batch=st.integers(1, 3),
    heads=st.integers(1, 5),
    overlap=st.booleans(),
)
def test_any_lengths_and_heads(lengths, batch, heads, overlap):
    """Also no tokens on some rank, and fewer heads than ranks."""
    q, k, v, mask = tensors(lengths, batch, heads)
    for inner, masked, expected in ((mixed, False, mixed(q, k, v)), (plain, True, attend(q, k, v, mask))):
        found = ranks.run(exchanged, len(lengths), lengths, batch, heads, inner, masked, {"overlap": overlap})
        together = torch.cat([out for out, *_ in found], dim=1)
        assert together.shape == q.shape
        assert torch.equal(together, expected) if inner is mixed else (together - expected).abs().max() <= 1e-6
        assert all(counts == {"all_to_all_single": 4 if overlap else 2} for _, counts, _ in found)


def test_float8_sends_fewer_bytes_and_stays_close():
    lengths, batch, heads, width = (5, 4), 2, 3, 8
    q, k, v, _ = tensors(lengths, batch, heads, width)
    expected = attend(q, k, v)
    for overlap in (False, True):
        options = {"float8": True, "overlap": overlap}
        found = ranks.run(exchanged, 2, lengths, batch, heads, plain, False, options)
        together = torch.cat([out for out, *_ in found], dim=1)
        error = float((together - expected).norm() / expected.norm())
        assert 1e-4 < error < 0.08 and together.dtype == expected.dtype
        # Three tensors of this rank's tokens and the other's heads, one of the other's tokens and this rank's heads.
        numbers = [batch * (3 * 5 * 1 + 4 * 2), batch * (3 * 4 * 2 + 5 * 1)]
        assert [sent["all_to_all_single"] for *_, sent in found] == [n * (width + 4) for n in numbers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits(dtype):
    x = torch.cat([toys.normal(50, 16, seed=1), 1e-6 * toys.normal(50, 16, seed=2), torch.zeros(1, 16)]).to(dtype)
    found = ulysses.unpack(ulysses.pack(x), dtype)
    assert found.dtype == dtype and torch.equal(found[-1], x[-1])
    largest = x.abs().amax(-1, keepdim=True)
    # Half a step of three bits, or of the smallest numbers there are.
    assert bool(((found - x).abs() <= x.abs() / 15 + largest / 448 * 2**-9).all())


def launched(overlap):
    """The order in which things are launched and waited for."""
    place, order = axis(make_mesh(Sizes(ulysses=2)), "ulysses"), []

    def exchange(*arguments):
        order.append("launch")
        return collectives.exchange(*arguments)

    def wait(x):
        order.append("wait")
        return collectives.wait(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ulysses, "exchange", exchange)
        patch.setattr(ulysses, "wait", wait)
        q, k, v, _ = tensors((3, 3), 1, 2)
        Ulysses(plain, place, overlap=overlap)(q[:, :3], k[:, :3], v[:, :3], lengths=(3, 3))
    return order


def test_overlap_launches_all_before_it_waits():
    assert ranks.run(launched, 2, False) == [["launch", "wait", "launch", "wait"]] * 2
    assert ranks.run(launched, 2, True) == [["launch"] * 3 + ["wait"] * 3 + ["launch", "wait"]] * 2


def outside():
    """Attention to keys that every rank has, of another number, under any mask."""
    mesh = make_mesh(Sizes(ring=2, ulysses=2))
    ring, place = axis(mesh, "ring"), axis(mesh, "ulysses")
    q, k, v = toys.normal(2, 3, 2, 4, seed=torch.distributed.get_rank()), *(toys.normal(2, 5, 2, 4, seed=9),) * 2
    mask = toys.normal(2, 2, 3, 5, seed=3)
    with Collectives() as sent:
        out = Ulysses(Ring(attend, ring), place, ring.index)(q, k, v, mask, True, lengths=(3,) * 4)
    return torch.equal(out, attend(q, k, v, mask)), dict(sent.counts)


def test_keys_that_every_rank_has_are_not_sent():
    assert ranks.run(outside, 4) == [(True, {})] * 4
