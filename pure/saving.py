"""State on disk: stop at any step, go on in another process to the same bits."""

import os
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pure.tree import leaves_with_paths

T = TypeVar("T")
ROOT = "(root)"


def save_state(state: Any, path: str | os.PathLike[str]) -> None:
    """Write the tensors of a tree to a safetensors file, replacing it in one step.

    Args:
        state: any pytree: a `State`, or a tuple of it and the solver's carry.
        path: the file to write.

    Raises:
        OSError: the file cannot be written; one that was there is left as it was.
        TypeError: the tree holds no tensor.
    """
    tensors = {
        name or ROOT: leaf.detach().clone(memory_format=torch.contiguous_format)
        for name, leaf in leaves_with_paths(state)
        if isinstance(leaf, torch.Tensor)
    }
    if not tensors:
        raise TypeError(f"there is no tensor to save in {type(state).__name__}; pass a State, or a tuple of trees")
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, scratch, metadata={"format": "puredit state"})
        os.replace(scratch, path)
    except SafetensorError as error:
        raise OSError(f"the state cannot be written to {path}: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def load_state(path: str | os.PathLike[str], like: T) -> T:
    """Read a tree saved with `save_state` back into the structure of `like`.

    Args:
        path: the file.
        like: a tree built alike (from `init`, on the same plan and batch); it gives structure
            and devices, its values do not matter.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not fit; the message lists every difference.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no saved state at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    wanted = list(leaves_with_paths(like))
    problems = _differences(stored, {name or ROOT: leaf for name, leaf in wanted if isinstance(leaf, torch.Tensor)})
    if problems:
        raise ValueError(f"{path} does not fit the state it is loaded into:\n  " + "\n  ".join(problems))
    # Copied: in a file tensors begin at any address, and matrix products round by how they are aligned.
    leaves = [
        stored[n or ROOT].to(leaf.device, copy=True) if isinstance(leaf, torch.Tensor) else leaf for n, leaf in wanted
    ]
    return pytree.tree_unflatten(leaves, pytree.tree_structure(like))


def _differences(stored: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    unknown = [f"{name} is not part of this plan's state" for name in stored.keys() - wanted.keys()]
    other = [
        f"{name} is {tuple(stored[name].shape)} {stored[name].dtype}, expected {tuple(leaf.shape)} {leaf.dtype}"
        for name, leaf in wanted.items()
        if name in stored and (stored[name].shape != leaf.shape or stored[name].dtype != leaf.dtype)
    ]
    return sorted(missing) + sorted(unknown) + sorted(other)
