"""The modules of a pipeline beside its denoiser, by the names of its checkpoint's folders."""

from collections.abc import Mapping

import attrs
import torch

from pure.models.pipeline import Pipeline

__all__ = ["text_encoders", "with_autoencoder", "with_text_encoders"]


def text_encoders(pipeline: Pipeline) -> dict[str, torch.nn.Module]:
    """Return the text encoders: `text_encoder`, and `text_encoder_2` where there is one."""
    fields = attrs.fields_dict(type(pipeline.reader))
    return {name: getattr(pipeline.reader, name) for name in fields if name.startswith("text_encoder")}


def with_text_encoders(pipeline: Pipeline, encoders: Mapping[str, torch.nn.Module]) -> Pipeline:
    """Return the pipeline with other text encoders in place of those of the same names."""
    return attrs.evolve(pipeline, reader=attrs.evolve(pipeline.reader, **encoders))


def with_autoencoder(pipeline: Pipeline, vae: torch.nn.Module) -> Pipeline:
    """Return the pipeline with another autoencoder."""
    return attrs.evolve(pipeline, codec=attrs.evolve(pipeline.codec, vae=vae))
