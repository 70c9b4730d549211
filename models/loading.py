"""From a checkpoint to a pipeline."""

import os
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from pure.models.checkpoint import describe
from pure.models.errors import CheckpointError
from pure.models.flux import flux
from pure.models.flux_parameters import parameter_shapes
from pure.models.hub import DESCRIPTION, EVERYTHING, locate
from pure.models.image import ImageDecoder
from pure.models.pipeline import Pipeline
from pure.models.text import TextEncoder
from pure.models.weights import Stored, check_weights, read_weights, survey

MODELS = ("text_encoder", "text_encoder_2", "vae")
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_pipeline(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> Pipeline:
    """Load a FLUX.1 checkpoint.

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
    stored, models = survey(folder / "transformer"), {name: survey(folder / name) for name in MODELS}
    check_weights(folder / "transformer", stored, parameter_shapes(found.transformer))
    dtypes = {name: dtype or _dtype(contents) for name, contents in models.items()}
    tokenizers = {name: _tokenizer(found.classes[name], folder / name) for name in ("tokenizer", "tokenizer_2")}
    parts = {
        name: _part(transformers, found.classes[name], folder / name, dtype=dtypes[name]).to(device)
        for name in ("text_encoder", "text_encoder_2")
    }
    vae = _part(diffusers, found.classes["vae"], folder / "vae", dtype=dtypes["vae"]).to(device)
    return Pipeline(
        denoiser=flux(found.transformer),
        params=read_weights(stored, dtype=dtype, device=device),
        solver=found.solver,
        encoder=TextEncoder(**parts, **tokenizers),
        decoder=ImageDecoder(vae),
    )


def _dtype(stored: dict[str, Stored]) -> torch.dtype:
    names = [tensor.dtype for tensor in stored.values()]
    return STORED_DTYPES[max(names, key=names.count)]


def _part(library: Any, name: str, folder: Path, **options: Any) -> Any:
    """Load a model of `library`, and refuse one that is not whole: it would be filled up with random numbers."""
    try:
        # On the way modules may be initialised at random, which is not to be seen outside.
        with torch.random.fork_rng(devices=[]):
            model, report = getattr(library, name).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {name}: {error}") from error
    wrong = [f"{kind} {sorted(map(str, report[kind]))}" for kind in ("missing_keys", "mismatched_keys") if report[kind]]
    if wrong:
        raise CheckpointError(f"the tensors in {folder} do not fit its config.json: {'; '.join(wrong)}")
    return model.eval()


def _tokenizer(name: str, folder: Path) -> Any:
    try:
        return getattr(transformers, name).from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {name}: {error}; is it complete?") from error
