"""Diffusion-transformer inference as pure functions.

Denoising is a step function, all memory between steps is one immutable pytree, and
caching, guidance and compilation are transforms of the denoiser that compose.
"""

import importlib as _importlib
import os as _os
import typing as _typing

from pure.intact import check_links as _check_links

if _typing.TYPE_CHECKING:
    from pure.block import Block, Bound, Ending, Params, Weights, bind
    from pure.composition import Composed, Transform, compose, identity
    from pure.denoiser import Denoiser
    from pure.engine.notebook import Plot, Recording, plot
    from pure.engine.tuning.loading import load_plan
    from pure.engine.tuning.tuning import tune
    from pure.euler import FlowMatchEuler
    from pure.experts import Experts
    from pure.guidance import Branches, Guidance
    from pure.info import Answer, Decision, Info
    from pure.loop import Frame, Run, sample, unroll
    from pure.memory import Cache, Memory, State, States
    from pure.models.accelerate.accelerate import accelerate
    from pure.noise import gaussian
    from pure.notes import Note
    from pure.origin import Origin, origin_of
    from pure.pieces import CompileOptions
    from pure.plan import Plan, Probe, Span
    from pure.predictors import Hold, Predictor
    from pure.programs import Program, ProgramState, StepInputs, program, programs_of
    from pure.rules import Rule
    from pure.runnable import Runnable
    from pure.saving import load_state, read_origin, save_state
    from pure.schedule import Schedule
    from pure.solver import Solver
    from pure.statistics import Tally, tally
    from pure.step import Inputs, Step, Where, merge_steps
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
    "Origin",
    "Params",
    "PerToken",
    "Plan",
    "Plot",
    "Predictor",
    "Probe",
    "Program",
    "ProgramState",
    "Recording",
    "Rule",
    "Run",
    "Runnable",
    "Schedule",
    "Shared",
    "Solver",
    "Span",
    "State",
    "States",
    "Step",
    "StepInputs",
    "Tally",
    "Transform",
    "UniPC",
    "Weights",
    "Where",
    "accelerate",
    "bind",
    "compose",
    "gaussian",
    "identity",
    "join",
    "load_plan",
    "load_state",
    "merge_steps",
    "origin_of",
    "plot",
    "program",
    "programs_of",
    "put",
    "read_origin",
    "sample",
    "save_state",
    "state",
    "static",
    "take",
    "tally",
    "tune",
    "unroll",
]

# Imported where they are first read: a command's help and its completion must not wait for torch.
_MODULES = {
    "block": "Block Bound Ending Params Weights bind",
    "composition": "Composed Transform compose identity",
    "denoiser": "Denoiser",
    "euler": "FlowMatchEuler",
    "experts": "Experts",
    "guidance": "Branches Guidance",
    "info": "Answer Decision Info",
    "loop": "Frame Run sample unroll",
    "memory": "Cache Memory State States",
    "noise": "gaussian",
    "notes": "Note",
    "origin": "Origin origin_of",
    "pieces": "CompileOptions",
    "plan": "Plan Probe Span",
    "predictors": "Hold Predictor",
    "programs": "Program ProgramState StepInputs program programs_of",
    "rules": "Rule",
    "runnable": "Runnable",
    "saving": "load_state read_origin save_state",
    "schedule": "Schedule",
    "solver": "Solver",
    "statistics": "Tally tally",
    "step": "Inputs Step Where merge_steps",
    "tokens": "PerToken",
    "tree": "Shared join put state static take",
    "unipc": "UniPC",
    "models.accelerate.accelerate": "accelerate",
    "engine.notebook": "Plot Recording plot",
    "engine.tuning.loading": "load_plan",
    "engine.tuning.tuning": "tune",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


_check_links(_os.path.dirname(__file__))


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(_importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
