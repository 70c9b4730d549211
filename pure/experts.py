"""Several denoisers that share one schedule, each responsible for a part of it (Wan 2.2).

Every expert has its own parameters, its own state and its own step indices; which one
a step belongs to is written in the step, never counted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch

from pure import guidance
from pure.block import Params
from pure.denoiser import Denoiser
from pure.info import Info
from pure.memory import State
from pure.notes import Note
from pure.step import Inputs

Transforms = Callable[[Denoiser], Denoiser] | Mapping[str, Callable[[Denoiser], Denoiser]]


@attrs.frozen
class Experts:
    """A denoiser made of named denoisers; parameters and states are dicts under the same names."""

    denoisers: Mapping[str, Denoiser]

    def init(
        self, params: Mapping[str, Params], conditioning: Any, latents: torch.Tensor, count: Mapping[str, int]
    ) -> dict[str, State]:
        """Return a state per expert; `count` is each expert's own number of steps (0: it never runs).

        Raises:
            ValueError: an expert has no parameters or no count, or its plan does not fit.
        """
        self._check_names("params", params)
        self._check_names("count", count)
        return {
            name: denoiser.init(params[name], conditioning, latents, count[name])
            for name, denoiser in self.denoisers.items()
            if count[name] > 0
        }

    def notes(self, count: Mapping[str, int], conditioning: Any = None) -> tuple[Note, ...]:
        """Return what the experts that run will not do; see `Denoiser.notes`.

        Raises:
            ValueError: an expert has no count, or its plan does not fit.
        """
        self._check_names("count", count)
        running = {name: one for name, one in self.denoisers.items() if count[name] > 0}
        found = [
            attrs.evolve(note, text=f"expert {name!r}: {note.text}")
            for name, one in running.items()
            for note in one.notes(count[name])
        ]
        if conditioning is not None:
            found += [note for one in running.values() for note in guidance.notes(one.guidance, conditioning)]
        return tuple(dict.fromkeys(found))

    def _check_names(self, what: str, given: Any) -> None:
        missing = set(self.denoisers) - set(given) if isinstance(given, Mapping) else set(self.denoisers)
        if missing:
            raise ValueError(f"{what} must be a dict with one entry for each expert; {sorted(missing)} is missing")

    def bind(self, params: Mapping[str, Params]) -> dict[str, Any]:
        """Group the parameters of every expert by block."""
        self._check_names("params", params)
        return {name: denoiser.bind(params[name]) for name, denoiser in self.denoisers.items()}

    def apply(
        self, params: Any, state: Mapping[str, State], inputs: Inputs
    ) -> tuple[torch.Tensor, dict[str, State], Info]:
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
            raise ValueError(
                f"expert {name!r} was initialised for 0 steps and now has one to take; count its steps in init"
            )
        prediction, new, info = self.denoisers[name].apply(params[name], state[name], inputs)
        return prediction, {**state, name: new}, info


def transformed(denoiser: Denoiser | Experts, transform: Transforms) -> Denoiser | Experts:
    """Apply a transform to a denoiser or to every expert; a mapping has one for each expert, by name.

    Experts that a mapping leaves out stay as they are.

    Raises:
        ValueError: a mapping names an expert that is not there.
        TypeError: this is no transform, or a class instead of a record of it.
    """
    for each in transform.values() if isinstance(transform, Mapping) else (transform,):
        if isinstance(each, type) or not callable(each):
            cure = f"; call it: {each.__name__}(...)" if isinstance(each, type) else ""
            raise TypeError(f"a transform is a record such as dbcache(), got {each!r:.200}{cure}")
    names = tuple(denoiser.denoisers) if isinstance(denoiser, Experts) else ()
    if isinstance(transform, Mapping):
        if unknown := sorted(transform.keys() - set(names)):
            raise ValueError(f"there are transforms for {', '.join(unknown)}; experts: {', '.join(names) or 'none'}")
    if not isinstance(denoiser, Experts):
        assert not isinstance(transform, Mapping) or not transform
        return denoiser if isinstance(transform, Mapping) else transform(denoiser)
    each = transform if isinstance(transform, Mapping) else dict.fromkeys(names, transform)
    return Experts({name: each[name](one) if name in each else one for name, one in denoiser.denoisers.items()})
