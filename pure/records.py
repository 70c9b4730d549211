"""What a denoiser is, what is asked of it and what it answers.

Shapes: B samples, N tokens, D width; a denoiser fixes the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch

from pure.tree import state, static

if TYPE_CHECKING:
    from pure.predictors import Predictor
    from pure.rules import Rule

Params = Mapping[str, torch.Tensor]
"""Parameters of a denoiser, under the names of its checkpoint."""
Tree = Any


class Answer(enum.Enum):
    """What a rule says about one sample at one step."""

    COMPUTE = "compute"
    SKIP = "skip"
    DEFER = "defer"


@attrs.frozen
class Block:
    """One transformer block: a pure function and the prefix of its parameters' names.

    `run(params, hidden, context, attend) -> hidden` receives the parameters under the
    names that remain after the prefix, so that equal blocks share one compilation.

    Attributes:
        run: the function; an `Ending` does less where nothing but the head follows.
        prefix: of its parameters' names.
        number: if given, `run` finds it under the name "number", as an int64 tensor () beside the
            parameters: with it a block picks its own out of what `prepare` made for all, and blocks
            that differ in their numbers still share one compilation.
    """

    run: Callable[[Params, Tree, Tree, Callable], Tree]
    prefix: str
    number: int | None = None


@attrs.frozen
class Ending:
    """The function of a block that has less to do where nothing but the head follows.

    Attributes:
        run: `run(params, hidden, context, attend, last)`; if `last`, streams that the head does not
            read may be left as they came.
    """

    run: Callable[[Params, Tree, Tree, Callable, bool], Tree]

    def __call__(self, params: Params, hidden: Tree, context: Tree, attend: Callable) -> Tree:
        """Run the whole block."""
        return self.run(params, hidden, context, attend, False)

    def last(self, params: Params, hidden: Tree, context: Tree, attend: Callable) -> Tree:
        """Run as much of the block as the head needs."""
        return self.run(params, hidden, context, attend, True)


@attrs.frozen(kw_only=True)
class Span:
    """Which blocks always run: the first `front` and the last `back` of the stack."""

    front: int = 0
    back: int = 0


@attrs.frozen(kw_only=True)
class Probe:
    """How the change of the front residual is measured.

    Attributes:
        importance: only tokens whose own relative change exceeds this take part (0: all).
        downsample: every k-th feature takes part (1: all).
        follow: "own" measures every branch; "conditional" lets the other guidance branch
            use the change measured on the conditional one.
    """

    importance: float = 0.0
    downsample: int = 1
    follow: str = "own"


@attrs.frozen(kw_only=True)
class Plan:
    """What may be skipped (`span`), when (`rules`) and how it is filled in (`predictor`).

    A plan is edited by transforms through `set` and `add`; saying the same thing twice is
    fine, saying two different things is an error. The default plan computes everything.
    """

    span: Span | None = None
    rules: tuple[Rule, ...] = ()
    predictor: Predictor | None = None
    probe: Probe | None = None

    def set(self, **fields: Any) -> Plan:
        """Return the plan with `fields` set.

        Raises:
            ValueError: a field already holds another value.
        """
        for name, new in fields.items():
            old = getattr(self, name)
            if old is not None and old != new:
                raise ValueError(f"{name} is set twice, to {old} and to {new}; compose only one of the two")
        return attrs.evolve(self, **fields)

    def add(self, *rules: Rule) -> Plan:
        """Return the plan with `rules` added, in their canonical order.

        Raises:
            ValueError: a rule of the same kind with other settings is there already.
        """
        by_kind = {type(rule): rule for rule in self.rules}
        for rule in rules:
            old = by_kind.setdefault(type(rule), rule)
            if old != rule:
                raise ValueError(f"a rule is set twice, as {old} and as {rule}; compose only one of the two")
        return attrs.evolve(self, rules=tuple(sorted(by_kind.values(), key=lambda rule: rule.rank)))


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """Identity of one call: where in which trajectory every sample stands.

    Attributes:
        index: step index within the expert's own schedule, from 0; one for all samples or
            one per sample.
        count: number of steps of that schedule, likewise.
        timestep: what the model sees; shape () or (B,).
        sigma: noise level before the step; shape () or (B,).
        sigma_next: noise level after it.
        expert: name of the expert; empty where there is one only.
        branch: name of the guidance branch.
    """

    index: int | tuple[int, ...]
    count: int | tuple[int, ...]
    timestep: torch.Tensor
    sigma: torch.Tensor | None = None
    sigma_next: torch.Tensor | None = None
    expert: str | tuple[str, ...] = ""
    branch: str | tuple[str, ...] = "conditional"
    # Made once, with the schedule: in a step of one sample it would be one operation of ten.
    _times: torch.Tensor = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: _at_least_1d(self.timestep), takes_self=True)
    )

    def rows(self, batch: int) -> tuple[Where, ...]:
        """Say for each of `batch` samples where it stands.

        Raises:
            ValueError: a per-sample field has another length than the batch.
        """
        index, count, expert, branch = self.index, self.count, self.expert, self.branch
        if not (
            isinstance(index, tuple)
            or isinstance(count, tuple)
            or isinstance(expert, tuple)
            or isinstance(branch, tuple)
        ):
            return (Where(index, count, expert, branch),) * batch
        columns = [_spread(name, getattr(self, name), batch) for name in ("index", "count", "expert", "branch")]
        return tuple(Where(*values) for values in zip(*columns, strict=True))

    def times(self, batch: int) -> torch.Tensor:
        """Return the timestep of every sample, shape (B,)."""
        return self._times.expand(batch) if self.timestep.ndim == 0 and batch != 1 else self._times


def _at_least_1d(timestep: torch.Tensor) -> torch.Tensor:
    return timestep.reshape(1) if timestep.ndim == 0 else timestep


def _spread(name: str, value: Any, batch: int) -> tuple:
    if not isinstance(value, tuple):
        return (value,) * batch
    if len(value) != batch:
        raise ValueError(f"Step.{name} has {len(value)} entries for a batch of {batch} samples; give one per sample")
    return value


@attrs.frozen
class Where:
    """Where one sample stands: the Python side of a `Step`, all that rules may read."""

    index: int
    count: int
    expert: str = ""
    branch: str = "conditional"


@attrs.frozen(eq=False)
class Inputs:
    """What changes from step to step: `latents` (B, ...) and the `Step`."""

    latents: torch.Tensor
    step: Step


@attrs.frozen(slots=True)
class Memory:
    """What the rules and predictors remember of one row, as Python numbers.

    Attributes:
        skipped: steps skipped so far.
        streak: steps skipped since the last computed one.
        computed: steps computed so far.
        first: index of the first computed step, -1 before it.
        accumulated: sum of the changes accepted since the last computed step.
        size: sum of the absolute front residual at the last computed step, -1 where nothing has asked for it.
        times: indices of the last K computed steps, newest first, -1 where there is none yet.
    """

    skipped: int
    streak: int
    computed: int
    first: int
    accumulated: float
    times: tuple[int, ...]
    size: float = -1.0

    def after(self, decision: Decision, size: float = -1.0) -> Memory:
        """Return the memory once this step's decision is carried out, whose measurement found `size`."""
        if decision.computed:
            first = self.first if self.computed else decision.index
            times = (decision.index, *self.times[:-1]) if self.times else ()
            return Memory(self.skipped, 0, self.computed + 1, first, 0.0, times)
        accumulated = self.accumulated + (decision.change or 0.0)
        return Memory(self.skipped + 1, self.streak + 1, self.computed, self.first, accumulated, self.times, size)


