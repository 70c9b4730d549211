"""What the checkpoint says of itself, read before anything heavy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pure.configs import Facts
from pure.engine.errors import Misuse
from pure.engine.libraries import quiet_libraries
from pure.transforms import compiled

if TYPE_CHECKING:
    from pure.models import Picture, Pipeline
    from pure.models.family import Description
    from pure.models.pipeline import Model

Waiting = Callable[[str], contextlib.AbstractContextManager[object]]

__all__ = ["experts", "facts_of", "look", "pictures", "stack", "video"]


def look(model: str | None) -> Description:
    """Describe a checkpoint from its JSON files; None is the one that comes with the package.

    Raises:
        Misuse: it is not there, or not supported.
    """
    from pure.models import CheckpointError, embedded
    from pure.models.checkpoint.description import describe
    from pure.models.checkpoint.hub import DESCRIPTION, locate

    try:
        return describe(embedded() if model is None else locate(model, DESCRIPTION))
    except CheckpointError as error:
        raise Misuse(str(error)) from error


def video(found: Description) -> bool:
    """Whether the model makes videos."""
    return found.kind.task.endswith("video")


def experts(found: Description) -> int:
    """Return how many experts the model has."""
    return len(found.transformers)


def stack(found: Description) -> int:
    """Return the number of blocks of the denoiser."""
    return len(found.family.denoiser(found.transformer).blocks)


def facts_of(found: Description, steps: int | None, processes: int = 1, sequence: int | None = None) -> Facts:
    """Return what is known of a run before it starts; None steps are the checkpoint's own."""
    return Facts(
        processes=processes,
        sequence=sequence,
        device="cuda" if torch.cuda.is_available() else "cpu",
        steps=steps or found.defaults.steps,
        blocks=stack(found),
        experts=experts(found),
    )


def pictures(paths: Sequence[str], found: Description) -> tuple[Picture, ...]:
    """Open the input pictures; their notes name the file.

    Raises:
        Misuse: one cannot be read, or the model takes none or needs one.
    """
    wanted = found.kind.task in ("image-editing", "image-to-video")
    if paths and not (wanted or found.kind.pictures):
        raise Misuse(
            f"--image-path {' '.join(paths)}: a {found.kind.pipeline} takes no pictures (task: {found.kind.task}); "
            "leave it out"
        )
    if wanted and not paths:
        raise Misuse(f"a {found.kind.pipeline} does {found.kind.task} and needs a picture; give --image-path FILE")
    return tuple(_opened(path) for path in paths)


def _opened(path: str) -> Picture:
    from pure.models import PictureError, open_picture

    try:
        picture = open_picture(path)
    except (OSError, PictureError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise Misuse(f"--image-path {path} cannot be read: {reason}; give a local .png, .jpg or .webp") from error
    notes = tuple(attrs.evolve(note, text=f"--image-path {path}: {note.text}") for note in picture.notes)
    return attrs.evolve(picture, notes=notes)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def base_of(pipeline: Pipeline, compiling: bool) -> Model:
    """Return the pipeline's denoiser, compiled if that is asked for; neither guided nor cached."""
    from pure.experts import transformed

    return transformed(pipeline.denoiser, compiled()) if compiling else pipeline.denoiser


def open_pipeline(
    model: str | None, precision: str | None, waiting: Waiting = contextlib.nullcontext, variant: str | None = None
) -> Pipeline:
    """Load a checkpoint onto the device; None is the one that comes with the package.

    Args:
        model: folder or hub id.
        precision: of `DTYPES`; None: fp32 on a CPU, as stored elsewhere.
        waiting: a context that shows what is waited for.
        variant: of the files, as `load_pipeline` takes it.

    Raises:
        Misuse: it is missing, damaged, or not supported.
    """
    quiet_libraries()
    from pure.models import CheckpointError, embedded, load_pipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES[precision] if precision else torch.float32 if device == "cpu" else None
    try:
        with waiting("loading the checkpoint ..."):
            source = embedded() if model is None else model
            return load_pipeline(source, variant=variant, dtype=dtype, device=device)
    except CheckpointError as error:
        raise Misuse(str(error)) from error
