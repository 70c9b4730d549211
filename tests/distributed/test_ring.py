"""Keys and values that go around: any lengths, with masks, alone and under Ulysses."""

import contextlib
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import strategies as st

import pure
from pure.attention import attend
from pure.distributed import Sizes, context_parallel, make_mesh
from pure.distributed.mesh import axis
from pure.distributed.ring import Ring
from pure.distributed.ulysses import Ulysses
from pure.testing.recipes import KERNELS
from pure.transforms import attention
from pure.transforms.attention.kernels import kernel_of
from tests.distributed.test_ulysses import own, tensors
from tests.support import ranks
from tests.support.flux import FLUX_DEV
from tests.support.sharded import Collectives

SLOWLY = hypothesis.settings(max_examples=6, suppress_health_check=(HealthCheck.too_slow,), database=None)
MODES: tuple[dict[str, Any], ...] = ({"rotate": "p2p"}, {"rotate": "p2p", "fp32": False}, {"rotate": "allgather"})


def around(sizes, lengths, batch, heads, hidden, dtype=torch.float32, name="native"):
    """What each of `MODES` gives for this rank's tokens; keys from `hidden` on take no part."""
    kernel = kernel_of(name)
    mesh = make_mesh(sizes)
    ring, place = axis(mesh, "ring"), axis(mesh, "ulysses")
    rank = ring.index * place.size + place.index
    *qkv, _ = tensors(lengths, batch, heads, dtype=dtype)
    q, k, v = (own(x, lengths, rank) for x in qkv)
    mask = None if hidden is None else seen(lengths, batch, hidden)
    found = []
    for mode in MODES:
        # Flex attention traces itself, which torch refuses under a mode.
        with contextlib.nullcontext(Collectives()) if name == "flex" else Collectives() as sent:
            found.append(Ulysses(Ring(kernel, ring, **mode), place, ring.index)(q, k, v, mask, lengths=lengths))
        found[-1] = found[-1], dict(sent.counts)
    return found


def seen(lengths, batch, hidden):
    """A mask of keys: each sample sees one fewer than the one before."""
    return (torch.arange(sum(lengths)) < hidden - torch.arange(batch)[:, None].clamp(max=hidden - 1))[:, None, None]


@pytest.mark.parametrize("name", ["native", *KERNELS])
@SLOWLY
@hypothesis.given(
    layout=st.sampled_from((Sizes(ring=2), Sizes(ring=3), Sizes(ring=4), Sizes(ring=2, ulysses=2))),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    data=st.data(),
)
def test_any_lengths_heads_and_masks(name, layout, batch, heads, data):
    """Also no tokens on some rank, no key of a rank seen, and fewer heads than ranks under Ulysses."""
    lengths = tuple(data.draw(st.lists(st.integers(0, 4), min_size=layout.total, max_size=layout.total)))
    lengths = (lengths[0] + 1, *lengths[1:])
    hidden = data.draw(st.none() | st.integers(1, sum(lengths)))
    q, k, v, _ = tensors(lengths, batch, heads)
    expected = attend(q, k, v, None if hidden is None else seen(lengths, batch, hidden))
    found = ranks.run(around, layout.total, layout, lengths, batch, heads, hidden, torch.float32, name)
    for mode in range(len(MODES)):
        together = torch.cat([each[mode][0] for each in found], dim=1)
        assert together.shape == expected.shape and (together - expected).abs().max() <= 1e-6, MODES[mode]


def test_what_is_sent():
    """One hop less than there are ranks, or everything at once."""
    for found in ranks.run(around, 4, Sizes(ring=4), (2, 1, 1, 1), 1, 1, None):
        assert [counts for _, counts in found] == [
            {"all_to_all_single": 3},
            {"all_to_all_single": 3},
            {"all_gather_into_tensor": 1},
        ]


def test_parts_are_added_up_in_fp32():
    """In bf16 every addition rounds: of many ranks fp32 comes closer."""
    lengths, batch, heads = (8,) * 6, 2, 4
    *qkv, _ = tensors(lengths, batch, heads, dtype=torch.bfloat16)
    q, k, v = (x.double() for x in qkv)
    exact = attend(q, k, v)
    found = ranks.run(around, 6, Sizes(ring=6), lengths, batch, heads, None, torch.bfloat16)
    wide, narrow = (torch.cat([each[mode][0] for each in found], dim=1) for mode in (0, 1))
    assert wide.dtype == narrow.dtype == torch.bfloat16
    errors = [float((out.double() - exact).norm() / exact.norm()) for out in (wide, narrow)]
    assert errors[0] < 0.7 * errors[1] < 0.02


@pytest.mark.parametrize("rotate", ["p2p", "allgather"])
def test_one_rank_is_attention(rotate):
    q, k, v, mask = tensors((3,), 2, 2)
    ((found, sent),) = ranks.run(alone, 1, rotate)
    assert torch.equal(found, attend(q, k, v, mask)) and sent == {}


def alone(rotate):
    q, k, v, mask = tensors((3,), 2, 2)
    place = axis(make_mesh(Sizes()), "ring")
    with Collectives() as sent:
        found = Ring(attend, place, rotate)(q, k, v, mask, lengths=(3,))
    return found, dict(sent.counts)


def refused(rotate):
    place = axis(make_mesh(Sizes(ring=2)), "ring")
    if rotate == "allgather":
        return Ring(kernel_of("_native_cudnn"), place, rotate).rotate
    with pytest.raises(
        ValueError, match="log-sum-exp, which the attention _native_cudnn does not give; use rotate='all"
    ):
        Ring(kernel_of("_native_cudnn"), place, rotate)
    return None


@pytest.mark.parametrize("rotate", ["p2p", "allgather"])
def test_what_gives_no_log_sum_exp_takes_all_keys_at_once(rotate):
    assert ranks.run(refused, 2, rotate) == [None if rotate == "p2p" else rotate] * 2


def chosen_afterwards():
    """The kernel of each rank, chosen before or after the tokens are divided; and one that cannot be."""
    divide = context_parallel(make_mesh(Sizes(ring=2)))
    kernel = attention("flex")
    assert pure.compose(kernel, divide)(FLUX_DEV.first) == pure.compose(divide, kernel)(FLUX_DEV.first)
    for both in (pure.compose(attention("_native_cudnn"), divide), pure.compose(divide, attention("_native_cudnn"))):
        with pytest.raises(ValueError, match="which the attention _native_cudnn does not give"):
            both(FLUX_DEV.first)


def test_the_order_does_not_matter():
    ranks.run(chosen_afterwards, 2)
