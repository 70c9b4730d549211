"""Tuned plans for a diffusers pipeline: what a call is, to be held against what a plan was made for."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pure.composition import Transform
from pure.models.guidance import embeds_guidance
from pure.notes import Note
from pure.origin import fingerprint

__all__ = ["PlanLike", "facts_of", "transform_of"]

SOLVERS = {
    "FlowMatchEulerDiscreteScheduler": "FlowMatchEuler",
    "UniPCMultistepScheduler": "UniPC",
    "FlowUniPCMultistepScheduler": "UniPC",
}
"""Solvers of this package, by the scheduler of diffusers that they are."""


@runtime_checkable
class PlanLike(Protocol):
    """A tuned plan, as `pure.tune` makes and `pure.load_plan` reads it."""

    @property
    def transform(self) -> Transform | Mapping[str, Transform]:
        """What it does, or one for each component."""
        ...

    def differs(self, **known: Any) -> tuple[Note, ...]:
        """Say in what a run differs from what it was made for; what is not known of the run is not compared."""
        ...


def transform_of(given: Any) -> Any:
    """Return the transform of a plan; anything else as it is."""
    return given.transform if isinstance(given, PlanLike) and not isinstance(given, Transform | type) else given


def facts_of(
    pipe: Any, call: Callable, arguments: Sequence[Any], options: Mapping[str, Any], modules: Sequence[Any], steps: int
) -> dict[str, Any]:
    """Return what is known of a call once it has ended, by the names of `TunedFor`.

    Args:
        pipe: the pipeline.
        call: its `__call__`.
        arguments: of the call.
        options: of the call, by name.
        modules: the components with a cache, in their order.
        steps: of the call.
    """
    bound = inspect.signature(call).bind(pipe, *arguments, **options)
    bound.apply_defaults()
    given = bound.arguments
    sigmas = getattr(pipe.scheduler, "sigmas", None)
    last = len(pipe.scheduler.timesteps) - 1
    name = SOLVERS.get(type(pipe.scheduler).__name__, type(pipe.scheduler).__name__)
    levels = "" if sigmas is None else f", {float(sigmas[0]):.4f} to {float(sigmas[last]):.4f}"
    known = {
        "model": fingerprint({str(place): module.state_dict() for place, module in enumerate(modules)}),
        "steps": steps,
        "solver": name + levels,
        "frames": given.get("num_frames"),
    }
    height, width = given.get("height"), given.get("width")
    if isinstance(height, int) and isinstance(width, int):
        known |= {"height": height, "width": width}
    known = {name: value for name, value in known.items() if value is not None}
    if {"guidance_scale", "true_cfg_scale"} & set(given):
        known["guidance"] = _guidance(pipe, given, modules)
    return known


def _guidance(pipe: Any, given: Mapping[str, Any], modules: Sequence[Any]) -> float | None:
    """Return the scale that counts: that of a negative prompt if there is one, else the pipeline's own if it is read.

    A pipeline that has both scales only embeds its own, and not every checkpoint does.
    """
    true, negative = given.get("true_cfg_scale"), ("negative_prompt", "negative_prompt_embeds")
    if true is not None and true > 1 and any(given.get(name) is not None for name in negative):
        return float(true)
    scale = given.get("guidance_scale")
    guides = getattr(pipe, "do_classifier_free_guidance", "true_cfg_scale" not in given)
    embeds = any(embeds_guidance(dict(module.named_parameters())) for module in modules)
    return float(scale) if scale is not None and (guides or embeds) else None
