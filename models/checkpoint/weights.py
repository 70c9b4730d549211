"""Reading safetensors: which files, what is in them, and the tensors themselves."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open

from pure.models.errors import CheckpointError

DTYPES = ("F64", "F32", "F16", "BF16")
# The names diffusers and transformers give to weights; other variants are not looked for.
STEMS = ("diffusion_pytorch_model", "model")


@attrs.frozen
class Stored:
    """One tensor on disk."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_json(file: Path) -> dict[str, Any]:
    """Return the contents of a JSON file that holds an object.

    Raises:
        CheckpointError: there is no such file, or it is something else.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; a checkpoint is a folder as diffusers' save_pretrained writes it")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}; download it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} should hold an object and holds a {type(found).__name__}")
    return found


def survey(folder: Path) -> dict[str, Stored]:
    """Return what the safetensors files of a component hold, from their headers alone.

    Raises:
        CheckpointError: files are missing, pickled or damaged, or hold numbers we cannot use.
    """
    stored: dict[str, Stored] = {}
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    header = opened.get_slice(name)
                    stored[name] = Stored(file, tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or incomplete ({error}); download it again") from error
    # A lone integer is no weight: FLUX.2's VAE stores how many batches its normalisation has seen.
    wrong = sorted(f"{name} ({t.dtype})" for name, t in stored.items() if t.dtype not in DTYPES and t.shape)
    if wrong:
        raise CheckpointError(
            f"{folder} stores numbers as other than {', '.join(DTYPES)}: {', '.join(wrong)}; "
            "use the unquantised checkpoint"
        )
    return stored


def _files(folder: Path) -> list[Path]:
    for stem in STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _shards(index)
        if (single := folder / f"{stem}.safetensors").is_file():
            return [single]
    if not folder.is_dir():
        raise CheckpointError(f"the folder {folder} is missing")
    pickles = sorted(folder.glob("*.bin"))
    if pickles:
        raise CheckpointError(_refusal(pickles[0]))
    others = sorted(path.name for path in folder.iterdir())
    raise CheckpointError(
        f"{folder} has none of {', '.join(f'{stem}.safetensors' for stem in STEMS)}; it holds {others or 'nothing'}"
    )


def _shards(index: Path) -> list[Path]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index} has no weight_map; download it again")
    files = [index.parent / name for name in sorted(set(found.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{index} names {', '.join(missing)}, missing in {index.parent}; download all shards")
    return files


def _refusal(pickle: Path) -> str:
    pipeline = pickle.parent.parent
    code = (
        "from diffusers import DiffusionPipeline; "
        f"DiffusionPipeline.from_pretrained({os.fspath(pipeline)!r}).save_pretrained({f'{pipeline}-safetensors'!r})"
    )
    return f'{pickle} is a pickle, which can run any code when it is read; convert it once:\n  python -c "{code}"'


def check_weights(folder: Path, stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare what is stored with what the config asks for.

    Raises:
        CheckpointError: tensors are missing, unexpected or mis-shaped; all are listed.
    """
    missing = [f"{name} {shapes[name]}" for name in shapes.keys() - stored.keys()]
    unexpected = [f"{name} {stored[name].shape}" for name in stored.keys() - shapes.keys()]
    other = [
        f"{name} is {stored[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in stored and stored[name].shape != shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    lines = [f"  {len(names)} {what}: {', '.join(sorted(names))}" for what, names in groups.items() if names]
    if lines:
        raise CheckpointError(f"the tensors in {folder} do not fit its config.json:\n" + "\n".join(lines))


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
