"""Models of the law suite in other numbers: half precision, quantised weights, another solver."""

from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

import pure
from pure.testing.situation import Model
from pure.testing.toys import STREAMS
from pure.transforms.quantize.quantize import Quantization, quantize
from tests.support.flux import FLUX_DEV
from tests.support.wan import WAN_EXPERTS, WAN_T2V


def _narrow(model: Model, name: str, dtype: torch.dtype) -> Model:
    def narrow(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    return attrs.evolve(
        model,
        name=name,
        params={name: narrow(tensor) for name, tensor in model.params.items()},
        conditioning=lambda seeds: pytree.tree_map_only(torch.Tensor, narrow, model.conditioning(seeds)),
        latents=lambda seeds: narrow(model.latents(seeds)),
        rounding=8 * torch.finfo(dtype).eps,  # four blocks, two roundings each
    )


def _quantised(model: Model, kind: str, rounding: float = 0.0) -> Model:
    params: Any = quantize(model.params, model.denoiser, Quantization(kind=kind))
    return attrs.evolve(model, name=f"{model}-{kind}", params=params, rounding=rounding)


MODELS = (
    attrs.evolve(STREAMS, name="streams-unipc", solver=pure.UniPC(pure.Schedule(shift=3.0, spacing="whole", unit=1))),
    attrs.evolve(WAN_T2V, name="wan-t2v-unipc", solver=pure.UniPC(pure.Schedule(shift=5.0, spacing="whole", unit=1))),
    _narrow(STREAMS, "streams-bf16", torch.bfloat16),
    _narrow(FLUX_DEV, "flux-dev-fp16", torch.float16),
    _quantised(FLUX_DEV, "int8_weight_only"),
    _quantised(WAN_EXPERTS, "float8_per_row", rounding=2.0**-4),  # activations of 3 bits
)
