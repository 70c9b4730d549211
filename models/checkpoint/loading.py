"""From a checkpoint to a pipeline."""

import importlib
import os
from typing import Any

import torch

from pure.models.checkpoint.description import describe
from pure.models.checkpoint.hub import DESCRIPTION, EVERYTHING, locate
from pure.models.checkpoint.weights import Stored, check_weights, read_weights, survey
from pure.models.common.config import parameter_shapes
from pure.models.errors import CheckpointError
from pure.models.family import Description, Parts
from pure.models.pipeline import Pipeline

READERS = ("tokenizer", "processor", "image_processor", "feature_extractor")
# Processors of texts and pictures of which only the tokenizer is read; the rest would need torchvision.
TOKENIZER_OF = {"PixtralProcessor": "AutoTokenizer"}
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_pipeline(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> Pipeline:
    """Load a checkpoint of any family in `pure.models.registry`.

    The transformer's tensors go straight into a dict; tokenizers, text encoders and VAE are
    those of transformers and diffusers. Everything is checked before anything is loaded.

    Args:
        source: a folder as diffusers' `save_pretrained` writes it, or a hub id.
        dtype: of all parts; None keeps what is stored, of the VAE and the encoders each the type of most tensors.
        device: of all parts.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or not supported.

    >>> from pure.models import embedded
    >>> pipeline = load_pipeline(embedded())
    >>> pipeline.generate("a red apple", steps=2, max_sequence_length=16).pixels.shape
    torch.Size([1, 3, 64, 64])
    """
    describe(locate(source, DESCRIPTION))  # before gigabytes are downloaded
    folder = locate(source, EVERYTHING)
    found = describe(folder)
    family = found.family
    weights = {name: _read(survey(folder / name), family.unread) for name in found.transformers}
    for name, stored in weights.items():
        check_weights(folder / name, stored, parameter_shapes(found.transformers[name]))
    present = [name for name in found.kind.components if found.classes[name] != "None"]
    contents = {name: survey(folder / name) for name in present if not _reads(name)}
    components = {
        name: _reader(found, name) if _reads(name) else _model(found, name, dtype or _dtype(contents[name])).to(device)
        for name in present
    }
    return found.kind.build(
        Parts(
            found=found,
            params={
                name: read_weights(stored, dtype=dtype, device=device, keep_fp32=family.keep_fp32)
                for name, stored in weights.items()
            },
            components={**dict.fromkeys(found.kind.components), **components},
        )
    )


def _read(stored: dict[str, Stored], unread: tuple[str, ...]) -> dict[str, Stored]:
    """Leave out what no model reads."""
    return {name: tensor for name, tensor in stored.items() if not any(part in name for part in unread)}


def _reads(component: str) -> bool:
    """Whether a component reads texts and pictures, and has no weights."""
    return component.startswith(READERS)


def _dtype(stored: dict[str, Stored]) -> torch.dtype:
    names = [tensor.dtype for tensor in stored.values()]
    return STORED_DTYPES[max(names, key=names.count)]


def _model(found: Description, component: str, dtype: torch.dtype) -> Any:
    """Load a model of a library, and refuse one that is not whole: it would be filled up with random numbers."""
    folder, name = found.folder / component, found.classes[component]
    library = importlib.import_module(found.libraries[component])
    try:
        # On the way modules may be initialised at random, which is not to be seen outside.
        with torch.random.fork_rng(devices=[]):
            model, report = getattr(library, name).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=dtype
            )
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {name}: {error}") from error
    wrong = [f"{kind} {sorted(map(str, report[kind]))}" for kind in ("missing_keys", "mismatched_keys") if report[kind]]
    if wrong:
        raise CheckpointError(f"the tensors in {folder} do not fit its config.json: {'; '.join(wrong)}")
    return model.eval()


def _reader(found: Description, component: str) -> Any:
    """Load a tokenizer or a processor."""
    folder, name = found.folder / component, found.classes[component]
    name = TOKENIZER_OF.get(name, name)
    library = importlib.import_module(found.libraries[component])
    try:
        return getattr(library, name).from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {name}: {error}; is it complete?") from error
