"""The arguments of `accelerate`: which components get which transform, and why some cannot."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from pure.checks import shown
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.models.accelerate.components import in_one_piece, in_whole, one_piece
from pure.models.accelerate.plans import transform_of
from pure.models.accelerate.proxy import Proxy
from pure.models.adapt.dispatch import check_dispatched
from pure.models.adapt.forward import TIMES, arguments_of
from pure.models.adapt.structure import check_unpatched
from pure.models.adapt.whole import whole
from pure.models.errors import CheckpointError
from pure.plan import Published

COMPONENTS = ("transformer", "transformer_2", "unconditional_transformer", "unet")
HOW = "write `with pure.accelerate(pipe, dbcache()): pipe(...)`"


def check_pipe(pipe: Any) -> None:
    """Refuse an argument that is not a pipeline of diffusers.

    Raises:
        TypeError: naming what it is.
    """
    if isinstance(pipe, type):
        raise TypeError(
            f"{pipe.__name__} is a class; accelerate takes a pipeline: {pipe.__name__}.from_pretrained(...)"
        )
    if isinstance(pipe, torch.nn.Module):
        raise TypeError(
            f"{type(pipe).__name__} is a model; accelerate takes the pipeline that calls it "
            "(a model alone: pure.models.adapt.adapt.adapt)"
        )
    if isinstance(pipe, Transform):
        raise TypeError(f"accelerate takes the pipeline first and the transform second; {HOW}")
    if isinstance(getattr(pipe, "denoiser", None), Denoiser):
        raise TypeError(
            f"{type(pipe).__name__} is a pipeline of puredit; pass it the transform: pipeline.generate(transform=...)"
        )
    # Calls end where the class of the pipeline says, so the object must have fields and a class that can be called.
    if not hasattr(pipe, "__dict__") or not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise TypeError(
            f"accelerate takes a diffusers pipeline with a scheduler, got {shown(pipe, 60)} ({type(pipe).__name__}); "
            f"{HOW}, with pipe = diffusers.DiffusionPipeline.from_pretrained(...)"
        )


def check_transform(transform: Any, where: str = "") -> None:
    """Refuse an argument that is not a transform.

    Raises:
        TypeError: naming what it is and what helps.
    """
    if isinstance(transform, Transform):
        return
    place = f" for the {where}" if where else ""
    if transform is None:
        raise TypeError(f"accelerate needs a transform{place}, such as dbcache(threshold=0.12); {HOW}")
    if isinstance(transform, list | tuple):
        kind = type(transform).__name__
        raise TypeError(f"accelerate takes one transform{place}, got a {kind}; make one of several: compose(...)")
    if callable(transform):
        name = getattr(transform, "__name__", repr(transform))
        raise TypeError(f"{name} makes a transform and is none itself; call it: {name}(...)")
    got = f"{shown(transform, 60)} ({type(transform).__name__})"
    raise TypeError(f"accelerate takes a transform{place} such as dbcache(), got {got}; {HOW}")


def chosen(pipe: Any, transform: Any) -> dict[str, Transform]:
    """Return the transform of every component that gets one.

    Raises:
        TypeError: the arguments are no pipeline and transform.
        CheckpointError: a component is missing, accelerated already, compiled or cannot be cut.
        ValueError: the transform does not fit the component.
    """
    check_pipe(pipe)
    own, transform = vars(pipe), transform_of(transform)
    if isinstance(transform, Mapping):
        found = dict(transform)
        for name, each in found.items():
            check_transform(each, str(name))
    else:
        check_transform(transform)
        found = {name: transform for name in COMPONENTS if isinstance(own.get(name), torch.nn.Module)}
    missing = [name for name in found if not isinstance(own.get(name), torch.nn.Module)]
    if missing or not found:
        raise CheckpointError(_missing(pipe, missing))
    for name, each in found.items():
        if type(own[name]) is Proxy:
            raise CheckpointError(f"the {name} of this pipeline is accelerated already; leave that `with` first")
        check_module(own[name], each)
    return found


def check_module(module: torch.nn.Module, transform: Transform) -> None:
    """Refuse a component that cannot run with this transform, as far as that shows before it has been called.

    Raises:
        CheckpointError: it is compiled, or hooks or another cache have replaced its forward; or an attention is
            chosen for it and it does not ask diffusers' dispatcher.
        ValueError: the transform guides, or measures a change where there is none.
    """
    check_named(transform)
    if in_one_piece(module):
        edited = in_whole(transform, one_piece(module))
        check_unguided(edited)
        check_dispatched(module, edited.attend)
        return
    check_unpatched(module)
    if not set(TIMES) & set(arguments_of(module)):
        raise CheckpointError(f"{type(module).__name__} takes no timestep, so it has no steps that could be skipped")
    try:
        edited = transform.edit(_ANY)
    except ValueError:  # it may fit the transformer, which has other blocks and streams
        return
    check_unguided(edited)
    check_dispatched(module, edited.attend)


def check_named(transform: Transform) -> None:
    """Refuse a transform that measures what only a denoiser of this package names.

    Raises:
        ValueError: it measures the modulated input of the first block.
    """
    try:
        probe = transform.edit(_NAMING).plan.probe
    except ValueError:
        return
    if probe is not None and probe.of is _NAMING.modulated:
        raise ValueError(
            "teacache measures the modulated input of the first block, which a transformer of diffusers under "
            "accelerate does not name, FLUX.1's neither; use dbcache(...) or easycache(...)"
        )


def check_unguided(denoiser: Denoiser) -> None:
    """Refuse guidance, which the pipeline applies itself.

    Raises:
        ValueError: the transform guides.
    """
    if denoiser.guidance is not None:
        raise ValueError("the pipeline guides by itself; leave guided(...) out and pass it a guidance scale")


def _missing(pipe: Any, names: list[str]) -> str:
    """Return which components the pipeline lacks, and which it has, as a sentence."""
    own, kind = vars(pipe), type(pipe).__name__
    there = [name for name in COMPONENTS if isinstance(own.get(name), torch.nn.Module)]
    empty = [name for name in (names or COMPONENTS) if name in own and own[name] is None]
    if empty:
        return f"the {' and the '.join(empty)} of {kind} is None: load the pipeline with it"
    if there and names:
        return f"{kind} has no {', '.join(map(str, names))}; it has {', '.join(there)}"
    if there:
        return f"{kind} has {', '.join(there)}, and no transform was given for any of them"
    return f"{kind} has none of {', '.join(COMPONENTS)}; nothing can be accelerated"


_ONE = whole(lambda latents, timestep, conditioning: latents)
# More blocks than any transformer has: what a transform makes of it does not depend on its place in a real one.
_ANY = attrs.evolve(_ONE, blocks=_ONE.blocks * 256)


@attrs.frozen
class _Modulated:
    """Stands for what a denoiser names as the modulated input of its first block."""

    published = Published(polynomial=(1.0, 0.0), threshold=0.0)

    def __call__(self, params: Any, hidden: Any, context: Any) -> Any:
        raise NotImplementedError("nothing is computed with it")


_NAMING = attrs.evolve(_ANY, modulated=_Modulated())
