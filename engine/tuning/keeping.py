"""Recordings on the disk: one file a prompt, under a name made of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pure.engine.tuning.recording import Observe, Recorded, record
from pure.engine.tuning.rerun import Case, TunedSpan
from pure.engine.writing import write_whole

__all__ = ["recorded"]

LATENTS, GRAM = "latents", "gram."


def recorded(
    case: Case,
    seeds: Sequence[int],
    span: TunedSpan,
    facts: Mapping[str, Any],
    folder: Path | None,
    observe: Observe | None = None,
) -> tuple[Recorded, ...]:
    """Return what is recorded of a case's prompts: from the folder, or by running them and filling it.

    Args:
        case: some prompts.
        seeds: of their noise.
        span: the blocks whose residual may be skipped.
        facts: all else that a recording depends on, as plain values.
        folder: of recordings; None: they are not kept.
        observe: see `record`.

    Raises:
        Failure: the folder cannot be written.
    """
    asked = list(zip(case.request.prompts, seeds, strict=True))
    paths = [None if folder is None else folder / _name(prompt, seed, span, facts) for prompt, seed in asked]
    found = [None if path is None else _read(path, *pair) for path, pair in zip(paths, asked, strict=True)]
    if all(one is not None for one in found):
        return tuple(one for one in found if one is not None)
    made = record(case, seeds, span, observe)
    for path, one in zip(paths, made, strict=True):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {f"{GRAM}{name}": torch.from_numpy(gram) for name, gram in one.grams.items()}
            write_whole(path, save({LATENTS: one.latents.contiguous(), **tensors}))
    return made


def _name(prompt: str, seed: int, span: TunedSpan, facts: Mapping[str, Any]) -> str:
    whole = json.dumps([prompt, seed, span.front, span.back, dict(facts)], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:24] + ".safetensors"


def _read(path: Path, prompt: str, seed: int) -> Recorded | None:
    """Return a recording; None where there is none, or what there is was cut short."""
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    grams: dict[str, np.ndarray] = {
        name.removeprefix(GRAM): tensor.numpy() for name, tensor in tensors.items() if name.startswith(GRAM)
    }
    return Recorded(prompt=prompt, seed=seed, grams=grams, latents=tensors[LATENTS])
