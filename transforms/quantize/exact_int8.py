"""Products of 8-bit integers on CPUs whose kernel for them is wrong.

Without VNNI instructions a CPU multiplies unsigned by signed numbers and adds pairs of products in 16 bits, where
they saturate: 2 * 255 * 127 does not fit. torch's kernel then returns wrong sums without a word (torchao's answer is
weights of 7 bits). Here the numbers are multiplied as float32, which holds every one of them and every product exactly.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torchao.kernel import int_scaled_matmul
from torchao.quantization.quantize_.common import _choose_quant_func_and_quantize_tensor
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

__all__ = ["ExactInt8Tensor", "kernel_is_exact"]


@functools.cache
def kernel_is_exact() -> bool:
    """Return whether this CPU's product of 8-bit integers is exact at the largest numbers.

    >>> kernel_is_exact() in (True, False)
    True
    """
    inputs = 128
    signs = torch.tensor([[1], [-1]], dtype=torch.int8).repeat(8, inputs)
    rows, weight = 127 * signs, 127 * signs.repeat(2, 1)
    found = int_scaled_matmul(rows, weight.t(), torch.ones(len(rows), 1))
    return torch.equal(found, rows.float() @ weight.float().t())


class ExactInt8Tensor(Int8Tensor):
    """An `Int8Tensor` whose product on a CPU is of float32 numbers; on other devices it is torchao's.

    It is not sliced: torchao would return an `Int8Tensor`, and torch refuses that.
    """


_torchao_linear = Int8Tensor._TORCH_FN_TABLE[Int8Tensor][F.linear]


@ExactInt8Tensor.implements(torch.ops.aten.linear.default)
@ExactInt8Tensor.implements_torch_function(F.linear)
def _linear(func, types, args, kwargs):
    """Return (..., outputs) of x (..., inputs), a weight (outputs, inputs) and a bias (outputs,) or None."""
    x, weight, bias, *_ = (*args, None)
    if x.device.type != "cpu":
        return _torchao_linear(func, types, args, kwargs)
    rows: Any = _choose_quant_func_and_quantize_tensor(x, weight.act_quant_kwargs)
    product = (rows.qdata.float() @ weight.qdata.float().t()) * rows.scale.float() * weight.scale.float().flatten()
    return (product if bias is None else product + bias).to(x.dtype)
