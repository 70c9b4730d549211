"""The description of a diffusers folder, checked before any weights are read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pure.checks import nearest
from pure.models.checkpoint.misfit import UNQUANTISED
from pure.models.checkpoint.reading import read_json
from pure.models.common.config import TransformerConfig
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, PipelineKind
from pure.models.registry import pipelines

# Files with the config of a component; the first that exists is read.
FILES = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
LIBRARIES = ("diffusers", "transformers")
# Components that read texts and pictures, and have no weights; not all of them have a config.
READERS = ("tokenizer", "processor", "image_processor", "feature_extractor")


def describe(folder: Path) -> Description:
    """Read and check the JSON files of a diffusers folder.

    Raises:
        CheckpointError: a file is missing, or something in it is not supported.
    """
    file = folder / "model_index.json"
    index = read_json(file)
    name = str(index.get("_class_name"))
    if name not in (known := pipelines()):
        raise CheckpointError(_unsupported(file, name, known))
    family, kind = known[name]
    entries = {component: _entry(index.get(component)) for component in (*kind.transformers, *kind.components)}
    _check_classes(file, kind, family.config, entries)
    present = [component for component, (_, cls) in entries.items() if cls != "None"]
    configs = {component: _config(folder / component, not component.startswith(READERS)) for component in present}
    for component, config in configs.items():
        _check_unquantised(folder / component, config)
    found = Description(
        folder=folder,
        family=family,
        kind=kind,
        index=index,
        classes={component: cls for component, (_, cls) in entries.items()},
        libraries={component: library for component, (library, _) in entries.items()},
        configs={**configs, "scheduler": read_json(folder / "scheduler" / "scheduler_config.json")},
        transformers={
            name: _transformer(folder / name, family, configs[name]) for name in kind.transformers if name in configs
        },
    )
    kind.check(found)
    _ = found.solver, found.defaults  # they raise what they cannot do
    try:
        _ = found.sizes
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / 'vae' / 'config.json'} does not say how it halves pictures: {error}"
        ) from error
    return found


def _transformer(folder: Path, family: Family, config: Mapping[str, Any]) -> TransformerConfig:
    try:
        return family.config.read(config)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None


def _unsupported(file: Path, name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    hint = f"; the nearest is {near}" if near else ""
    return (
        f"{file} describes a {name}; supported: {', '.join(known)}{hint}. Other diffusers pipelines are "
        "accelerated as they are: see pure.accelerate"
    )


def _entry(entry: Any) -> tuple[str, str]:
    """Return library and class of a component."""
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    return str(library), str(name)


def _check_classes(
    file: Path, kind: PipelineKind, config: type[TransformerConfig], entries: Mapping[str, tuple[str, str]]
) -> None:
    (first, *others), transformer = kind.transformers, config.transformer
    allowed = {first: (transformer,), **dict.fromkeys(others, (transformer, "None")), **kind.components}
    for component, (library, name) in entries.items():
        if name not in allowed[component]:
            raise CheckpointError(
                f"{file}: {component} is a {name}; supported: {', '.join(allowed[component]).replace('None', 'none')}"
            )
        libraries = (config.library,) if component in kind.transformers else LIBRARIES
        if name != "None" and library not in libraries:
            raise CheckpointError(f"{file}: {component} is from {library}; supported: {', '.join(libraries)}")


def _check_unquantised(folder: Path, config: Mapping[str, Any]) -> None:
    found = config.get("quantization_config")
    if found:
        method = found.get("quant_method") if isinstance(found, Mapping) else None
        raise CheckpointError(f"{folder / 'config.json'}: the weights are quantised ({method}); {UNQUANTISED}")


def _config(folder: Path, required: bool) -> Mapping[str, Any]:
    for name in FILES:
        if (folder / name).is_file():
            return read_json(folder / name)
    if required and not folder.is_dir():
        raise CheckpointError(f"the folder {folder} is missing")
    return read_json(folder / "config.json") if required else {}
