"""Transforms of denoisers, one per file; the file has the transform's name."""

from pure.transforms.compiled import compiled
from pure.transforms.dbcache import dbcache
from pure.transforms.guided import guided
from pure.transforms.quantize.quantize import Layer, Quantization, nbytes, quantize, survey
from pure.transforms.scm import scm
from pure.transforms.taylorseer import taylorseer

__all__ = [
    "Layer",
    "Quantization",
    "compiled",
    "dbcache",
    "guided",
    "nbytes",
    "quantize",
    "scm",
    "survey",
    "taylorseer",
]
