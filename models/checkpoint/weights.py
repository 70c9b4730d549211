"""Reading safetensors: which files, what is in them, and the tensors themselves."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from safetensors import SafetensorError, safe_open

from pure.models.checkpoint.files import weight_files
from pure.models.errors import CheckpointError

__all__ = ["DTYPES", "Stored", "read_weights", "survey"]

DTYPES = ("F64", "F32", "F16", "BF16")
"""Types of numbers that weights are stored in, by safetensors' names."""


@attrs.frozen
class Stored:
    """One tensor on disk."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def survey(folder: Path, variant: str | None = None) -> dict[str, Stored]:
    """Return what the safetensors files of a component hold, from their headers alone.

    Args:
        folder: of the component.
        variant: as `weight_files` takes it.

    Raises:
        CheckpointError: files are missing, pickled or damaged.
    """
    stored: dict[str, Stored] = {}
    for file in weight_files(folder, variant).paths:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    header = opened.get_slice(name)
                    stored[name] = Stored(file, tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or incomplete ({error}); download it again") from error
    return stored


def read_weights(
    stored: Mapping[str, Stored],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    keep_fp32: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """Read tensors one by one, so that no second copy of the whole is ever in memory.

    Args:
        stored: what `survey` found.
        dtype: of the result; None keeps what is stored.
        device: of the result.
        keep_fp32: parts of the names of tensors that are fp32 whatever `dtype` is, if that is given.

    Raises:
        CheckpointError: a file has become unreadable.
    """
    params: dict[str, torch.Tensor] = {}
    for file in dict.fromkeys(tensor.file for tensor in stored.values()):
        try:
            with safe_open(file, framework="pt") as opened:
                for name, tensor in stored.items():
                    if tensor.file == file:
                        kept = dtype is not None and any(part in name for part in keep_fp32)
                        wanted = torch.float32 if kept else dtype
                        params[name] = opened.get_tensor(name).to(device=device, dtype=wanted)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); download it again") from error
    return params
