"""State on disk: stop at any step, go on in another process to the same bits."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs
import torch
import torch.utils._pytree as pytree
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pure.checks import shown
from pure.origin import Origin
from pure.tree import leaves_with_paths, tensors_of

T = TypeVar("T")
ROOT = "(root)"


def save_state(state: Any, path: str | os.PathLike[str], origin: Origin | None = None) -> None:
    """Write the tensors of a tree to a safetensors file, replacing it in one step.

    Args:
        state: any pytree: a `State`, or a tuple of it and the solver's carry.
        path: the file to write.
        origin: what the state is of, from `pure.origin_of(denoiser, params, steps, step)`, so that it is loaded into
            nothing else; see `read_origin`.

    Raises:
        OSError: the file cannot be written; one that was there is left as it was.
        TypeError: the tree holds no tensor.
    """
    tensors = {
        name or ROOT: leaf.detach().clone(memory_format=torch.contiguous_format)
        for name, leaf in tensors_of(state).items()
    }
    if not tensors:
        raise TypeError(f"there is no tensor to save in {type(state).__name__}; pass a State, or a tuple of trees")
    path = _path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        about = {} if origin is None else {"origin": json.dumps(attrs.asdict(origin))}
        static = json.dumps(dict(_statics(state)))
        save_file(tensors, scratch, metadata={"format": "puredit state", "static": static, **about})
        os.replace(scratch, path)
    except SafetensorError as error:
        raise OSError(f"the state cannot be written to {path}: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def load_state(path: str | os.PathLike[str], like: T, origin: Origin | None = None) -> T:
    """Read a tree saved with `save_state` back into the structure of `like`.

    Args:
        path: the file.
        like: a tree built alike (from `init`, on the same plan and batch); it gives structure
            and devices, its values do not matter.
        origin: what it is loaded into; a state of another model, plan, schedule or step is refused, where the file
            says what it is of.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `path` is no path, or `like` holds no tensor.
        ValueError: the file does not fit; the message lists every difference.
    """
    tensors = {name or ROOT: leaf for name, leaf in tensors_of(like).items()}
    if not tensors:
        raise TypeError(f"like is a tree as init returned it, with the tensors to be read; got {shown(like)}")
    with _opened(path) as file:
        saved, fixed = _origin(file), json.loads((file.metadata() or {}).get("static", "{}"))
        stored = {name: file.get_tensor(name) for name in file.keys()}
    here = dict(_statics(like))
    problems = saved.differences(origin) if saved is not None and origin is not None else []
    problems += _differences(stored, tensors) + [
        f"{name} is {fixed[name]}, expected {value}" for name, value in here.items() if fixed.get(name, value) != value
    ]
    if problems:
        raise ValueError(f"{path} does not fit the state it is loaded into:\n  " + "\n  ".join(problems))
    # Copied: in a file tensors begin at any address, and matrix products round by how they are aligned.
    leaves = [
        stored[name or ROOT].to(leaf.device, copy=True) if isinstance(leaf, torch.Tensor) else leaf
        for name, leaf in leaves_with_paths(like)
    ]
    return pytree.tree_unflatten(leaves, pytree.tree_structure(like))


def read_origin(path: str | os.PathLike[str]) -> Origin | None:
    """Return what a saved state is of, with the number of steps that were taken; None where the file does not say.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `path` is no path.
        ValueError: the file is no saved state.
    """
    with _opened(path) as file:
        return _origin(file)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[safe_open]:
    """Open a saved state; see `read_origin` for what is raised where that cannot be read."""
    path = _path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no saved state at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a saved state: {error}") from error


def _origin(file: safe_open) -> Origin | None:
    metadata = file.metadata() or {}
    return Origin(**json.loads(metadata["origin"])) if "origin" in metadata else None


def _path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a state is saved to a path, got {shown(path)}; the order is save_state(state, path)")
    return Path(path)


def _statics(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield what a tree holds beside tensors: the static fields of its records, as text."""
    if isinstance(tree, tuple | list | dict):
        for key, node in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _statics(node, f"{path}[{key!r}]")
        return
    for name in getattr(type(tree), "__static_fields__", ()):
        yield f"{path}.{name}", repr(getattr(tree, name))
    for name in getattr(type(tree), "__tree_fields__", ()):
        yield from _statics(getattr(tree, name), f"{path}.{name}")


def _differences(stored: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    unknown = [f"{name} is not part of this plan's state" for name in stored.keys() - wanted.keys()]
    other = [
        f"{name} is {tuple(stored[name].shape)} {stored[name].dtype}, expected {tuple(leaf.shape)} {leaf.dtype}"
        for name, leaf in wanted.items()
        if name in stored and (stored[name].shape != leaf.shape or stored[name].dtype != leaf.dtype)
    ]
    return sorted(missing) + sorted(unknown) + sorted(other)
