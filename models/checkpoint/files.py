"""Which files hold the weights of a component, and of which variant."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import attrs

from pure.models.checkpoint.reading import read_json, shortened
from pure.models.errors import CheckpointError

__all__ = ["Files", "shown", "variants_of", "weight_files"]

STEMS = ("diffusion_pytorch_model", "model")  # as diffusers and transformers call them
SHARD = r"-\d+-of-\d+"
NAME = re.compile(
    rf"(?:{'|'.join(STEMS)})(?:\.(?![\w-]*{SHARD}\.)(?P<one>[\w-]+))?\.safetensors(?:(?P<index>\.index)(?:\.(?P<all>[\w-]+))?\.json)?"
)


@attrs.frozen
class Files:
    """The files of one component.

    Attributes:
        paths: of its weights.
        variant: "fp16", "bf16", ...; None: the files without one.
    """

    paths: tuple[Path, ...]
    variant: str | None = None


def weight_files(folder: Path, variant: str | None = None) -> Files:
    """Choose the safetensors files of a component.

    Args:
        folder: of the component.
        variant: the one that is wanted; a component without it has its files without a variant
            read, as in diffusers. None: the files without a variant, or the only variant there is.

    Raises:
        CheckpointError: there are none, several variants to choose from, or not the one that is wanted.
    """
    if not folder.is_dir():
        raise CheckpointError(f"the folder {folder} is missing")
    found = _variants(folder)
    if not found:
        raise CheckpointError(_nothing(folder))
    names = shown(found)
    if variant is not None and not {variant, None} & found.keys():
        raise CheckpointError(f"{folder} has no weights of the variant {variant!r}; it has {names}")
    if variant is None and None not in found and len(found) > 1:
        raise CheckpointError(f"{folder} has the variants {names}; choose one with variant= (--variant)")
    chosen = variant if variant in found else None if None in found else next(iter(found))
    file = found[chosen]
    return Files(_shards(file) if file.suffix == ".json" else (file,), chosen)


def variants_of(folder: Path) -> tuple[str | None, ...]:
    """Return the variants whose weights a component has; None stands for files without one."""
    return tuple(_variants(folder)) if folder.is_dir() else ()


def shown(variants: Iterable[str | None]) -> str:
    """Return variants as a sentence names them.

    >>> shown(["fp16", None])
    'fp16 and files without a variant'
    """
    named = sorted(variant for variant in variants if variant is not None)
    return " and ".join([*named, *(["files without a variant"] if None in variants else [])])


def _variants(folder: Path) -> dict[str | None, Path]:
    """Return the single file or the index of every variant; an index wins, as in diffusers."""
    found: dict[str | None, Path] = {}
    for stem in STEMS:
        singles, indices = {}, {}
        for file in sorted(folder.glob(f"{stem}.*")):
            if (match := NAME.fullmatch(file.name)) and not (match["one"] and match["index"]):
                (indices if match["index"] else singles)[match["one"] or match["all"]] = file
        found = {**singles, **indices, **found}
    return found


def _shards(index: Path) -> tuple[Path, ...]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{index} has no weight_map; download it again")
    if outside := sorted(name for name in set(found.values()) if Path(name).name != name):
        raise CheckpointError(f"{index} names {shortened(outside)}, which is not beside it; download it again")
    files = [index.parent / name for name in sorted(set(found.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{index} names {shortened(missing)}, missing in {index.parent}; download all shards")
    return tuple(files)


def _nothing(folder: Path) -> str:
    """Return the reason why a folder has no weights that can be read."""
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if name.endswith(".bin"):
            code = f"from pure.models import convert_pickles; convert_pickles({str(folder.parent.absolute())!r})"
            return (
                f"{folder / name} is a pickle, which can run any code when it is read; convert it once, which runs "
                f"none:\n  python -c {shlex.quote(code)}"
            )
        if name.endswith(".gguf"):
            return f"{folder / name} is a GGUF file, whose weights are quantised; use the checkpoint in safetensors"
    if shards := [name for name in names if re.search(rf"{SHARD}\.(?:[\w-]+\.)?safetensors$", name)]:
        return f"{folder} holds shards ({shortened(shards)}) without their .safetensors.index.json; download it too"
    wanted = " or ".join(f"{stem}.safetensors" for stem in STEMS)
    return f"{folder} has no {wanted}, with a variant or without; it holds {shortened(names) or 'nothing'}"
