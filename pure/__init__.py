"""Diffusion-transformer inference as pure functions.

Denoising is a step function, all memory between steps is one immutable pytree, and
caching, guidance and compilation are transforms of the denoiser that compose.
"""

import importlib as _importlib
import typing as _typing

from pure.block import Block, Bound, Ending, Params, bind
from pure.compose import Composed, Transform, compose, identity
from pure.denoiser import Denoiser
from pure.euler import FlowMatchEuler
from pure.experts import Experts
from pure.guidance import Branches, Guidance
from pure.info import Answer, Decision, Info
from pure.loop import Frame, Run, sample, start, unroll
from pure.memory import Cache, Memory, State
from pure.noise import gaussian
from pure.notes import Note
from pure.pieces import CompileOptions
from pure.plan import Plan, Probe, Span
from pure.predictors import Hold, Predictor
from pure.rules import Rule
from pure.saving import load_state, save_state
from pure.solver import Solver
from pure.step import Inputs, Step, Where
from pure.tokens import PerToken
from pure.tree import Shared, join, put, state, static, take
from pure.unipc import UniPC

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Block",
    "Bound",
    "Branches",
    "Cache",
    "CompileOptions",
    "Composed",
    "Decision",
    "Denoiser",
    "Ending",
    "Experts",
    "FlowMatchEuler",
    "Frame",
    "Guidance",
    "Hold",
    "Info",
    "Inputs",
    "Memory",
    "Note",
    "Params",
    "PerToken",
    "Plan",
    "Predictor",
    "Probe",
    "Rule",
    "Run",
    "Shared",
    "Solver",
    "Span",
    "State",
    "Step",
    "Transform",
    "UniPC",
    "Where",
    "bind",
    "compose",
    "gaussian",
    "identity",
    "join",
    "load_state",
    "put",
    "sample",
    "save_state",
    "start",
    "state",
    "static",
    "take",
    "unroll",
]

# What a layer above provides under a short name; importing `pure` imports none of it.
_LATER = {"accelerate": "pure.models.accelerate.accelerate"}

if _typing.TYPE_CHECKING:
    accelerate: _typing.Any
else:

    def __getattr__(name: str) -> object:
        if name in _LATER:
            return getattr(_importlib.import_module(_LATER[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
