"""A cache for a diffusers pipeline, for as long as a `with` lasts.

    with pure.accelerate(pipe, dbcache(threshold=0.12)) as report:
        image = pipe("a red apple").images[0]
    print(report)

The pipeline is handed a stand-in for its transformer; the transformer itself is never
touched, so that other pipelines that share it go on as they were. What a cache remembers
is made when a call of the pipeline begins and dropped when it ends, however it ends.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pure.compose import Transform
from pure.models.accelerate.calls import CURRENT, PipelineCall, Proxy, Session
from pure.models.accelerate.components import in_one_piece
from pure.models.accelerate.report import Report
from pure.models.adapt.structure import check_unpatched
from pure.models.errors import CheckpointError

__all__ = ["Report", "accelerate"]

PARTS = ("transformer", "transformer_2", "unet")


@contextlib.contextmanager
def accelerate(pipe: Any, transform: Transform | Mapping[str, Transform]) -> Iterator[Report]:
    """Run a pipeline's transformer through a denoiser with `transform` while the `with` lasts.

    Args:
        pipe: any diffusers pipeline around a transformer that `pure.models.adapt.adapt.adapt` can
            cut; or around a U-Net, which is one block: a static mask can skip it, a threshold
            has nothing to measure.
        transform: which cache; or one for each component, such as
            `{"transformer": ..., "transformer_2": ...}` (a component left out stays as it is).

    Every call of the pipeline has a state of its own, and in it every guidance branch: it is
    told by the name of the pipeline's `cache_context`, else by its conditioning. Batched
    guidance is a batch of samples that decide alone. The two transformers of Wan 2.2 count
    their own steps. The number of a step comes from the scheduler.

    Yields:
        What was computed and skipped in each call.

    Raises:
        CheckpointError: the pipeline has no such component; or, from its first call, the
            transformer cannot be cut, with the reason. The pipeline is left as it was.
        ValueError: the transform does not fit.
    """
    transforms = _transforms(pipe, transform)
    session = Session(pipe, transforms)
    fields, cls = vars(pipe), type(pipe)
    originals = {name: fields[name] for name in transforms}
    # The dict of attributes, not setattr: that would rewrite the pipeline's config.
    fields.update({name: Proxy(module, name, session) for name, module in originals.items()})
    pipe.__class__ = _watched(cls, session)
    try:
        yield session.report
    finally:
        pipe.__class__ = cls
        fields.update(originals)
        session.close()


def _transforms(pipe: Any, transform: Transform | Mapping[str, Transform]) -> dict[str, Transform]:
    """Return the transform of every component.

    Raises:
        CheckpointError: a component is missing, accelerated already or cannot be cut.
    """
    own = vars(pipe)
    if isinstance(transform, Transform):
        chosen = {name: transform for name in PARTS if isinstance(own.get(name), torch.nn.Module)}
        if not chosen:
            raise CheckpointError(f"{type(pipe).__name__} has none of {', '.join(PARTS)}; nothing can be accelerated")
    else:
        chosen = dict(transform)
        missing = [name for name in chosen if not isinstance(own.get(name), torch.nn.Module)]
        if missing or not chosen:
            raise CheckpointError(f"{type(pipe).__name__} has no {', '.join(missing) or 'component that is named'}")
    for name in chosen:
        if type(own[name]) is Proxy:
            raise CheckpointError(f"the {name} of this pipeline is accelerated already; leave that `with` first")
        if hasattr(own[name], "_orig_mod"):
            raise CheckpointError(
                f"the {name} is compiled as a whole, which leaves nothing to skip; give the pipeline the module "
                "itself and compose the transform with compiled()"
            )
        if not in_one_piece(own[name]):
            check_unpatched(own[name])
    return chosen


def _watched(cls: type, session: Session) -> type:
    """Return a subclass whose calls begin and end a `PipelineCall`; for one object, until the `with` ends."""

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        current = PipelineCall(session)
        token = CURRENT.set((*CURRENT.get(), current))
        try:
            result = cls.__call__(self, *args, **kwargs)  # type: ignore[operator]
        finally:
            CURRENT.reset(token)
            session.report.calls.append(current.finished())
        current.warn()
        return result

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__})
