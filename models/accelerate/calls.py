"""Calls of an accelerated pipeline: which step, which branch, and the state of each."""

import contextlib
import contextvars
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch

from pure.block import Bound
from pure.compose import Transform
from pure.models.accelerate.branches import Branch, Clock, find, marks
from pure.models.accelerate.components import Model, Output, model_of
from pure.models.accelerate.report import CallReport, Report
from pure.models.adapt.structure import parameters
from pure.models.errors import CheckpointError
from pure.notes import warn
from pure.rules import can_skip
from pure.step import Inputs, Step
from pure.tree import put, take

CURRENT: contextvars.ContextVar[tuple["PipelineCall", ...]] = contextvars.ContextVar("pipeline calls", default=())
CONTEXT: contextvars.ContextVar[str] = contextvars.ContextVar("name of the cache context", default="")


@attrs.define(eq=False)
class Session:
    """What lasts as long as the `with`: the adapted models and the report."""

    pipe: Any
    transforms: Mapping[str, Transform]
    report: Report = attrs.field(factory=Report)
    models: dict[tuple, Model] = attrs.field(factory=dict)

    def close(self) -> None:
        """Let go of the models."""
        self.models.clear()

    def model(self, name: str, module: torch.nn.Module, kwargs: Mapping[str, Any], renew: bool = False) -> Model:
        """Return the denoiser for calls like this one, adapting the module at the first.

        Raises:
            CheckpointError: it cannot be cut.
        """
        key = (name, shape_of_call(kwargs))
        if renew or key not in self.models:
            self.models[key] = model_of(module, kwargs, self.transforms[name])
        return self.models[key]


def shape_of_call(kwargs: Mapping[str, Any]) -> tuple:
    """Say what calls must have in common to be cut in the same way; sizes are checked when they run."""
    return tuple(sorted((name, _kind(value)) for name, value in kwargs.items()))


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.ndim} dimensions of {value.dtype}"
    if isinstance(value, list | tuple) and any(isinstance(entry, torch.Tensor) for entry in value):
        return f"list of {sorted({_kind(entry) for entry in value})}"
    if isinstance(value, Mapping):
        return str({key: _kind(entry) for key, entry in value.items()})
    return repr(value)


