"""Attention in parts: every kernel against one softmax, and parts put together."""

from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from pure import partial
from pure.attention import attend
from pure.testing import toys


def normal(*shape, seed, dtype=torch.float32):
    return toys.normal(*shape, seed=seed).to(dtype)


@st.composite
def problems(draw):
    """Queries, keys, values, a mask, and lengths of parts of the keys."""
    batch, queries, heads, width = (draw(st.integers(1, 3)) for _ in range(4))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    keys, seed = sum(lengths), draw(st.integers(0, 99))
    q, k, v = (normal(batch, n, heads, 4 * width, seed=seed + i) for i, n in enumerate((queries, keys, keys)))
    kind = draw(st.sampled_from((None, "bool", "float")))
    # At least one key takes part, but perhaps none of a part.
    on = torch.tensor(draw(st.lists(st.booleans(), min_size=keys, max_size=keys)))
    on[draw(st.integers(0, keys - 1))] = True
    mask = on.expand(batch, 1, 1, -1)
    if kind == "float":
        mask = torch.where(mask, normal(batch, 1, 1, keys, seed=seed + 9), -torch.inf)
    return q, k, v, None if kind is None else mask, lengths


@hypothesis.given(problems())
def test_parts_put_together_are_the_whole(problem):
    q, k, v, mask, lengths = problem
    found, begin = None, 0
    for length in lengths:
        here = slice(begin, begin + length)
        part = partial.attend_in_part(q, k[:, here], v[:, here], None if mask is None else mask[..., here])
        found, begin = part if found is None else partial.merge(found, part), begin + length
    assert found is not None
    assert (found[0].transpose(1, 2) - attend(q, k, v, mask)).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_kernels_agree(dtype, masked):
    q, k, v = (normal(2, 3, 5, 8, seed=i, dtype=dtype) for i in range(3))
    bias = torch.zeros(2, 1, 1, 5, dtype=dtype).masked_fill(torch.arange(5) > 2, -torch.inf) if masked else None
    ours, theirs = partial._math(q, k, v, bias), partial._flash(q, k, v, bias)
    # Weights, products and sums are rounded once each by either, where the type is narrow.
    roundings = 1.5 * torch.finfo(dtype).eps * float(v.abs().max())
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2 * roundings}[dtype]
    assert ours[0].dtype == theirs[0].dtype == dtype and ours[1].dtype == theirs[1].dtype != torch.bfloat16
    for one, other in zip(ours, theirs, strict=True):
        assert (one.to(torch.float64) - other.to(torch.float64)).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_of_a_mask_may_be_of_another_type(dtype):
    q, k, v = (normal(2, 3, 2, 8, seed=i, dtype=dtype) for i in range(3))
    mask = torch.tensor([0.5, -torch.inf, -1.0]).expand(2, 1, 1, -1)
    out, total = partial.attend_in_part(q, k, v, mask)
    wanted, weight = partial.attend_in_part(q, k, v, mask.to(dtype))
    assert torch.equal(out, wanted) and torch.equal(total, weight) and out.dtype == dtype


def test_the_kernel_is_that_of_the_device_and_type():
    """No GPU is needed to choose one; torch's for them take no fp64."""

    def of(kind, dtype):
        q: Any = SimpleNamespace(device=torch.device(kind), dtype=dtype)
        return partial._fastest(q)

    assert of("cpu", torch.float64) == of("cpu", torch.bfloat16) == partial._flash
    assert of("cuda", torch.float32) == of("cuda", torch.bfloat16) == partial._on_gpu
    assert of("cuda", torch.float64) == of("mps", torch.float32) == partial._math


def test_a_part_without_any_key_has_no_weight():
    q, k, v = (normal(2, 3, 1, 4, seed=i) for i in range(3))
    mask = torch.tensor([[True, False, True], [False, False, False]])[:, None, None]
    out, total = partial.attend_in_part(q, k, v, mask)
    assert torch.equal(out[1], torch.zeros_like(out[1])) and bool((total[1] == -torch.inf).all())
    full = partial.attend_in_part(q, k, v, None)
    for merged in (partial.merge((out, total), full), partial.merge(full, (out, total))):
        assert torch.equal(merged[0][1], full[0][1]) and torch.equal(merged[1][1], full[1][1])
    nothing, weight = partial.merge((out, total), (out, total))
    assert torch.equal(nothing[1], out[1]) and bool((weight[1] == -torch.inf).all())


def test_what_is_not_a_number_stays_so():
    q, k, v = (normal(1, 3, 1, 4, seed=i) for i in range(3))
    out, total = partial.attend_in_part(q, k, v, None)
    for broken in ((out * torch.nan, total), (out, total * torch.nan)):
        assert bool(partial.merge((out, total), broken)[0].isnan().all())
        assert bool(partial.merge(broken, (out, total))[0].isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_kernels_of_gpus_take_what_they_are_given(dtype, masked):
    """Without a GPU: only that there are such kernels, with these arguments, and what shapes they return."""
    q, k = (torch.empty(2, 4, tokens, 8, device="meta", dtype=dtype) for tokens in (6, 5))
    out, total = partial._on_gpu(q, k, k, torch.empty(2, 1, 1, 5, device="meta", dtype=dtype) if masked else None)
    assert (out.shape, out.dtype) == (q.shape, dtype) and (total.shape, total.dtype) == (q.shape[:3], torch.float32)
