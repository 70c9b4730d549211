"""A run as one program: steps of tensors only, with the ledger, the rules and the decision inside.

`Denoiser.apply` decides in Python, between graphs. A program decides within them: what the rules of a
plan are made of (masks, warm-ups, limits, thresholds) becomes tensors, and a step is computed or filled in by
`torch.cond` where it is compiled or exported. So one graph serves every mask, threshold and schedule of the
same length, and can be exported.

All samples of a batch take one decision. Where a threshold decides that is the decision of a sample alone
only in a batch of one; with a mask it is in every batch.

Shapes: B samples, S steps, K remembered steps, R tensors of a solver's carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from pure import guidance as cfg
from pure.actions import COMPUTE, DEFER, action, check_writable, limits
from pure.block import Bound, Weights
from pure.checks import check_argument
from pure.coefficients import Shares, coefficients, place, table
from pure.decide import settle
from pure.denoiser import Denoiser
from pure.experts import Experts, denoisers_of
from pure.measure import EVERYTHING, sums
from pure.pieces import Pieces
from pure.solver import Solver
from pure.step import Step, check_count
from pure.tree import Tree, map_samples, state, static


@state
class StepInputs:
    """All that a step is given besides parameters and memory, as tensors."""

    index: torch.Tensor  # () int64
    timestep: torch.Tensor  # ()
    action: torch.Tensor  # () int64: 0 computes, 1 skips, 2 leaves it to limits and threshold
    limits: torch.Tensor  # (4,) float64: most skipped, most in a row, accumulated, threshold
    weights: tuple[torch.Tensor | None, ...]  # ((S + 1)^K, K) or (1, K) a kept stream; None for a held one
    solver: torch.Tensor  # (R, R + 1): the next carry of the carry and the prediction


@state
class ProgramState:
    """What a program remembers between steps: same tree, shapes and strides throughout."""

    prepared: Tree
    carry: tuple[torch.Tensor, ...]  # R of (B, ...)
    counts: torch.Tensor  # (2,) float64: steps skipped, and in a row
    accumulated: torch.Tensor  # () float64
    times: torch.Tensor  # (K,) int64: the last computed steps, newest first; -1 where there is none
    probe: torch.Tensor | None
    history: tuple[tuple[torch.Tensor, ...], ...]
    branches: int = static(default=1)  # rows a sample, 2 under guidance


@attrs.frozen(kw_only=True, eq=False)
class Program:
    """A run of one denoiser, one solver and one number of steps; see `pure.program`.

    Attributes:
        denoiser: transformed.
        steps: the schedule.
        inputs: of every step. Those of a program with another mask, threshold or schedule fit too.
        known: of every step, whether it computes, where that does not depend on the run; else None.
        start: R shares of the starting noise in the first carry.
        read: R shares of a carry in the latents.
    """

    denoiser: Denoiser = attrs.field(repr=False)
    steps: tuple[Step, ...] = attrs.field(repr=False)
    inputs: tuple[StepInputs, ...] = attrs.field(repr=False)
    known: tuple[bool | None, ...]
    start: tuple[float, ...] = attrs.field(repr=False)
    read: tuple[float, ...] = attrs.field(repr=False)

    @property
    def static(self) -> bool:
        """Whether every decision is known beforehand, as with a static mask: then no step needs a condition."""
        return None not in self.known

    def init(self, params: Weights, conditioning: Any, noise: torch.Tensor) -> ProgramState:
        """Return the state before the first step.

        Args:
            params: of the denoiser, or `bind` of them.
            conditioning: see `Denoiser.init`.
            noise: (B, ...).
        """
        first = self.denoiser.init(params, conditioning, noise, self.steps)
        depth = max((stream.predictor.history for stream in self.denoiser.pieces.kept), default=1)
        return ProgramState(
            prepared=first.prepared,
            carry=tuple(noise * share for share in self.start),
            counts=torch.zeros(2, dtype=torch.float64, device=noise.device),
            accumulated=torch.zeros((), dtype=torch.float64, device=noise.device),
            times=torch.full((depth,), -1, device=noise.device),
            probe=first.cache.probe,
            history=first.cache.history,
            branches=first.branches,
        )

    def step(
        self, params: Bound, state: ProgramState, inputs: StepInputs, computes: bool | None = None
    ) -> tuple[ProgramState, torch.Tensor, torch.Tensor]:
        """Take one step, a function of tensors only.

        Args:
            params: `denoiser.bind` of them.
            state: as `init` or `step` returned it.
            inputs: of the step.
            computes: what is decided, where that is known beforehand; None: it is decided inside.

        Returns:
            The new state; () bool, whether the middle blocks were computed; () float64, the change, NaN where
            nothing measures it.
        """
        return _step(self, params, state, inputs, computes)

    def run(self, params: Bound, state: ProgramState) -> tuple[torch.Tensor, torch.Tensor]:
        """Take all steps: return the latents (B, ...), and (S,) bool which steps were computed.

        One graph of all steps, if it is compiled: `torch.compile(program.run, fullgraph=True)`.
        """
        decisions = []
        for inputs, known in zip(self.inputs, self.known, strict=True):
            state, computed, _ = self.step(params, state, inputs, known)
            decisions.append(computed)
        return self.latents(state), torch.stack(decisions)

    def latents(self, state: ProgramState) -> torch.Tensor:
        """Return the latents (B, ...)."""
        return _latents(self, state.carry)


def program(denoiser: Denoiser, steps: Sequence[Step], solver: Solver[Any]) -> Program:
    """Return a run as a program of tensors.

    Args:
        denoiser: with a cache of the built-in rules, a predictor, guidance all the way or none.
        steps: the schedule, for instance `pipeline.schedule(request)`; shared by all samples.
        solver: linear in latents and predictions, as all are that only weigh them.

    Raises:
        TypeError: this is no denoiser; two experts are two programs, see `programs_of`.
        ValueError: rules, guidance or predictor cannot be written as tensors, or the steps are a part of a schedule;
            the message names them.
    """
    if not isinstance(denoiser, Denoiser):
        kind = type(denoiser).__name__
        raise TypeError(f"a program is of one Denoiser, got {kind}; pure.programs_of(...) makes one of each expert's")
    return programs_of(denoiser, steps, solver)[""]


def programs_of(denoiser: Denoiser | Experts, steps: Sequence[Step], solver: Solver[Any]) -> dict[str, Program]:
    """Return a program of every expert that has steps, by name and in their order; a denoiser alone has an empty name.

    The solver goes through the whole schedule: the first state of an expert gets the carry after the last step of the
    one before, `attrs.evolve(state, carry=before.carry)`.

    Args:
        denoiser: see `program`.
        steps: the schedule; of experts each step names its own.
        solver: see `program`.

    Raises:
        TypeError: this is neither a denoiser nor experts.
        ValueError: see `program`; or a step names no expert.
    """
    check_argument(denoiser, (Denoiser, Experts), "programs are of a Denoiser or Experts")
    steps, denoisers = tuple(steps), denoisers_of(denoiser)
    check_count(len(steps))
    names = [str(step.expert) if isinstance(denoiser, Experts) else "" for step in steps]
    if unknown := [name for name in names if name not in denoisers]:
        raise ValueError(f"a step names expert {unknown[0]!r}; there are {sorted(denoisers)}")
    places = {name: [at for at, own in enumerate(names) if own == name] for name in dict.fromkeys(names)}
    for own in places.values():
        if [(steps[at].index, steps[at].count) for at in own] != [(index, len(own)) for index in range(len(own))]:
            raise ValueError(PART)
    matrices, start, read = coefficients(solver, steps)
    return {
        name: _program(denoisers[name], [(steps[at], matrices[at]) for at in own], start, read)
        for name, own in places.items()
    }


PART = "a program is of a whole schedule, all its steps in order; run a part of one with pure.unroll"


def _program(denoiser: Denoiser, steps: Sequence[tuple[Step, torch.Tensor]], start: Shares, read: Shares) -> Program:
    """Return the program of one denoiser, of steps and what the solver does at them."""
    pieces, count = denoiser.pieces, len(steps)
    rules = settle(denoiser.plan.rules, count) if pieces.kept else ()
    actions = [action(rules, index) for index in range(count)]
    static = DEFER not in actions
    check_writable(denoiser, rules, static)
    decided = [each == COMPUTE for each in actions] if static else None
    inputs = tuple(
        StepInputs(
            index=torch.tensor(index),
            timestep=step.timestep,
            action=torch.tensor(actions[index]),
            limits=limits(rules),
            weights=tuple(table(stream, decided, count, index) for stream in pieces.kept),
            solver=matrix,
        )
        for index, (step, matrix) in enumerate(steps)
    )
    known = tuple(each == COMPUTE if static else None for each in actions)
    return Program(
        denoiser=denoiser, steps=tuple(step for step, _ in steps), inputs=inputs, known=known, start=start, read=read
    )


def _latents(program: Program, carry: tuple[torch.Tensor, ...]) -> torch.Tensor:
    shares = [(share, each) for share, each in zip(program.read, carry, strict=True) if share]
    return sum((share * each for share, each in shares[1:]), shares[0][0] * shares[0][1])


def _step(
    program: Program, params: Bound, state: ProgramState, inputs: StepInputs, computes: bool | None
) -> tuple[ProgramState, torch.Tensor, torch.Tensor]:
    denoiser, pieces = program.denoiser, program.denoiser.pieces
    latents = _latents(program, state.carry)
    inputs = map_samples(lambda leaf: leaf.to(latents.device), inputs)
    guided = state.branches == 2
    entry = cfg.doubled(latents) if guided else latents
    front, stop = pieces.span
    times = inputs.timestep.expand(entry.shape[0])
    begin = pieces.brief if computes is False else pieces.front
    begun, context, residual = begin(params.all, params.blocks[:front], state.prepared, entry, times)
    # Streams may be views of one tensor, and a condition takes no two of those.
    hidden = map_samples(torch.clone, begun) if computes is None and torch.compiler.is_compiling() else begun
    change = _change(pieces, state, None if program.static else residual, guided)
    go = _decision(state, inputs, change) if computes is None else torch.full((), computes, device=latents.device)
    blocks = params.blocks[front:stop]
    ended, kept = _middle(program, blocks, state, inputs, hidden, context, residual, go, computes)
    prediction = pieces.back(params.all, params.blocks[stop:], ended, context)
    if guided:
        assert denoiser.guidance is not None
        prediction = cfg.combine(denoiser.guidance, prediction)
    return _after(state, inputs, kept, prediction, go, change), go, change


def _middle(
    program: Program,
    blocks: tuple,
    state: ProgramState,
    inputs: StepInputs,
    hidden: Tree,
    context: Tree,
    residual: torch.Tensor | None,
    go: torch.Tensor,
    computes: bool | None,
) -> tuple[Tree, tuple[torch.Tensor, ...]]:
    """Compute the middle blocks or fill in; return the streams, and the histories and the probe that follow."""
    pieces = program.denoiser.pieces
    cls, names = type(hidden), type(hidden).__tree_fields__
    statics = {name: getattr(hidden, name) for name in cls.__static_fields__}

    def streams(tensors: tuple[torch.Tensor, ...]) -> Any:
        return cls(**dict(zip(names, tensors, strict=True)), **statics)

    def compute(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, newest = pieces.middle(blocks, streams(tensors), context)
        history = [(new, *past[:-1]) for new, past in zip(newest, state.history, strict=True)]
        probe = () if state.probe is None or residual is None else (residual,)
        return _apart([getattr(out, name) for name in names], *history, probe)

    def skip(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = pieces.fill(
            streams(tensors), state.history, _chosen(state, inputs, len(program.steps), tensors[0].shape[0])
        )
        probe = () if state.probe is None else (state.probe,)
        return _apart([getattr(out, name) for name in names], *state.history, probe)

    given = tuple(getattr(hidden, name) for name in names)
    if not pieces.kept or computes:
        made = compute(*given)
    elif computes is not None:
        made = skip(*given)
    elif torch.compiler.is_compiling():
        made = torch.cond(go, compute, skip, given)
    else:
        made = compute(*given) if bool(go) else skip(*given)
    return streams(made[: len(names)]), made[len(names) :]


def _apart(*groups: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return tensors that share no memory with anything: what the branches of a condition may return."""
    return tuple(each.clone(memory_format=torch.contiguous_format) for group in groups for each in group)


