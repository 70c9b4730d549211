"""Products of 8-bit integers on CPUs whose kernel for them saturates."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pure.transforms.quantize import exact_int8
from pure.transforms.quantize.kinds import DTYPES, KINDS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["int8_per_row", "int8_per_tensor"])
def test_a_cpu_that_saturates_gets_exact_products(kind, dtype, monkeypatch):
    """Of numbers at the ends of 8 bits, where sums of two products do not fit into 16."""
    monkeypatch.setattr(exact_int8, "kernel_is_exact", lambda: False)
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(16)
    weight = torch.stack([signs, -2 * signs, 0.5 * signs.abs()]).to(dtype)
    x = torch.stack([signs, 2 * signs.abs()]).to(dtype)
    made: Any = KINDS[kind].make(weight)
    bias = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    assert type(made) is exact_int8.ExactInt8Tensor
    # Rounding moves each number by half a step of 1 in 127.5, and a sum of 64 products by at most 1.
    expected = torch.tensor([[65.0, -126.0, 3.0], [1.0, 2.0, 67.0]])
    assert torch.allclose(F.linear(x, made, bias).float(), expected, rtol=0, atol=1.01)
    assert torch.allclose(F.linear(x, made).float() + bias.float(), expected, rtol=0, atol=1.01)
    assert F.linear(x, made).dtype == dtype
    monkeypatch.undo()
    plain: Any = KINDS[kind].make(weight)
    assert torch.equal(plain.qdata, made.qdata) and torch.equal(plain.scale, made.scale), "the same weights"
    if exact_int8.kernel_is_exact():
        assert torch.allclose(F.linear(x, made).float(), F.linear(x, plain).float(), rtol=2.0**-7, atol=1e-6)


def saturated(rows: torch.Tensor, columns: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """A product of 8-bit integers as such a CPU makes it: pairs of unsigned and signed ones are added in 16 bits."""
    pairs = ((rows.int() + 128).unsqueeze(-1) * columns.int()).unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
    return (pairs.sum(1) - 128 * columns.int().sum(0)) * scales


def test_a_kernel_that_saturates_is_told_from_one_that_does_not(monkeypatch):
    ask = exact_int8.kernel_is_exact.__wrapped__
    monkeypatch.setattr(exact_int8, "int_scaled_matmul", saturated)
    assert not ask()
    monkeypatch.setattr(exact_int8, "int_scaled_matmul", lambda rows, columns, scales: rows.float() @ columns.float())
    assert ask()