class Proxy:
    """What the pipeline has in place of its transformer: the same in all but what a call does."""

    def __init__(self, module: torch.nn.Module, name: str, session: Session) -> None:
        vars(self).update(_module=module, _name=name, _session=session)

    @property
    def __class__(self) -> Any:  # type: ignore[override]  # isinstance says what it says of the module
        return type(vars(self)["_module"])

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_module"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_module"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(vars(self)["_module"], name)

    def __repr__(self) -> str:
        return repr(vars(self)["_module"])

    def __dir__(self) -> list[str]:
        return dir(vars(self)["_module"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take the step of the pipeline's call that this is; outside any call just call the module."""
        module, session = vars(self)["_module"], vars(self)["_session"]
        call = next((call for call in reversed(CURRENT.get()) if call.session is session), None)
        if call is None:
            return module(*args, **kwargs)
        names = [name for name in inspect.signature(type(module).forward).parameters if name != "self"]
        return call.part(vars(self)["_name"], module).step({**dict(zip(names, args, strict=False)), **kwargs})

    @contextlib.contextmanager
    def cache_context(self, name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Note the name that the pipeline gives to what it does next."""
        token = CONTEXT.set(name)
        try:
            with vars(self)["_module"].cache_context(name, *args, **kwargs):
                yield
        finally:
            CONTEXT.reset(token)


@attrs.define(eq=False)
class PipelineCall:
    """One call of the pipeline, from its beginning to its end."""

    session: Session
    parts: dict[str, "Part"] = attrs.field(factory=dict)

    def part(self, name: str, module: torch.nn.Module) -> "Part":
        """Return what is known of a component in this call."""
        if name not in self.parts:
            counts = steps_of(self.session.pipe)
            self.parts[name] = Part(name, module, self.session, counts.get(name, counts["transformer"]))
        return self.parts[name]

    def finished(self) -> CallReport:
        """Return the report of the call."""
        branches = {f"{part.name}{b.label}": tuple(b.infos) for part in self.parts.values() for b in part.branches}
        counts = {f"{part.name}{b.label}": part.count for part in self.parts.values() for b in part.branches}
        return CallReport(branches, counts, tuple(reason for part in self.parts.values() for reason in part.plain))

    def warn(self) -> None:
        """Warn if nothing was skipped though something could have been."""
        report = self.finished()
        rules = [(b.model.denoiser.plan.rules, part.count) for part in self.parts.values() for b in part.branches]
        if not report.skipped and any(can_skip(*each) for each in rules):
            reasons = sorted({decision.reason for decision in report.decisions})
            changes = [d.change for d in report.decisions if d.change is not None]
            least = f"; the least change measured was {min(changes):.3g}" if changes else ""
            warnings.warn(
                f"no step of this call was skipped: {report.computed} computed because of {', '.join(reasons)}{least}",
                stacklevel=3,
            )


def steps_of(pipe: Any) -> dict[str, int]:
    """Return the number of steps that each component will take, from the scheduler's timesteps."""
    scheduler = pipe.scheduler
    timesteps = scheduler.timesteps
    begun = getattr(scheduler, "step_index", None)
    begun = getattr(scheduler, "begin_index", None) if begun is None else begun
    if not hasattr(scheduler, "begin_index"):  # of older schedulers only the pipeline knows where it begins
        begun = len(timesteps) - getattr(pipe, "_num_timesteps", len(timesteps))
    timesteps = timesteps[begun or 0 :]
    ratio = getattr(pipe.config, "boundary_ratio", None)
    if ratio is None or getattr(pipe, "transformer_2", None) is None:
        return {"transformer": len(timesteps)}
    high = int((timesteps >= ratio * scheduler.config.num_train_timesteps).sum())
    return {"transformer": high, "transformer_2": len(timesteps) - high}


@attrs.define(eq=False)
class Part:
    """One component in one call of the pipeline."""

    name: str
    module: torch.nn.Module
    session: Session
    count: int
    clock: Clock = attrs.field(factory=Clock)
    branches: list[Branch] = attrs.field(factory=list)
    plain: list[str] = attrs.field(factory=list)
    bound: dict[int, Bound] = attrs.field(factory=dict)

    def step(self, kwargs: dict[str, Any]) -> Any:
        """Take one step of one branch."""
        hook = getattr(self.module, "_hf_hook", None)  # of model offloading: it brings the weights
        if hook is not None:
            _, kwargs = hook.pre_forward(self.module, **kwargs)
        model = self.session.model(self.name, self.module, kwargs)
        moment = self.clock.moment(self.session.pipe.scheduler, kwargs[model.timestep])
        branch, rows = find(self.branches, CONTEXT.get(), marks(kwargs, shape_of_call(kwargs)), self.clock.taken)
        if branch is None:
            branch = Branch(self._label(), CONTEXT.get(), marks(kwargs, shape_of_call(kwargs)), model)
            self.branches.append(branch)
        index = self.clock.index(moment, branch, certain=hasattr(self.session.pipe.scheduler, "step_index"))
        if index is None or index >= self.count:
            why = "a branch was called twice in a step" if index is None else f"more than {self.count} steps"
            self.plain.append(why)
            return self.module(**kwargs)
        try:
            prediction = self._advance(branch, rows, index, kwargs)
        except CheckpointError:  # of other sizes than those it was adapted to
            branch.model, branch.state = self.session.model(self.name, self.module, kwargs, renew=True), None
            prediction = self._advance(branch, None, index, kwargs)
        return Output.of(prediction, model.listed, kwargs.get("return_dict", True))

    def _label(self) -> str:
        """Name a branch: as its context, or by the order of appearance where there are several."""
        if name := CONTEXT.get():
            same = sum(branch.context == name for branch in self.branches)
            return f"/{name}" + (f" {same}" if same else "")
        return f"/{len(self.branches)}"

    def _advance(self, branch: Branch, rows: Sequence[int] | None, index: int, kwargs: Mapping[str, Any]) -> Any:
        model = branch.model
        request, denoiser = model.request(kwargs), model.denoiser
        params = self.bound.get(id(model))
        if params is None:
            params = self.bound[id(model)] = denoiser.bind(parameters(self.module) if model.functional else {})
        with torch.no_grad():
            if branch.state is None or (rows is None and branch.sizes != request.latents.shape):
                branch.state = denoiser.init(params, request.conditioning, request.latents, self.count)
                warn(denoiser.notes(self.count, request.conditioning), stacklevel=3)
                branch.sizes, rows = request.latents.shape, None
            state, some = branch.state, None
            if rows is not None:
                some = torch.tensor(rows)
                state = attrs.evolve(state, cache=take(state.cache, some))
            # The conditioning of this call: residuals of a ControlNet are other ones at every step.
            state = attrs.evolve(state, prepared=request.conditioning)
            step = Step(index=index, count=self.count, timestep=request.timestep, branch=branch.label.lstrip("/"))
            prediction, state, info = denoiser.apply(params, state, Inputs(request.latents, step))
            if some is not None:
                state = attrs.evolve(branch.state, cache=put(branch.state.cache, some, state.cache))
        branch.state = state
        branch.infos.append(info)
        return prediction
