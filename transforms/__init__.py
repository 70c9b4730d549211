"""Transforms of denoisers, one per file; the file has the transform's name."""

import pure.overwritten  # noqa: F401  (says so where another package has replaced this one)
from pure.transforms.adams import adams
from pure.transforms.attention.attention import attention
from pure.transforms.attention.machine import check_attention
from pure.transforms.budget import budget
from pure.transforms.calibrated import calibrated
from pure.transforms.compiled import compiled
from pure.transforms.dbcache import dbcache
from pure.transforms.dbprune import dbprune
from pure.transforms.dmd import dmd
from pure.transforms.easycache import easycache
from pure.transforms.foca import foca
from pure.transforms.fora import fora
from pure.transforms.guided import guided
from pure.transforms.hermite import hermite
from pure.transforms.magcache import magcache
from pure.transforms.newton import newton
from pure.transforms.quantize.quantize import Quantization, QuantizedLayer, nbytes, quantize, survey
from pure.transforms.scm import scm
from pure.transforms.seacache import seacache
from pure.transforms.speca import speca
from pure.transforms.taylorseer import taylorseer
from pure.transforms.teacache import teacache

__all__ = [
    "Quantization",
    "QuantizedLayer",
    "adams",
    "attention",
    "budget",
    "calibrated",
    "check_attention",
    "compiled",
    "dbcache",
    "dbprune",
    "dmd",
    "easycache",
    "foca",
    "fora",
    "guided",
    "hermite",
    "magcache",
    "nbytes",
    "newton",
    "quantize",
    "scm",
    "seacache",
    "speca",
    "survey",
    "taylorseer",
    "teacache",
]