def _change(pieces: Pieces, state: ProgramState, residual: torch.Tensor | None, guided: bool) -> torch.Tensor:
    """Return the largest change of a sample, () float64; NaN where nothing is measured."""
    if state.probe is None or residual is None:
        return torch.full((), torch.nan, dtype=torch.float64, device=state.counts.device)
    moved, size = sums(pieces.probe or EVERYTHING, state.probe, residual).double()
    change = torch.where(size == 0, torch.where(moved == 0, 0.0, torch.inf), moved / size)
    return (change[::2] if guided else change).amax()


def _decision(state: ProgramState, inputs: StepInputs, change: torch.Tensor) -> torch.Tensor:
    """Return () bool: whether the rules compute."""
    skipped, streak = state.counts.unbind()
    total, continuous, accumulated, threshold = inputs.limits.unbind()
    limited = (skipped >= total) | (streak >= continuous) | (state.accumulated >= accumulated)
    judged = ~((change < threshold) | (threshold >= 1))  # NaN computes
    asked = (inputs.action == DEFER) & (limited | judged)
    return (inputs.action == COMPUTE) | asked | (inputs.index == 0)


def _chosen(state: ProgramState, inputs: StepInputs, count: int, batch: int) -> tuple[torch.Tensor | None, ...]:
    """Return the weights (B, K) of every kept stream for the history that there is."""

    def rows(table: torch.Tensor | None) -> torch.Tensor | None:
        if table is None:
            return None
        if table.shape[0] == 1:
            return table.expand(batch, -1)
        row = place(state.times[: table.shape[1]].unbind(), count).view(1)
        return table.index_select(0, row).expand(batch, -1)

    return tuple(rows(table) for table in inputs.weights)


