"""A cache for a diffusers pipeline, for as long as a `with` lasts.

    with pure.accelerate(pipe, dbcache(threshold=0.12)) as report:
        image = pipe("a red apple").images[0]
    print(report)

The pipeline gets a stand-in for its transformer; the transformer itself is never written,
so other pipelines that share it go on as they were. What a cache remembers is made when a
call of the pipeline begins and dropped when it ends, however it ends.
"""

import contextlib
import copy
import functools
import inspect
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

from pure.composition import Transform
from pure.models.accelerate.calls import CURRENT, PipelineCall, Session
from pure.models.accelerate.checks import HOW, chosen
from pure.models.accelerate.plans import PlanLike, transform_of
from pure.models.accelerate.proxy import real
from pure.models.accelerate.report import Report
from pure.notes import warn

__all__ = ["Acceleration", "Report", "accelerate"]


def accelerate(pipe: Any, transform: Transform | Mapping[str, Transform] | PlanLike | None = None) -> "Acceleration":
    """Run a pipeline's transformer through a denoiser with `transform` while a `with` lasts.

    Args:
        pipe: a diffusers pipeline around one or two transformers or a U-Net. A U-Net, and the few
            transformers that cannot be cut into blocks, run in one piece: a static mask can skip
            them, a threshold has nothing to measure.
        transform: which cache; or one for each component, such as
            `{"transformer": ..., "transformer_2": ...}` (a component left out stays as it is); or a tuned
            plan, of `pure.tune` or `pure.load_plan`: every call that differs from what it was made for says so.

    Every call of the pipeline has a state of its own, and in it every guidance branch: it is
    known by the name of the pipeline's `cache_context`, else by its conditioning. Batched
    guidance is a batch of samples that decide alone. The two transformers of Wan 2.2 count
    their own steps. The number of a step comes from the scheduler.

    A transformer that changes between two calls or steps (LoRA weights, dtype, quantisation,
    another module) is adapted anew, and what was remembered of it is dropped.

    Returns:
        A context manager; `with ... as report` gives what was computed and skipped in each call.

    Raises:
        TypeError: the arguments are no pipeline and transform.
        CheckpointError: the pipeline has no such component, or it is compiled or patched; or, from
            its first call, the transformer cannot be cut, with the reason. The pipeline is left as it was.
        ValueError: the transform does not fit.

    Warns:
        UserWarning: the `with` was forgotten; a call skipped nothing though it could have; a
            prediction is not finite; a call is another than a tuned plan was made for.
    """
    frame = inspect.currentframe()
    caller = frame.f_back if frame is not None else None
    where = (caller.f_code.co_filename, caller.f_lineno) if caller is not None else ("", 0)
    chosen(pipe, transform)
    return Acceleration(pipe, transform, where)


class Acceleration(contextlib.ContextDecorator):
    """What `accelerate` returns: a `with` that can be entered again, or the decorator of a function."""

    def __init__(self, pipe: Any, transform: Any, where: tuple[str, int]) -> None:
        vars(self).update(_pipe=pipe, _transform=transform, _open=[])
        self._forgotten = weakref.finalize(self, _never_entered, *where)

    def __enter__(self) -> Report:
        """Put the stand-ins into the pipeline."""
        self._forgotten.detach()
        pipe = self._pipe
        given = self._transform
        plan = None if transform_of(given) is given else given
        session = Session(pipe, chosen(pipe, given), plan)
        self._open.append((session, type(pipe)))
        session.open()
        pipe.__class__ = _watched(type(pipe), session)
        return session.report

    def __exit__(self, *error: object) -> None:
        """Put the components back."""
        session, cls = self._open.pop()
        self._pipe.__class__ = cls
        session.close()

    def __call__(self, function: Any) -> Any:
        """Decorate a function, which then runs inside the `with`."""
        if not inspect.isroutine(function):
            raise TypeError(f"accelerate(...) is no pipeline and takes no prompt; {HOW}")
        return super().__call__(function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"accelerate(...) has no {name!r}; the report is what its `with` gives: "
            "`with pure.accelerate(pipe, dbcache()) as report: pipe(...)`"
        )


def _never_entered(filename: str, line: int) -> None:
    message = f"accelerate(...) was never entered, so that nothing was accelerated; {HOW}"
    warnings.warn_explicit(message, UserWarning, filename, line)


def _watched(cls: type, session: Session) -> type:
    """Return a subclass whose calls begin and end a `PipelineCall`; for one object, until the `with` ends."""

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        session.open()  # a component may have been replaced since the last call
        current = PipelineCall(session, (cls.__call__, args, kwargs))
        token = CURRENT.set((*CURRENT.get(), current))
        try:
            result = cls.__call__(self, *args, **kwargs)  # type: ignore[operator]
        finally:
            CURRENT.reset(token)
            session.report.calls.append(current.finished())
        warn((note for note in session.report.last.notes if note.kind == "warning"), stacklevel=3)
        return result

    def components(self: Any) -> Any:
        # A pipeline that is made of them is another one, and diffusers looks at the types of the real ones.
        return {name: real(each) for name, each in cls.components.__get__(self).items()}  # type: ignore[attr-defined]

    def reduce(self: Any, protocol: Any) -> Any:
        # What is copied or pickled is a plain pipeline of the real components: one that is not accelerated.
        plain = object.__new__(cls)
        vars(plain).update({name: real(value) for name, value in vars(self).items()})
        return copy.copy, (plain,)

    own = {"__call__": call, "__reduce_ex__": reduce, "__module__": cls.__module__, "__doc__": cls.__doc__}
    if hasattr(cls, "components"):
        own["components"] = property(components)
    return type(cls)(cls.__name__, (cls,), own)
