"""Several denoisers that share one schedule, each responsible for a part of it (Wan 2.2).

Every expert has its own parameters, its own state and its own step indices; which one
a step belongs to is written in the step, never counted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch

from pure import guidance
from pure.block import Bound, Params, Weights
from pure.checks import check_argument, refuse, shown
from pure.denoiser import Denoiser
from pure.info import Info
from pure.memory import State, States
from pure.notes import Note
from pure.step import Inputs, Step, check_steps

Transforms = Callable[[Denoiser], Denoiser] | Mapping[str, Callable[[Denoiser], Denoiser]]


def _denoisers(instance: object, attribute: attrs.Attribute, value: Any) -> None:
    named = isinstance(value, Mapping) and value
    if not named or not all(isinstance(n, str) and isinstance(one, Denoiser) for n, one in value.items()):
        raise refuse(instance, attribute.name, value, "give a dict of denoisers by name, at least one", TypeError)


@attrs.frozen
class Experts:
    """A denoiser made of named denoisers; parameters and states are dicts under the same names.

    Raises:
        TypeError: `denoisers` is no dict of denoisers by name, or empty.
    """

    denoisers: Mapping[str, Denoiser] = attrs.field(validator=_denoisers)

    def bind(self, params: Weights) -> dict[str, Bound]:
        """Group the parameters of every expert by block.

        Raises:
            ValueError: an expert has no parameters.
        """
        return {name: denoiser.bind(_own(params, name)) for name, denoiser in self.denoisers.items()}

    def init(
        self, params: Weights, conditioning: Any, latents: torch.Tensor, steps: Sequence[Step] | int
    ) -> dict[str, State]:
        """Return a state for every expert that has a step in the schedule.

        Args:
            params: parameters of every expert, or `bind` of them.
            conditioning: see `Denoiser.init`; one for all experts.
            latents: (B, ...) starting noise; only its metadata matters.
            steps: the schedule, or some steps of it; each names its expert.

        Raises:
            TypeError: `steps` is a number: which of them are whose is not known.
            ValueError: there are no steps, an expert has no parameters, or its plan does not fit.
        """
        return {
            name: self.denoisers[name].init(_own(params, name), conditioning, latents, own)
            for name, own in self._own_steps(steps).items()
        }

    def notes(self, steps: Sequence[Step] | int, conditioning: Any = None) -> tuple[Note, ...]:
        """Return what the experts that run will not do; see `Denoiser.notes`.

        Raises:
            TypeError: see `init`.
            ValueError: there are no steps, or an expert's plan does not fit.
        """
        running = {name: (self.denoisers[name], own) for name, own in self._own_steps(steps).items()}
        found = [
            attrs.evolve(note, text=f"expert {name!r}: {note.text}")
            for name, (one, own) in running.items()
            for note in one.notes(own)
        ]
        if conditioning is not None:
            negative = isinstance(conditioning, guidance.Branches)
            found += [note for one, _ in running.values() for note in guidance.notes(one.guidance, negative, steps)]
        return tuple(dict.fromkeys(found))

    def _own_steps(self, steps: Sequence[Step] | int) -> dict[str, list[Step]]:
        """Return the steps of every expert that has any."""
        if isinstance(steps, int):
            wanted = "experts share the steps of one schedule; pass its steps instead of their number"
            raise TypeError(f"{wanted}, {shown(steps)}")
        check_steps(steps)
        own = {name: [step for step in steps if step.expert == name] for name in self.denoisers}
        return {name: some for name, some in own.items() if some}

    def apply(self, params: Weights, state: States, inputs: Inputs) -> tuple[torch.Tensor, dict[str, State], Info]:
        """Take one step with the expert that `inputs.step.expert` names.

        Raises:
            ValueError: no such expert, or samples of the batch name different ones.
            TypeError: an argument is of another kind.
        """
        if not isinstance(inputs, Inputs) or not isinstance(state, Mapping):
            raise TypeError(
                "apply takes the dict of states that init or apply returned, and pure.Inputs(latents, step); "
                f"got {type(state).__name__} and {type(inputs).__name__}"
            )
        name = inputs.step.expert
        if not isinstance(name, str) or name not in self.denoisers:
            raise ValueError(f"step names expert {name!r}; there are {sorted(self.denoisers)}, one for the whole batch")
        if name not in state:
            raise ValueError(f"expert {name!r} has no state: no step that init was given names it")
        prediction, new, info = self.denoisers[name].apply(_own(params, name), state[name], inputs)
        return prediction, {**state, name: new}, info


def _own(params: Weights, name: str) -> Params | Bound:
    """Return the parameters of one expert."""
    own = params.get(name) if isinstance(params, Mapping) else None
    if not isinstance(own, Bound | Mapping):
        raise ValueError(f"params must be a dict with the parameters of each expert; there are none for {name!r}")
    return own


def denoisers_of(denoiser: Denoiser | Experts) -> Mapping[str, Denoiser]:
    """Return every expert by its name; a denoiser alone has an empty one."""
    return denoiser.denoisers if isinstance(denoiser, Experts) else {"": denoiser}


def first_of(denoiser: Denoiser | Experts) -> Denoiser:
    """Return the denoiser, or the first of the experts."""
    return next(iter(denoisers_of(denoiser).values()))


def mixes(denoiser: Denoiser | Experts) -> bool:
    """Whether samples of this denoiser can stand at different steps: one expert, and guidance all the way or none."""
    if isinstance(denoiser, Experts):
        return False
    return denoiser.guidance is None or denoiser.guidance.always


def transformed(denoiser: Denoiser | Experts, transform: Transforms) -> Denoiser | Experts:
    """Apply a transform to a denoiser or to every expert; a mapping has one for each expert, by name.

    Experts that a mapping leaves out stay as they are.

    Raises:
        ValueError: a mapping names an expert that is not there.
        TypeError: this is no transform, or a class instead of a record of it.
    """
    check_argument(denoiser, (Denoiser, Experts), "what is transformed is a Denoiser or Experts")
    for each in transform.values() if isinstance(transform, Mapping) else (transform,):
        if isinstance(each, type) or not callable(each):
            cure = f"; call it: {each.__name__}(...)" if isinstance(each, type) else ""
            raise TypeError(f"a transform is a record such as dbcache(), got {shown(each)}{cure}")
    names = tuple(denoiser.denoisers) if isinstance(denoiser, Experts) else ()
    if isinstance(transform, Mapping):
        if unknown := sorted(transform.keys() - set(names)):
            raise ValueError(f"there are transforms for {', '.join(unknown)}; experts: {', '.join(names) or 'none'}")
    if not isinstance(denoiser, Experts):
        return denoiser if isinstance(transform, Mapping) else _applied(transform, denoiser)
    each = transform if isinstance(transform, Mapping) else dict.fromkeys(names, transform)
    return Experts(
        {name: _applied(each[name], one) if name in each else one for name, one in denoiser.denoisers.items()}
    )


def _applied(transform: Callable[[Denoiser], Denoiser], denoiser: Denoiser) -> Denoiser:
    found = transform(denoiser)
    if not isinstance(found, Denoiser):
        raise TypeError(f"the transform {transform!r:.200} returns {type(found).__name__}; it should return a denoiser")
    return found
