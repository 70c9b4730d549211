"""Which guidance branch a model call belongs to, and which step of the schedule it is.

Neither is guessed from the parity of calls. A branch is known by the name of the
pipeline's `cache_context`; without one by its conditioning, which is the same objects at
every step of a call (or, of pipelines that make them anew, equal values). A step is known
by the scheduler's own index, of older schedulers by the timestep.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from pure.block import Bound
from pure.info import Info
from pure.memory import State
from pure.models.accelerate.components import CachedComponent

# Parts of the names of arguments with the content of the prompt, and of those without.
TELLING = ("encoder_hidden_states", "cap_feats", "prompt", "pooled", "text", "caption", "class_labels")
SILENT = ("mask", "ids", "controlnet", "seq_len")


@attrs.frozen(eq=False)
class Marks:
    """What a branch is known by: the tensors of its conditioning, single or one per sample, and the kind of call."""

    tensors: tuple[torch.Tensor, ...]
    samples: tuple[tuple[torch.Tensor, ...], ...]
    kind: tuple

    @property
    def flat(self) -> list[torch.Tensor]:
        """Every tensor, those of single samples one by one."""
        return [*self.tensors, *(tensor for entries in self.samples for tensor in entries)]


def marks(kwargs: Mapping[str, Any], kind: tuple) -> Marks:
    """Return what the branch of a call is known by."""
    tensors, samples = [], []
    for name, value in sorted(kwargs.items()):
        if not any(part in name for part in TELLING) or any(part in name for part in SILENT):
            continue
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple) and all(isinstance(entry, torch.Tensor) for entry in value):
            samples.append(tuple(value))
    return Marks(tuple(tensors), tuple(samples), kind)


@attrs.define(eq=False)
class Branch:
    """One branch in one call of the pipeline.

    Attributes:
        label: its name in the report.
        context: name of the cache context, or empty.
        marks: what it is known by.
        model: the denoiser it runs through.
        bound: its parameters, grouped by block.
        state: what it remembers.
        sizes: shape of its latents.
        infos: what was decided at its steps.
        finite: for each step, which samples of the prediction are finite, (B,) on its device.
    """

    label: str
    context: str
    marks: Marks
    model: CachedComponent
    bound: Bound | None = None
    state: State | None = None
    sizes: torch.Size | None = None
    infos: list[Info] = attrs.field(factory=list)
    finite: list[torch.Tensor] = attrs.field(factory=list)

    def renew(self, model: CachedComponent, given: Marks) -> None:
        """Forget what is remembered and go on through another model, with the samples of this call."""
        self.model, self.marks, self.bound, self.state = model, given, None, None


def find(
    branches: Sequence[Branch], context: str, given: Marks, taken: set[int]
) -> tuple[Branch | None, tuple[int, ...] | None]:
    """Return the branch of a call, and which of its samples the call has (None: all).

    Args:
        branches: those seen so far.
        context: name of the cache context, or empty.
        given: marks of the call.
        taken: ids of the branches that have been called in this step already.
    """
    of_kind = [b for b in branches if b.context == context and b.marks.kind == given.kind]
    if context:
        return (of_kind[0], _among(of_kind[0].marks, given)) if of_kind else (None, None)
    for branch in of_kind:
        if _same(branch.marks.flat, given.flat, by_value=False):
            return branch, None
    free = [branch for branch in of_kind if id(branch) not in taken]
    for branch in free:
        if (rows := _among(branch.marks, given)) is not None:
            return branch, rows
    for branch in free:
        if _same(branch.marks.flat, given.flat):
            return branch, None
    return None, None


def _same(known: Sequence[torch.Tensor], given: Sequence[torch.Tensor], by_value: bool = True) -> bool:
    """Whether tensors are the same objects, or equal ones if `by_value`."""
    return len(known) == len(given) and all(
        a is b or (by_value and a.shape == b.shape and torch.equal(a, b)) for a, b in zip(known, given, strict=True)
    )


def _among(known: Marks, given: Marks) -> tuple[int, ...] | None:
    """Return where the samples of a smaller batch are among those of a branch; None if they are not.

    Rows of tensors are compared by value, entries of lists by identity: pipelines batch the former anew at every
    step. Samples with equal conditioning are taken in their order.
    """
    rows, some = _by_sample(known), _by_sample(given)
    if rows is None or some is None or not 0 < len(some) < len(rows):
        return None
    found: list[int] = []
    for sample in some:
        place = next((n for n, row in enumerate(rows) if n not in found and _same(row, sample)), None)
        if place is None:
            return None
        found.append(place)
    return tuple(found)


def _by_sample(given: Marks) -> list[tuple[torch.Tensor, ...]] | None:
    """Return the conditioning of every sample; None if its parts have different numbers of samples."""
    parts = [*given.tensors, *given.samples]
    if not parts or any(isinstance(part, torch.Tensor) and part.ndim == 0 for part in parts):
        return None
    if len({len(part) for part in parts}) != 1:
        return None
    return list(zip(*parts, strict=True))


@attrs.define(eq=False)
class Clock:
    """Which step of the schedule it is: one for all branches of a component."""

    now: Any = None
    number: int = -1
    taken: set[int] = attrs.field(factory=set)

    def moment(self, scheduler: Any, timestep: Any) -> Any:
        """Return what tells one step from the next, and go on to the next if it has come.

        The scheduler's index costs nothing; reading a timestep waits for the device.
        """
        moment = ("index", scheduler.step_index) if hasattr(scheduler, "step_index") else ("time", _value(timestep))
        if moment != self.now:
            self.now, self.number, self.taken = moment, self.number + 1, set()
        return moment

    def index(self, moment: Any, branch: Branch, certain: bool) -> int | None:
        """Return the number of the step; None if this branch has had it already.

        Args:
            moment: what `moment` returned.
            branch: which branch is called.
            certain: whether the moment alone tells steps apart. If not (two steps at the same
                timestep), a branch that comes again begins a new step.
        """
        if id(branch) in self.taken:
            if certain:
                return None
            self.number, self.taken = self.number + 1, set()
        self.taken.add(id(branch))
        return self.number


def _value(timestep: Any) -> float:
    return float(timestep.max()) if isinstance(timestep, torch.Tensor) else float(timestep)
