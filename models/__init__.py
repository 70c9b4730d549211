"""Model families as pure functions: one family per folder, with its parallel plan."""

import pure.overwritten  # noqa: F401  (says so where another package has replaced this one)
from pure.models.checkpoint.convert import convert_pickles
from pure.models.checkpoint.hub import embedded
from pure.models.checkpoint.loading import load_pipeline
from pure.models.common.encoder_sharding import encoder_sharding
from pure.models.common.pictures import Picture, PictureError, open_picture
from pure.models.errors import CheckpointError, NotFiniteError
from pure.models.generation import Generation
from pure.models.pipeline import Pipeline
from pure.models.registry import register
from pure.models.request import Defaults, Options, Request

__all__ = [
    "CheckpointError",
    "Defaults",
    "Generation",
    "NotFiniteError",
    "Options",
    "Picture",
    "PictureError",
    "Pipeline",
    "Request",
    "convert_pickles",
    "embedded",
    "encoder_sharding",
    "load_pipeline",
    "open_picture",
    "register",
]
