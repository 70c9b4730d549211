"""What a weight can become: every kind is one function of one weight.

All that is used of torchao is here, and in `exact_int8.py`, which is imported where it is needed.

A quantised weight is a tensor of the same shape and dtype whose values are stored in a byte
each, beside scales; `torch.nn.functional.linear` knows what to do with it. A dynamic kind
also rounds what is multiplied with the weight, each token (row) by a scale of its own: what
becomes of one sample does not depend on the others in the batch.

Shapes: a weight is (outputs, inputs).
"""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ADA = (8, 9)  # compute capability of the first GPUs that multiply float8
SIDE, GROUP = 128, 32  # of a block of float8_per_block, and weights that share a scale in int4_weight_only
# The largest magnitude in a row counts as at least this: a row of zeros would be divided by zero.
# In half precision also because the scale, 1/448 of it, must stay a normal number.
LEAST = {torch.float16: 2.0**-5}
LEAST_ELSE = 1e-12
INT4: Any = getattr(torch, "int4")  # noqa: B009 - torch's annotations do not know it


@attrs.frozen(kw_only=True)
class WeightKind:
    """One kind of quantised weight.

    Attributes:
        make: `weight -> quantised weight`, both (outputs, inputs).
        dynamic: what is multiplied with the weight is quantised too, "float8" or "int8"; else empty.
        multiple: what outputs and inputs must be multiples of.
    """

    make: Callable[[torch.Tensor], torch.Tensor]
    dynamic: str = ""
    multiple: tuple[int, int] = (1, 1)


def require_torchao() -> None:
    """Check that torchao is installed.

    Raises:
        ModuleNotFoundError: it is not; the message says how to install it.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ModuleNotFoundError(
            "quantisation needs torchao, which is not installed; pip install 'puredit[quant]'", name="torchao"
        )


def unsupported(kind: str, device: torch.device) -> str:
    """Say why a device cannot compute with a kind of weights; empty if it can."""
    if KINDS[kind].dynamic != "float8" or device.type != "cuda":
        return ""
    found = torch.cuda.get_device_capability(device)
    if found >= ADA:
        return ""
    return f"{kind} needs a GPU that multiplies float8 (compute capability 8.9 or newer), and this one has {found}"


def unfit(kind: str, weight: torch.Tensor) -> str:
    """Say why a weight cannot become a kind; empty if it can."""
    if type(weight) not in (torch.Tensor, torch.nn.Parameter):
        return f"it is a {type(weight).__name__} already"
    if weight.dtype not in DTYPES:
        return f"its numbers are {weight.dtype}"
    dynamic, multiple = KINDS[kind].dynamic, KINDS[kind].multiple
    if weight.device.type == "cuda" and dynamic:
        multiple = (16, 16) if dynamic == "float8" else (8, 8)  # what the kernels ask for
        if dynamic == "float8" and weight.dtype is not torch.bfloat16:
            return f"float8 kernels return bfloat16, and its numbers are {weight.dtype}: load it in bf16"
    if any(size % unit for size, unit in zip(weight.shape, multiple, strict=True)):
        outputs, inputs = weight.shape
        return f"its shape {outputs} x {inputs} is no multiple of {multiple[0]} x {multiple[1]}"
    return ""


def _least(weight: torch.Tensor) -> float:
    return LEAST.get(weight.dtype, LEAST_ELSE)


def _float8(weight: torch.Tensor, shared: bool) -> torch.Tensor:
    """Return float8 values (e4m3: 3 bits after the leading one) to multiply with float8; `shared`: with one scale."""
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization import PerRow, PerTensor
    from torchao.quantization.quantize_.common import KernelPreference
    from torchao.quantization.quantize_.workflows.float8.float8_tensor import (
        Float8Tensor,
        QuantizeTensorToFloat8Kwargs,
    )

    least, plain = _least(weight), KernelPreference.TORCH
    made = Float8Tensor.from_hp(weight, granularity=PerTensor() if shared else PerRow(), hp_value_lb=least)
    return Float8Tensor(
        made.qdata,
        made.scale.expand(weight.shape[0], 1).contiguous(),
        block_size=[1, weight.shape[1]],
        mm_config=Float8MMConfig(use_fast_accum=True),
        act_quant_kwargs=QuantizeTensorToFloat8Kwargs(granularity=PerRow(), hp_value_lb=least, kernel_preference=plain),
        kernel_preference=plain,
        dtype=weight.dtype,
    )


def _float8_only(weight: torch.Tensor, blocks: bool) -> torch.Tensor:
    """Return float8 weights to multiply with what there is, one scale per output or per block of 128 x 128."""
    from torchao.quantization import PerRow
    from torchao.quantization.granularity import PerBlock
    from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor

    granularity: Any = PerBlock((SIDE, SIDE)) if blocks else PerRow()  # the annotations leave blocks out
    return Float8Tensor.from_hp(weight, granularity=granularity, hp_value_lb=_least(weight))


def _int8(weight: torch.Tensor, shared: bool, dynamic: bool) -> torch.Tensor:
    """Return 8-bit integers, one scale per output or for all, to multiply with such if `dynamic`, else with what is."""
    from torchao.quantization import PerRow, PerTensor
    from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor, QuantizeTensorToInt8Kwargs

    from pure.transforms.quantize.exact_int8 import ExactInt8Tensor, kernel_is_exact

    rows = QuantizeTensorToInt8Kwargs(granularity=PerRow()) if dynamic else None
    kind = ExactInt8Tensor if dynamic and weight.device.type == "cpu" and not kernel_is_exact() else Int8Tensor
    return kind.from_hp(weight, granularity=PerTensor() if shared else PerRow(), act_quant_kwargs=rows)


def _int4(weight: torch.Tensor) -> torch.Tensor:
    """Return 4-bit integers, in a byte each, one scale per 32 inputs of an output, to multiply with what there is."""
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import IntxUnpackedToInt8Tensor

    group: Any = (1, GROUP)  # annotated as a tuple of one
    return IntxUnpackedToInt8Tensor.from_hp(weight, group, INT4)


KINDS: Mapping[str, WeightKind] = {
    "float8_per_row": WeightKind(make=partial(_float8, shared=False), dynamic="float8"),
    "float8_per_tensor": WeightKind(make=partial(_float8, shared=True), dynamic="float8"),
    "float8_per_block": WeightKind(make=partial(_float8_only, blocks=True), multiple=(SIDE, SIDE)),
    "float8_weight_only": WeightKind(make=partial(_float8_only, blocks=False)),
    "int8_per_row": WeightKind(make=partial(_int8, shared=False, dynamic=True), dynamic="int8"),
    "int8_per_tensor": WeightKind(make=partial(_int8, shared=True, dynamic=True), dynamic="int8"),
    "int8_weight_only": WeightKind(make=partial(_int8, shared=False, dynamic=False)),
    "int4_weight_only": WeightKind(make=_int4, multiple=(1, GROUP)),
}
"""Every kind by its name."""