def write(memories: Sequence[Memory]) -> torch.Tensor:
    """Return the ledger of a batch: (B, 6 + K) float64 on the CPU, one `Memory` per row.

    One tensor, because it is read and written every step and every tensor made costs
    microseconds; float64, because it holds counts and a sum of changes side by side.
    """
    rows = [(m.skipped, m.streak, m.computed, m.first, m.accumulated, m.size, *m.times) for m in memories]
    return torch.from_numpy(np.array(rows, dtype=np.float64))  # half the time of torch.tensor


def read(ledger: torch.Tensor) -> list[Memory]:
    """Return the rows of a ledger."""
    return [
        Memory(int(s), int(k), int(c), int(f), accumulated, tuple(map(int, times)), size)
        for s, k, c, f, accumulated, size, *times in ledger.tolist()
    ]


@state
class Cache:
    """What a denoiser remembers between steps; same tree, shapes and strides from `init` on.

    The ledger lives on the CPU, whatever the device of the model, so that rules never wait
    for it. A plan that cannot skip keeps no probe and no history.
    """

    ledger: torch.Tensor  # (B, 6 + K) float64, see `write`
    probe: torch.Tensor | None  # (B, N, D) front residual at the last computed step; None if nothing measures it
    history: tuple[tuple[torch.Tensor, ...], ...]  # per kept stream: what the last computed steps left, newest first


@state
class State:
    """The only memory between steps.

    Attributes:
        prepared: constant for the request.
        cache: what steps change.
        branches: rows per sample, 2 under guidance.
    """

    prepared: Tree
    cache: Cache
    branches: int = static(default=1)


@attrs.frozen
class Decision:
    """What was decided for one sample at one step, and why.

    `change` is the measured relative change of the front residual, None where no rule
    asked for it; `blocks` counts the blocks run for this sample.
    """

    index: int
    computed: bool
    reason: str
    change: float | None
    blocks: int
    branch: str = "conditional"
    expert: str = ""


@attrs.frozen
class Info:
    """What a person wants to know about one step; `apply` never reads it back."""

    decisions: tuple[Decision, ...]

    @property
    def computed(self) -> tuple[bool, ...]:
        """Whether each sample (and branch) was computed."""
        return tuple(decision.computed for decision in self.decisions)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Which rule decided for each sample."""
        return tuple(decision.reason for decision in self.decisions)

    @property
    def changes(self) -> tuple[float | None, ...]:
        """Measured change of each sample, None where it was not needed."""
        return tuple(decision.change for decision in self.decisions)

    @property
    def blocks(self) -> int:
        """Blocks run, summed over the samples."""
        return sum(decision.blocks for decision in self.decisions)


@attrs.frozen
class Bound:
    """Parameters grouped by block, once per request and without copies."""

    all: Params
    blocks: tuple[Params, ...]


def bind(blocks: Sequence[Block], params: Params | Bound) -> Bound:
    """Group a flat parameter dict by block; what is grouped already is returned as it is.

    Raises:
        KeyError: a block finds no parameter under its prefix.
    """
    if isinstance(params, Bound):
        return params
    groups: dict[str, dict[str, torch.Tensor]] = {block.prefix: {} for block in blocks if block.prefix}
    lengths = sorted({len(prefix) for prefix in groups}, reverse=True)
    for name, tensor in params.items():
        for length in lengths:
            if name[:length] in groups:
                groups[name[:length]][name[length:]] = tensor
                break
    for prefix, group in groups.items():
        if not group:
            raise KeyError(f"no parameter starts with {prefix!r}; these parameters belong to another denoiser")
    for block in blocks:
        if block.number is not None:
            group = groups[block.prefix]
            group["number"] = torch.tensor(block.number, device=next(iter(group.values())).device)
    return Bound(params, tuple(groups.get(block.prefix, {}) for block in blocks))
