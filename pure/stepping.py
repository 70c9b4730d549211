"""`init` and `apply`: the only place in the project where blocks are skipped.

A batch is split into the samples that compute and the samples that skip. Fill-in runs
on all samples, the middle blocks on those that compute; front and back on all.

Shapes: B rows, which are samples, or samples times branches under guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch

from pure import guidance as cfg
from pure.block import Bound
from pure.info import Answer, Decision, Info
from pure.measure import measure
from pure.memory import Cache, Memory, State, read, write
from pure.pieces import mark_batch
from pure.rules import Rules, check, decide, judge, settle
from pure.step import Inputs, Step, Where
from pure.tree import map_samples, put, send, take

if TYPE_CHECKING:
    from pure.denoiser import Denoiser
    from pure.pieces import Kept, Pieces

Tree = Any


def init(denoiser: Denoiser, params: Bound, conditioning: Tree, latents: torch.Tensor, count: int) -> State:
    """Return the state before the first step (see `Denoiser.init`)."""
    if count < 1:
        raise ValueError(f"a run of {count} steps cannot be started; ask for at least 1")
    check(denoiser.plan.rules, count)
    conditioning, guided = cfg.rows(denoiser.guidance, conditioning)
    prepared = map_samples(torch.Tensor.contiguous, denoiser.prepare(params.all, conditioning))
    entry = cfg.doubled(latents) if guided else latents
    batch = entry.shape[0]
    hidden, _ = denoiser.embed(params.all, prepared, entry, entry.new_zeros(batch))
    cache = _empty(denoiser.pieces, denoiser.probe(hidden), hidden, batch)
    return State(prepared=prepared, cache=cache, branches=2 if guided else 1)


def _empty(pieces: Pieces, probed: torch.Tensor, hidden: Tree, batch: int) -> Cache:
    def zeros(like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(like.shape, dtype=like.dtype, device=like.device)

    fresh = Memory(skipped=0, streak=0, computed=0, first=-1, accumulated=0.0, times=(-1,) * pieces.history)
    return Cache(
        ledger=write([fresh] * batch),
        probe=zeros(probed) if pieces.probing else None,
        history=tuple(
            tuple(zeros(getattr(hidden, stream.name)) for _ in range(stream.predictor.history))
            for stream in pieces.kept
        ),
    )


def apply(denoiser: Denoiser, params: Bound, state: State, inputs: Inputs) -> tuple[torch.Tensor, State, Info]:
    """Take one step (see `Denoiser.apply`)."""
    latents, step, guidance = inputs.latents, inputs.step, denoiser.guidance
    batch, rows = latents.shape[0], state.cache.ledger.shape[0]
    if rows != batch * state.branches:
        raise ValueError(
            f"the state holds {rows // state.branches} samples and the latents {batch}; "
            "use the state that init, take or join gave for this batch"
        )
    if state.branches == 1:
        return _advance(denoiser, params, state, latents, step)
    if guidance is None:
        raise ValueError("the state holds two branches of each sample, but this denoiser is not guided(...)")
    if guidance.active(step):
        prediction, state, info = _advance(
            denoiser, params, state, cfg.doubled(latents), cfg.both(step, batch), paired=True
        )
        return cfg.combine(guidance, prediction), state, info
    conditional = cfg.conditional(batch)
    half = State(prepared=take(state.prepared, conditional), cache=take(state.cache, conditional))
    prediction, half, info = _advance(denoiser, params, half, latents, step)
    # Only the cache goes back: the prepared half is constant, and copying it would cost a request's memory.
    return prediction, attrs.evolve(state, cache=put(state.cache, conditional, half.cache)), info


def _advance(
    denoiser: Denoiser, params: Bound, state: State, latents: torch.Tensor, step: Step, paired: bool = False
) -> tuple[torch.Tensor, State, Info]:
    """Take one step with every row on its own; `paired` rows are the two branches of a sample."""
    pieces, cache = denoiser.pieces, state.cache
    front, stop = pieces.span
    batch = latents.shape[0]
    rows, memories = step.rows(batch), read(cache.ledger)
    answers = _foresee(denoiser.plan.rules, rows, memories)
    begin = pieces.brief if all(answer is Answer.SKIP for answer, _ in answers) else pieces.front
    hidden, context, residual = begin(params.all, params.blocks[:front], state.prepared, latents, step.times(batch))
    decisions, sizes = _decide(denoiser, answers, cache, residual, rows, [m.size for m in memories], paired)
    ledger = write([m.after(d, size) for m, d, size in zip(memories, decisions, sizes, strict=True)])
    cache = Cache(ledger=ledger, probe=cache.probe, history=cache.history)
    if denoiser.compile is not None:
        mark_batch((hidden, context), batch)
    hidden, cache = _middle(pieces, params.blocks[front:stop], hidden, context, residual, cache, decisions, memories)
    prediction = pieces.back(params.all, params.blocks[stop:], hidden, context)
    return prediction, State(prepared=state.prepared, cache=cache, branches=state.branches), Info(decisions)


def _foresee(rules: Rules, rows: tuple[Where, ...], memories: list[Memory]) -> list[tuple[Answer, str]]:
    """Return what is known of every row before anything runs, with the reason; DEFER where a change decides."""
    settled = {count: settle(rules, count) for count in {where.count for where in rows}}
    return [decide(settled[where.count], where, memory) for where, memory in zip(rows, memories, strict=True)]


def _decide(
    denoiser: Denoiser,
    foreseen: list[tuple[Answer, str]],
    cache: Cache,
    residual: torch.Tensor | None,
    rows: tuple[Where, ...],
    sizes: list[float],
    paired: bool,
) -> tuple[tuple[Decision, ...], list[float]]:
    """Return what is done with every row, and the sizes of the residuals it was compared with."""
    rules, answers = denoiser.plan.rules, list(foreseen)
    changes: list[float | None] = [None] * len(rows)
    if any(answer is Answer.DEFER for answer, _ in answers):  # the only synchronisation with the device
        assert cache.probe is not None and residual is not None
        measured, sizes = measure(denoiser.plan.probe, cache.probe, residual, paired, denoiser.agree, sizes)
        for row, (answer, _) in enumerate(answers):
            if answer is Answer.DEFER:
                changes[row] = measured[row]
                answers[row] = judge(rules, measured[row])
    front, stop = denoiser.pieces.span
    total, skipping = len(denoiser.blocks), front + len(denoiser.blocks) - stop
    decisions = tuple(
        Decision(
            where.index,
            answer is Answer.COMPUTE,
            reason,
            change,
            total if answer is Answer.COMPUTE else skipping,
            where.branch,
            where.expert,
        )
        for where, (answer, reason), change in zip(rows, answers, changes, strict=True)
    )
    return decisions, sizes


def _middle(
    pieces: Pieces,
    blocks: tuple,
    hidden: Tree,
    context: Tree,
    residual: torch.Tensor | None,
    cache: Cache,
    decisions: tuple[Decision, ...],
    memories: list[Memory],
) -> tuple[Tree, Cache]:
    """Compute, fill in, or do each for a part of the batch; return hidden and the new cache.

    The ledger is the new one already; `memories` are those before the step.
    """
    computing = [row for row, decision in enumerate(decisions) if decision.computed]
    if len(computing) == len(decisions):
        hidden, left = pieces.middle(blocks, hidden, context)
        return hidden, Cache(ledger=cache.ledger, probe=residual, history=_shift(cache.history, left))
    filled = pieces.fill(hidden, cache.history, _weights(pieces.kept, decisions, memories, hidden))
    if not computing:
        return filled, cache
    on = torch.tensor(computing)
    part, left = pieces.middle(blocks, take(hidden, on), take(context, on))
    history = _shift(take(cache.history, on), left)
    return put(filled, on, part), Cache(
        ledger=cache.ledger,
        probe=None if cache.probe is None else put(cache.probe, on, take(residual, on)),
        history=put(cache.history, on, history),
    )


def _shift(history: tuple, left: tuple[torch.Tensor, ...]) -> tuple:
    """Put what a computed step left in front of each stream's history, dropping the oldest."""
    return tuple((new, *past[:-1]) for new, past in zip(left, history, strict=True))


def _weights(
    kept: tuple[Kept, ...], decisions: tuple[Decision, ...], memories: list[Memory], hidden: Tree
) -> tuple[torch.Tensor | None, ...]:
    """Return (B, K) weights per kept stream; None for a held one, which needs no sum."""

    def table(stream: Kept) -> torch.Tensor | None:
        depth = stream.predictor.history
        if depth == 1:
            return None
        weights = [
            # A row that computes now may have no history yet; what is filled in for it is not used.
            stream.predictor.weights(m.times[:depth], d.index, m.first) if m.computed else (0.0,) * depth
            for d, m in zip(decisions, memories, strict=True)
        ]
        like = getattr(hidden, stream.name)
        dtype = np.float64 if like.dtype == torch.float64 else np.float32
        return send(torch.from_numpy(np.array(weights, dtype=dtype)), like.device)

    return tuple(table(stream) for stream in kept)
