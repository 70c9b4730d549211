"""Calls of an accelerated pipeline: which step, which branch, and the state of each."""

import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch

from pure.composition import Transform
from pure.decide import can_skip
from pure.models.accelerate.branches import Branch, Clock, find, marks
from pure.models.accelerate.checks import check_module
from pure.models.accelerate.components import CachedComponent, ModelOutput, model_of
from pure.models.accelerate.plans import PlanLike, facts_of
from pure.models.accelerate.proxy import CONTEXT, Proxy
from pure.models.accelerate.report import CallReport, Report, finite_rows, notes_of
from pure.models.adapt.forward import TIMES
from pure.models.adapt.structure import fingerprint, parameters
from pure.models.errors import CheckpointError
from pure.notes import Note
from pure.step import Inputs, Step
from pure.tree import put, take

CURRENT: contextvars.ContextVar[tuple["PipelineCall", ...]] = contextvars.ContextVar("pipeline calls", default=())


@attrs.define(eq=False)
class Session:
    """What lasts as long as the `with`: the stand-ins, the adapted models and the report."""

    pipe: Any
    transforms: Mapping[str, Transform]
    plan: PlanLike | None = None
    report: Report = attrs.field(factory=Report)
    models: dict[tuple, CachedComponent] = attrs.field(factory=dict)
    proxies: dict[str, Proxy] = attrs.field(factory=dict)

    def open(self) -> None:
        """Put a stand-in in the place of every component, also of one that was replaced since."""
        # The dict of attributes, not setattr: that would rewrite the pipeline's config.
        fields = vars(self.pipe)
        for name, transform in self.transforms.items():
            module = fields.get(name)
            if type(module) is not Proxy and isinstance(module, torch.nn.Module):
                check_module(module, transform)
                self.proxies[name] = fields[name] = Proxy(module, lambda name=name: self._step_of(name))

    def close(self) -> None:
        """Put the components back and let go of the models."""
        fields = vars(self.pipe)
        for name, proxy in self.proxies.items():
            if fields.get(name) is proxy:
                fields[name] = vars(proxy)["_module"]
        self.models.clear()

    def _step_of(self, name: str) -> Callable[[dict[str, Any]], Any] | None:
        """Return what takes a step of a component; None outside of any call of this pipeline."""
        call = next((call for call in reversed(CURRENT.get()) if call.session is self), None)
        return None if call is None else call.component(name, vars(self.proxies[name])["_module"]).step

    def model(
        self, name: str, module: torch.nn.Module, kwargs: Mapping[str, Any], stamp: tuple, renew: bool = False
    ) -> CachedComponent:
        """Return the denoiser for calls like this one, adapting the module at the first and where it has changed.

        Raises:
            CheckpointError: it cannot be cut.
        """
        key = (name, shape_of_call(kwargs))
        if renew or key not in self.models or self.models[key].stamp != stamp:
            self.models[key] = model_of(module, kwargs, self.transforms[name], stamp)
        return self.models[key]


def shape_of_call(kwargs: Mapping[str, Any]) -> tuple:
    """Return what calls must have in common to be cut in the same way; sizes are checked when they run."""
    return tuple(sorted((name, "time" if name in TIMES else _kind(value)) for name, value in kwargs.items()))


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.ndim} dimensions of {value.dtype}"
    if isinstance(value, list | tuple) and any(isinstance(entry, torch.Tensor) for entry in value):
        return f"list of {sorted({_kind(entry) for entry in value})}"
    if isinstance(value, Mapping):
        return str({key: _kind(entry) for key, entry in value.items()})
    return repr(value)


@attrs.define(eq=False)
class PipelineCall:
    """One call of the pipeline, from its beginning to its end."""

    session: Session
    begun: tuple[Callable, tuple, Mapping[str, Any]]  # the pipeline's call, and its arguments
    components: dict[str, "ComponentCall"] = attrs.field(factory=dict)

    def component(self, name: str, module: torch.nn.Module) -> "ComponentCall":
        """Return what is known of a component in this call."""
        if name not in self.components or self.components[name].module is not module:
            counts = steps_of(self.session.pipe)
            self.components[name] = ComponentCall(name, module, self.session, counts.get(name, counts["transformer"]))
        return self.components[name]

    def finished(self) -> CallReport:
        """Return the report of the call."""
        components = self.components.values()
        branches = {f"{each.name}{b.label}": b for each in components for b in each.branches}
        counts = {f"{each.name}{b.label}": each.count for each in components for b in each.branches}
        report = CallReport(
            {name: tuple(branch.infos) for name, branch in branches.items()},
            counts,
            tuple(reason for each in components for reason in each.plain),
        )
        ran = {name: branch for name, branch in branches.items() if branch.infos}
        plans = [note for name, b in ran.items() for note in b.model.denoiser.notes(counts[name])]
        pieces = [Note(b.model.note, kind="note") for b in branches.values() if b.model.note]
        could = any(can_skip(b.model.denoiser.plan.rules, counts[name]) for name, b in ran.items())
        said = notes_of(report, could, {name: b.finite for name, b in branches.items()})
        return attrs.evolve(report, notes=tuple(dict.fromkeys((*said, *plans, *pieces, *self._differences()))))

    def _differences(self) -> tuple[Note, ...]:
        """Say in what this call differs from what a tuned plan was made for."""
        plan, components = self.session.plan, self.components.values()
        if plan is None or not components:
            return ()
        steps, modules = sum(each.count for each in components), [each.module for each in components]
        call, arguments, options = self.begun
        return plan.differs(**facts_of(self.session.pipe, call, arguments, options, modules, steps))


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


