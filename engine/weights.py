"""What a process holds of a checkpoint: sharing the modules beside the denoiser, and counting bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pure.engine.quantizing import Say
from pure.experts import Experts, denoisers_of
from pure.models.components import text_encoders, with_autoencoder, with_text_encoders
from pure.sharding import Sharding, group_size

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from pure.models import Pipeline

__all__ = ["ComponentWeights", "described", "share_modules", "weigh", "weigh_whole"]


@attrs.frozen
class ComponentWeights:
    """Bytes of the weights of a component.

    Attributes:
        name: of the component.
        held: of this process, split and quantised.
        loaded: of the whole component, as it was loaded.
    """

    name: str
    held: int
    loaded: int


def weigh(pipeline: Pipeline) -> dict[str, int]:
    """Return the bytes of the weights of each component that this process holds."""
    from pure.transforms import nbytes

    modules = {**text_encoders(pipeline), "vae": pipeline.codec.vae}
    found = {name: nbytes(dict(module.named_parameters())) for name, module in modules.items()}
    return {"transformer": nbytes(pipeline.params), **found}


def weigh_whole(pipeline: Pipeline) -> dict[str, int]:
    """Return the bytes of each component as the checkpoint has it, of a pipeline of which only parts were read."""
    from pure.models import encoder_sharding

    denoiser, params, encoders = pipeline.denoiser, pipeline.params, text_encoders(pipeline)
    of = params if isinstance(denoiser, Experts) else {"": params}
    return {
        **weigh(pipeline),
        "transformer": sum(_whole(of[name], each.sharding) for name, each in denoisers_of(denoiser).items()),
        **{name: _whole(dict(each.named_parameters()), encoder_sharding(each)) for name, each in encoders.items()},
    }


def _whole(params: Mapping[str, torch.Tensor], sharding: Sharding | None) -> int:
    """Return the bytes of parameters together with the parts of them that other ranks have."""
    cuts = {name: None if sharding is None else sharding.cut(name, 0, 1) for name in params}
    return sum(
        part.nbytes if (cut := cuts[name]) is None else math.prod(cut.uncut(tuple(part.shape))) * part.element_size()
        for name, part in params.items()
    )


def described(weights: Sequence[ComponentWeights]) -> str:
    """Return what a process holds of each component, and of all.

    >>> described([ComponentWeights("transformer", 6_000_000, 12_000_000), ComponentWeights("vae", 500_000, 500_000)])
    'transformer 6.0 of 12.0 MB, vae 0.5 MB; 6.5 of 12.5 MB'
    """
    whole = ComponentWeights("", sum(each.held for each in weights), sum(each.loaded for each in weights))
    return f"{', '.join(map(_one, weights))}; {_one(whole).strip()}"


def _one(weights: ComponentWeights) -> str:
    held, loaded = (f"{size / 1e6:.1f}" for size in (weights.held, weights.loaded))
    return f"{weights.name} {held} MB" if held == loaded else f"{weights.name} {held} of {loaded} MB"


def share_modules(pipeline: Pipeline, names: Sequence[str], mesh: DeviceMesh, say: Say) -> Pipeline:
    """Return this rank's share of the modules beside the denoiser.

    Args:
        pipeline: on every rank of the mesh.
        names: "text_encoder" for the weights of the text encoders, "vae" for the rows of encoded and decoded pictures.
        mesh: of all processes.
        say: prints a note on what stays whole.
    """
    if "text_encoder" in names:
        pipeline = _share_encoders(pipeline, mesh, say)
    if "vae" in names:
        pipeline = _share_autoencoder(pipeline, mesh, say)
    return pipeline


def _share_autoencoder(pipeline: Pipeline, mesh: DeviceMesh, say: Say) -> Pipeline:
    from pure.distributed.row_parallel import row_parallel

    try:
        return with_autoencoder(pipeline, row_parallel(pipeline.codec.vae, mesh))
    except ValueError as error:
        say(f"extra_parallel_modules: vae has no effect: {error}", "note")
        return pipeline


def _share_encoders(pipeline: Pipeline, mesh: DeviceMesh, say: Say) -> Pipeline:
    from pure.distributed.mesh import companions
    from pure.distributed.tensor_parallel_module import tensor_parallel_module
    from pure.models import encoder_sharding

    parts = {}
    for name, encoder in text_encoders(pipeline).items():
        sharding, kind = encoder_sharding(encoder), type(encoder).__name__
        if sharding is None:
            say(f"extra_parallel_modules: {name} stays whole in every process, as a {kind} is not split", "note")
            continue
        parts[name] = tensor_parallel_module(encoder, sharding, mesh)
        if (size := group_size(companions(mesh), sharding.heads)) < companions(mesh):
            why = f"which its {sharding.heads} heads of keys allow"
            say(f"extra_parallel_modules: {name} is split over groups of {size} processes, {why}", "note")
    return with_text_encoders(pipeline, parts)
