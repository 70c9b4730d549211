"""From pickles to safetensors, without running the code that a pickle may hold."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pure.checks import check_argument
from pure.models.checkpoint.files import variants_of
from pure.models.checkpoint.reading import read_json
from pure.models.errors import CheckpointError

__all__ = ["convert_pickles"]


def convert_pickles(checkpoint: str | os.PathLike[str]) -> list[Path]:
    """Write the weights that a checkpoint has as pickles beside them as safetensors.

    A component that has safetensors already is left as it is. Nothing of a pickle but tensors is
    read (`weights_only`), one shard at a time.

    Args:
        checkpoint: the folder of a pipeline, or of one component.

    Returns:
        The files that were written.

    Raises:
        CheckpointError: there is no pickle, or one holds anything but tensors.
        TypeError: this is no path.
    """
    check_argument(checkpoint, (str, os.PathLike), "a checkpoint is the path of its folder")
    folder = Path(checkpoint)
    folders = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    pickles = [file for each in folders if not variants_of(each) for file in sorted(each.glob("*.bin*"))]
    written = [_convert(file) for file in pickles if file.suffix in (".bin", ".json")]
    if not written:
        raise CheckpointError(f"{folder} has no component whose weights are pickles (.bin) only")
    return written


def _convert(file: Path) -> Path:
    target = file.with_name(_renamed(file.name))
    if file.suffix == ".json":
        index = read_json(file)
        weights = {name: _renamed(shard) for name, shard in index.get("weight_map", {}).items()}
        target.write_text(json.dumps({**index, "weight_map": weights}, indent=2))
    else:
        # Tied weights share memory, which safetensors cannot store.
        tensors = {name: tensor.contiguous().clone() for name, tensor in _tensors(file).items()}
        save_file(tensors, target, metadata={"format": "pt"})
    return target


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file} holds more than tensors, or is damaged: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise CheckpointError(f"{file} is no mapping of names to tensors")
    return found


def _renamed(name: str) -> str:
    """Return the name of the safetensors file: transformers calls its pickles `pytorch_model`, and not `model`.

    >>> _renamed("pytorch_model.bin.index.json"), _renamed("diffusion_pytorch_model.fp16.bin")
    ('model.safetensors.index.json', 'diffusion_pytorch_model.fp16.safetensors')
    """
    stem = "model" + name.removeprefix("pytorch_model") if name.startswith("pytorch_model") else name
    return stem.replace(".bin", ".safetensors")
