"""Text encoders of which a process reads only its part.

They are models of transformers, which reads them whole; here the model is built without numbers, and its
parameters are read by `read_weights`, from the files of the checkpoint.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pure.models.checkpoint.weights import Stored, read_weights
from pure.models.common.encoder_sharding import encoder_sharding
from pure.sharding import group_size

__all__ = ["read_part"]

LAYOUTS: tuple[Mapping[str, str], ...] = (
    {},
    {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
    {"visual.": "model.visual.", "model.": "model.language_model."},
)
"""What names in files begin with, and what these parameters' names begin with today: as they are; models of several
modalities as they were saved at first, and are by transformers to this day; Qwen2.5-VL likewise."""


def read_part(
    cls: Any,
    folder: Path,
    stored: Mapping[str, Stored],
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    share: tuple[int, int],
) -> torch.nn.Module | None:
    """Return a text encoder with a rank's part of its parameters, as `tensor_parallel_module` takes it.

    Args:
        cls: the class of transformers.
        folder: with its config.
        stored: what its files hold.
        dtype: of all parameters but those that the class keeps in fp32.
        device: of the result.
        share: the rank, and how many share the encoder.

    Returns:
        The encoder; None where it has to be read whole: it is not split, or its files name tensors in another way
        than those of `LAYOUTS`.
    """
    rank, ranks = share
    if ranks == 1:
        return None
    with torch.random.fork_rng(devices=[]), _Unfilled():
        encoder = cls(cls.config_class.from_pretrained(folder, local_files_only=True))
    params, sharding = dict(encoder.named_parameters()), encoder_sharding(encoder)
    found = _found(stored, params)
    filled = not any(buffer.is_meta for buffer in encoder.buffers())
    size = 1 if sharding is None else group_size(ranks, sharding.heads)
    if sharding is None or size == 1 or found is None or not filled:
        return None
    read = read_weights(
        found,
        dtype=dtype,
        device=device,
        keep_fp32=_kept(encoder, dtype),
        cuts=lambda name: sharding.cut(name, rank % size, size),
    )
    _fill(encoder, {id(params[name]): torch.nn.Parameter(part, requires_grad=False) for name, part in read.items()})
    return encoder.to(device).eval()


def _found(stored: Mapping[str, Stored], params: Mapping[str, torch.Tensor]) -> dict[str, Stored] | None:
    """Return what is stored of each parameter; None where something is missing, or has another shape."""
    for layout in LAYOUTS:
        named = {_renamed(name, layout): tensor for name, tensor in stored.items()}
        if all(name in named and named[name].shape == tuple(each.shape) for name, each in params.items()):
            return {name: named[name] for name in params}
    return None


def _renamed(name: str, layout: Mapping[str, str]) -> str:
    old = next((prefix for prefix in layout if name.startswith(prefix)), "")
    return layout.get(old, "") + name.removeprefix(old)


class _Unfilled(TorchFunctionMode):
    """Weights are made on the meta device, which has no memory; what is computed, such as tables, is as ever."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **more})


def _kept(encoder: Any, dtype: torch.dtype) -> tuple[str, ...]:
    """Return what stands in the names of parameters that are fp32 whatever the type of the others."""
    kept = set(encoder._keep_in_fp32_modules_strict or ()) if dtype in (torch.float16, torch.bfloat16) else set()
    kept |= set(encoder._keep_in_fp32_modules or ()) if dtype is torch.float16 else set()
    return tuple(f".{name}." for name in kept)


def _fill(encoder: torch.nn.Module, parts: Mapping[int, torch.nn.Parameter]) -> None:
    """Put parameters in the place of others, by the identity of these: tied ones stay tied."""
    for module in encoder.modules():
        for name, parameter in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            module.register_parameter(name, parts[id(parameter)])