def noise_level(scheduler: Any) -> torch.Tensor | None:
    """Return the noise level before the step that a scheduler is at, of shape (); None where it is not known.

    The sigmas of other schedulers than those of rectified flow are no shares of noise in 0 to 1.
    """
    config, sigmas = getattr(scheduler, "config", None), getattr(scheduler, "sigmas", None)
    flow = "Flow" in type(scheduler).__name__ or getattr(config, "use_flow_sigmas", False)
    if not flow or sigmas is None or not hasattr(scheduler, "step_index"):
        return None
    at = scheduler.step_index
    if at is None:  # before the first step
        at = getattr(scheduler, "begin_index", None) or 0
    # Those of Mochi are the shares of the picture.
    return 1 - sigmas[at] if getattr(config, "invert_sigmas", False) else sigmas[at]


@attrs.define(eq=False)
class ComponentCall:
    """One component in one call of the pipeline.

    Attributes:
        name: its name in the pipeline.
        module: the component itself.
        session: what it belongs to.
        count: number of steps it will take.
        stamp: fingerprint of the module at the last step.
        clock: which step it is.
        branches: those seen so far.
        plain: reasons of the calls that went past the cache.
    """

    name: str
    module: torch.nn.Module
    session: Session
    count: int
    stamp: tuple = ()
    clock: Clock = attrs.field(factory=Clock)
    branches: list[Branch] = attrs.field(factory=list)
    plain: list[str] = attrs.field(factory=list)

    def step(self, kwargs: dict[str, Any]) -> Any:
        """Take one step of one branch."""
        hook = getattr(self.module, "_hf_hook", None)  # of model offloading: it brings the weights
        if hook is not None:
            _, kwargs = hook.pre_forward(self.module, **kwargs)
        model = self._model(kwargs)
        moment = self.clock.moment(self.session.pipe.scheduler, kwargs[model.forward.timestep])
        branch, rows = self._branch(model, kwargs)
        index = self.clock.index(moment, branch, certain=hasattr(self.session.pipe.scheduler, "step_index"))
        if index is None or index >= self.count:
            why = "a branch was called twice in a step" if index is None else f"more than {self.count} steps"
            self.plain.append(why)
            return self.module(**kwargs)
        try:
            prediction = self._advance(branch, rows, index, kwargs)
        except CheckpointError:  # of other sizes than those it was adapted to
            model = self.session.model(self.name, self.module, kwargs, self.stamp, renew=True)
            branch.renew(model, marks(kwargs, shape_of_call(kwargs)))
            prediction = self._advance(branch, None, index, kwargs)
        return ModelOutput.of(prediction, model.forward, kwargs.get("return_dict", True))

    def _model(self, kwargs: Mapping[str, Any]) -> CachedComponent:
        """Return the denoiser of a call, of the module as it is now."""
        self.stamp = fingerprint(self.module)
        return self.session.model(self.name, self.module, kwargs, self.stamp)

    def _branch(self, model: CachedComponent, kwargs: Mapping[str, Any]) -> tuple[Branch, tuple[int, ...] | None]:
        """Return the branch of a call, and which of its samples the call has (None: all)."""
        given = marks(kwargs, shape_of_call(kwargs))
        branch, rows = find(self.branches, CONTEXT.get(), given, self.clock.taken)
        if branch is None:
            branch = Branch(self._label(), CONTEXT.get(), given, model)
            self.branches.append(branch)
        elif branch.model.stamp != self.stamp:
            branch.renew(model, given)
            rows = None
        return branch, rows

    def _label(self) -> str:
        """Name a branch: as its context, or by the order of appearance where there are several."""
        if name := CONTEXT.get():
            same = sum(branch.context == name for branch in self.branches)
            return f"/{name}" + (f" {same}" if same else "")
        return f"/{len(self.branches)}"

    def _advance(self, branch: Branch, rows: Sequence[int] | None, index: int, kwargs: Mapping[str, Any]) -> Any:
        model = branch.model
        request, denoiser = model.forward.sorted(kwargs), model.denoiser
        if branch.bound is None:
            branch.bound = denoiser.bind(parameters(self.module) if model.functional else {})
        params = branch.bound
        with torch.no_grad():
            if branch.state is None or (rows is None and branch.sizes != request.latents.shape):
                branch.state = denoiser.init(params, request.conditioning, request.latents, self.count)
                branch.sizes, rows = request.latents.shape, None
            state, some = branch.state, None
            if rows is not None:
                some = torch.tensor(rows)
                state = attrs.evolve(state, cache=take(state.cache, some))
            # The conditioning of this call: residuals of a ControlNet are other ones at every step.
            state = attrs.evolve(state, prepared=request.conditioning)
            sigma, name = noise_level(self.session.pipe.scheduler), branch.label.lstrip("/")
            step = Step(index=index, count=self.count, timestep=request.timestep, sigma=sigma, branch=name)
            prediction, state, info = denoiser.apply(params, state, Inputs(request.latents, step))
            if some is not None:
                state = attrs.evolve(branch.state, cache=put(branch.state.cache, some, state.cache))
            branch.finite.append(finite_rows(prediction))
        branch.state = state
        branch.infos.append(info)
        return prediction
