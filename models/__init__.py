"""Model families as pure functions: one family per file, with its parallel plan."""

from pure.models.errors import CheckpointError
from pure.models.hub import embedded
from pure.models.loading import load_pipeline
from pure.models.pipeline import Generation, Pipeline
from pure.models.quantization import Layer, Quantization, nbytes, quantize, survey
from pure.models.request import Defaults, Options, Request

__all__ = [
    "CheckpointError",
    "Defaults",
    "Generation",
    "Layer",
    "Options",
    "Pipeline",
    "Quantization",
    "Request",
    "embedded",
    "load_pipeline",
    "nbytes",
    "quantize",
    "survey",
]
