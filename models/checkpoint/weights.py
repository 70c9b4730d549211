"""Reading safetensors: which files, what is in them, and the tensors themselves, whole or a rank's part of each.

A file is 8 bytes with the length of its header, the header (JSON: type, shape and place of every tensor), and
the numbers. Whole tensors are mapped by the safetensors library. Of parts only the bytes that hold them are read: a
mapping would count all of the file as memory of this process.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import torch
from safetensors import SafetensorError, safe_open

from pure.models.checkpoint.files import weight_files
from pure.models.errors import CheckpointError
from pure.sharding import Cut

__all__ = ["DTYPES", "Cuts", "Stored", "read_weights", "survey"]

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of numbers that weights are stored in, by safetensors' names."""

LONGEST = 100_000_000
"""Bytes of a header, at most, as in safetensors."""

Cuts = Callable[[str], Cut | None]
"""What is read of the tensor of a name; None: all of it."""


@attrs.frozen
class Stored:
    """One tensor on disk.

    Attributes:
        file: that holds it.
        shape: of it.
        dtype: by safetensors' names; see `DTYPES`.
        begin: where its first byte is in the file.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    begin: int = 0


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
            stored |= _tensors(file)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or incomplete ({error}); download it again") from error
    return stored


def _tensors(file: Path) -> dict[str, Stored]:
    """Return what one file holds.

    Raises:
        ValueError: it is no safetensors file, or only a part of one.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, LONGEST):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    begin = 8 + length
    found = {name: (entry, *entry["data_offsets"]) for name, entry in header.items()}
    if not all(type(place) is int for _, start, end in found.values() for place in (start, end)):
        raise ValueError("places of its tensors are no numbers")
    ends = sorted((start, end) for _, start, end in found.values())
    if any(end != start for (_, end), (start, _) in pairwise([(0, 0), *ends, (size - begin, 0)])):
        raise ValueError(f"its tensors do not fill {size - begin} bytes")
    return {
        name: Stored(file, _shape(name, entry, end - start), str(entry["dtype"]), begin + start)
        for name, (entry, start, end) in found.items()
    }


def _shape(name: str, entry: Mapping[str, Any], size: int) -> tuple[int, ...]:
    shape = tuple(entry["shape"])
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{name} has the shape {shape}")
    if (kind := DTYPES.get(entry["dtype"])) is not None and math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"{name} is {shape} of {entry['dtype']}, in {size} bytes")
    return shape


def read_weights(
    stored: Mapping[str, Stored],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    keep_fp32: tuple[str, ...] = (),
    cuts: Cuts | None = None,
) -> dict[str, torch.Tensor]:
    """Read tensors one by one, so that no second copy of the whole is ever in memory.

    With `cuts` there is never more than what is returned and one tensor.

    Args:
        stored: what `survey` found.
        dtype: of the result; None keeps what is stored.
        device: of the result.
        keep_fp32: parts of the names of tensors that are fp32 whatever `dtype` is, if that is given.
        cuts: what is read of each tensor; None: all of all.

    Raises:
        CheckpointError: a file has become unreadable.
        ValueError: a tensor has another shape than what is read of it.
    """
    params: dict[str, torch.Tensor] = {}
    for file in dict.fromkeys(tensor.file for tensor in stored.values()):
        there = {name: tensor for name, tensor in stored.items() if tensor.file == file}
        try:
            with _reader(file, cuts) as read:
                for name, tensor in there.items():
                    kept = dtype is not None and any(part in name for part in keep_fp32)
                    params[name] = read(name, tensor).to(device=device, dtype=torch.float32 if kept else dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); download it again") from error
    return params


@contextlib.contextmanager
def _reader(file: Path, cuts: Cuts | None) -> Iterator[Callable[[str, Stored], torch.Tensor]]:
    """Return what reads the tensors of a file, or the parts of them, by name."""
    if cuts is None:
        with safe_open(file, framework="pt") as mapped:
            yield lambda name, stored: mapped.get_tensor(name)
    else:
        with file.open("rb", buffering=0) as opened:
            yield lambda name, stored: _part(opened, name, stored, cuts(name))


def _part(opened: BinaryIO, name: str, stored: Stored, cut: Cut | None) -> torch.Tensor:
    """Read what a cut takes of a tensor: runs of rows as they are; of columns, all of it is read first."""
    if cut is not None:
        cut.check(name, stored.shape)
        if cut.dim == 0:
            return _rows(opened, stored, cut.runs)
    whole = _rows(opened, stored, ((0, stored.shape[0] if stored.shape else 1),))
    return whole if cut is None else cut.of(whole)


def _rows(opened: BinaryIO, stored: Stored, runs: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Return runs of rows, put together; of a number without dimensions that number."""
    dtype, below = DTYPES[stored.dtype], stored.shape[1:]
    count = sum(end - begin for begin, end in runs)
    row = math.prod(below) * dtype.itemsize
    found = torch.empty((count, *below) if stored.shape else (), dtype=dtype)
    room, filled = memoryview(found.reshape(-1).view(torch.uint8).numpy()), 0  # type: ignore[arg-type]
    for begin, end in runs:
        opened.seek(stored.begin + begin * row)
        until = filled + (end - begin) * row
        while filled < until:
            if not (read := opened.readinto(room[filled:until])):  # type: ignore[attr-defined]
                raise OSError("it has become shorter")
            filled += read
    return found
