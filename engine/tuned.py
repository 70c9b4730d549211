"""What a run is in the eyes of a tuned plan, and in what it differs from what the plan was tuned for."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pure.configs.tuned import TunedFor
from pure.models.guidance import embeds_guidance, guidance_of
from pure.notes import Note
from pure.origin import fingerprint as of_params

if TYPE_CHECKING:
    from pure.models import Pipeline, Request
    from pure.models.pipeline import AnyDenoiser

__all__ = ["differences", "differs", "fingerprint", "made_for", "misfits"]


_KNOWN: weakref.WeakKeyDictionary[Pipeline, str | None] = weakref.WeakKeyDictionary()


def fingerprint(pipeline: Pipeline) -> str | None:
    """Return `pure.origin.fingerprint` of a pipeline's weights, read once."""
    if pipeline not in _KNOWN:
        _KNOWN[pipeline] = of_params(pipeline.params)
    return _KNOWN[pipeline]


def made_for(pipeline: Pipeline, denoiser: AnyDenoiser, request: Request) -> TunedFor:
    """Return what a run is, for the file of a plan and to compare with one.

    Args:
        pipeline: what was loaded.
        denoiser: guided as the request says.
        request: of any prompts.
    """
    guidance, steps = guidance_of(denoiser), pipeline.schedule(request)
    embedded = pipeline.scale(request, "guidance_scale") if embeds_guidance(pipeline.params) else None
    sigmas = [step.sigma for step in steps]
    levels = "" if sigmas[0] is None or sigmas[-1] is None else f", {float(sigmas[0]):.4f} to {float(sigmas[-1]):.4f}"
    return TunedFor(
        model=fingerprint(pipeline),
        steps=len(steps),
        height=request.height,
        width=request.width,
        frames=request.frames,
        guidance=guidance.scale if guidance else embedded,
        solver=type(pipeline.solver).__name__ + levels,
    )


WORDS = {
    "model": "other weights",
    "steps": "{theirs} steps",
    "guidance": "guidance {theirs}",
    "solver": "the solver {theirs}",
}


def differences(plan: TunedFor | None, pipeline: Pipeline, denoiser: AnyDenoiser, request: Request) -> tuple[Note, ...]:
    """Say in what a run differs from what its plan was tuned for; nothing without a tuned plan."""
    return () if plan is None else misfits(plan, made_for(pipeline, denoiser, request))


def differs(plan: TunedFor, known: Mapping[str, Any]) -> tuple[Note, ...]:
    """Say in what a run differs from what a plan was tuned for, by what is known of the run."""
    return misfits(plan, attrs.evolve(plan, **known))


def misfits(plan: TunedFor, now: TunedFor) -> tuple[Note, ...]:
    """Say in what a run differs from what a plan was tuned for, and what holds anyway."""
    found = []
    for name, words in WORDS.items():
        theirs, ours = getattr(plan, name), getattr(now, name)
        unknown = name != "guidance" and None in (theirs, ours)
        if theirs != ours and not unknown:
            shown = words.format(theirs="none" if theirs is None else theirs)
            found.append(shown if name == "model" else f"{shown}, not {'none' if ours is None else ours}")
    sizes = [(one.width, one.height, one.frames) for one in (plan, now)]
    if None not in sizes[0] and sizes[0] != sizes[1]:
        words = [f"{w} x {h}" + (f" x {f} frames" if (f or 1) > 1 else "") for w, h, f in sizes]
        found.append(f"{words[0]} pixels, not {words[1]}")
    if not found:
        return ()
    return (
        Note(
            f"the plan was tuned for {', '.join(found)}; the same steps are computed with the same weights, but how "
            "near the result comes to one without a cache was not measured: compare the two, or tune a plan for this"
        ),
    )