def _after(
    state: ProgramState,
    inputs: StepInputs,
    kept: tuple[torch.Tensor, ...],
    prediction: torch.Tensor,
    go: torch.Tensor,
    change: torch.Tensor,
) -> ProgramState:
    """Return the state after a step; `kept` are the histories, and the probe if there is one."""
    history, left = [], list(kept)
    for past in state.history:
        history.append(tuple(left[: len(past)]))
        left = left[len(past) :]
    stacked = [*state.carry, prediction]
    carry = tuple(_weighed(row, stacked) for row in inputs.solver.unbind())
    zero = torch.zeros_like(state.accumulated)
    return ProgramState(
        prepared=state.prepared,
        carry=carry,
        counts=torch.stack([state.counts[0] + ~go, torch.where(go, zero, state.counts[1] + 1)]),
        accumulated=torch.where(go, zero, state.accumulated + change.nan_to_num(0.0)),
        times=torch.where(go, torch.cat([inputs.index.view(1), state.times[:-1]]), state.times),
        probe=left[0] if left else None,
        history=tuple(history),
        branches=state.branches,
    )


def _weighed(shares: torch.Tensor, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    wide = torch.promote_types(tensors[-1].dtype, torch.float32)
    total = sum((share * each.to(wide) for share, each in zip(shares.unbind(), tensors, strict=True)), torch.zeros(()))
    return total.to(tensors[-1].dtype)
