"""Loading: from a job to a pipeline and its denoiser, with the cache and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from pure.cli.job import Job
from pure.cli.naming import Output
from pure.cli.screen import Screen
from pure.engine.caching import transforms_of
from pure.engine.errors import Misuse
from pure.engine.opening import base_of, open_pipeline
from pure.engine.quantizing import quantised, quantizer
from pure.engine.ranks import share

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from pure.models import Pipeline, Request
    from pure.models.pipeline import Model

__all__ = ["Engine", "load"]


@attrs.frozen(kw_only=True, eq=False)
class Engine:
    """A loaded pipeline and its denoiser, with the cache and without, both guided alike.

    Attributes:
        pipeline: what was loaded.
        cached: the denoiser with the cache.
        plain: the one without.
        template: the request of every output, but for its prompt.
        told: whether something was said of a plan that does not do what it is for.
    """

    pipeline: Pipeline
    cached: Model
    plain: Model
    template: Request
    told: bool = False

    def batch(self, outputs: Sequence[Output]) -> Request:
        """Return the request of a batch."""
        negative = self.template.negative_prompts
        return attrs.evolve(
            self.template,
            prompts=tuple(output.prompt for output in outputs),
            negative_prompts=None if negative is None else negative[:1] * len(outputs),
        )

    def sized(self, height: int, width: int) -> Request:
        """Return a request of another size."""
        return self.pipeline.sized(attrs.evolve(self.template, height=height, width=width))


def load(job: Job, screen: Screen, mesh: DeviceMesh | None = None) -> Engine:
    """Load the checkpoint and build both denoisers; with a mesh this process's share of them.

    Raises:
        Misuse: checkpoint, sizes or settings do not fit together.
    """
    from pure.experts import transformed

    pipeline = open_pipeline(job.model, job.precision, screen.waiting, job.flags.get("variant"))
    kind = pipeline.defaults
    if job.options.get("guidance_scale") is not None and kind.guidance_scale is None:
        screen.note(_idle(job), "warning")
    try:
        effective = job.caching.effective
        if mesh is None:
            pipeline = quantised(pipeline, effective, screen.note)
        else:
            pipeline = share(pipeline, job.parallel, mesh, quantizer(effective, pipeline.denoiser, screen.note))
        base = base_of(pipeline, job.compiled)
        request = pipeline.request("", job.negative_prompt, **job.options)
        plain, template = pipeline.guide(base, request)
        cached = transformed(plain, transforms_of(job.caching, plain))
        told = cached.notes(pipeline.schedule(template))
        engine = Engine(pipeline=pipeline, plain=plain, cached=cached, template=template, told=bool(told))
        notes = (*pipeline.notes(engine.batch(job.outputs)), *told)
        for text, kind in dict.fromkeys((note.text, note.kind) for note in notes):
            screen.note(text, kind)
        for height, width in job.warmup_sizes:
            engine.sized(height, width)
        return engine
    except (ValueError, TypeError) as error:
        raise Misuse(str(error)) from error


def _idle(job: Job) -> str:
    scale = job.options.get("guidance_scale")
    return (
        f"--guidance-scale {scale:g} has no effect: this checkpoint takes no guidance as an "
        "input; --true-cfg-scale with --negative-prompt guides every checkpoint"
    )
