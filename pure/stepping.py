"""One step of a batch: the only place in the project where blocks are skipped.

A batch is split into the samples that compute and the samples that skip. Fill-in runs
on all samples, the middle blocks on those that compute; front and back on all.

Shapes: B rows, which are samples, or samples times branches under guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch

from pure.block import Bound
from pure.decide import decide, remembered, settle
from pure.info import Answer, Decision, Info
from pure.measure import answered, draft_errors, inner_products, measure
from pure.memory import Cache, Memory, State, read, write
from pure.pieces import Branching, Kept, Pieces, difference_dtype, mark_batch
from pure.rules import Rules
from pure.step import Step, Where
from pure.tree import Tree, map_samples, put, send, take


def empty(pieces: Pieces, probed: torch.Tensor, hidden: Tree, batch: int, latents: torch.Tensor) -> Cache:
    """Return the cache before the first step; of `probed`, `hidden` and `latents` only the metadata matters."""

    def zeros(like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(like.shape, dtype=difference_dtype(like), device=like.device)

    fresh = Memory(
        skipped=0,
        streak=0,
        computed=0,
        first=-1,
        accumulated=0.0,
        times=(-1,) * max(*pieces.depths, remembered(pieces.rules), 0),
    )
    return Cache(
        ledger=write([fresh] * batch),
        plan=pieces.keeps,
        probe=zeros(probed) if pieces.probing else None,
        history=tuple(
            tuple(zeros(getattr(hidden, stream.name)) for _ in range(stream.predictor.history))
            for stream in pieces.kept
        ),
        answer=_answer_buffers(pieces, zeros, probed, latents),
        parts=tuple(empty(part, pieces.enters(hidden), hidden, batch, latents) for part in pieces.parts),
    )


def _answer_buffers(pieces: Pieces, zeros: Callable, probed: torch.Tensor, latents: torch.Tensor) -> tuple:
    if pieces.gains:
        return zeros(probed), zeros(latents)
    return tuple(zeros(probed) for _ in range(_draft(pieces).predictor.history)) if pieces.verifies else ()


def _draft(pieces: Pieces) -> Kept:
    """Return the stream whose predictor drafts what the back blocks add: the first that is extrapolated, if any."""
    return next((stream for stream in pieces.kept if not stream.held), pieces.kept[0])


def advance(
    pieces: Pieces, params: Bound, state: State, latents: torch.Tensor, step: Step, paired: bool = False
) -> tuple[torch.Tensor, State, Info]:
    """Take one step with every row on its own; `paired` rows are the two branches of a sample."""
    cache = state.cache
    if cache.plan != pieces.keeps:
        raise ValueError(
            f"this state was initialised by another plan: it remembers {cache.plan}, this denoiser needs "
            f"{pieces.keeps}; use the state that its own init returned"
        )
    front, stop = pieces.span
    batch = latents.shape[0]
    rows, memories = step.rows(batch), read(cache.ledger)
    settled = [settle(pieces.rules, where.count) for where in rows]  # from its cache, all but the first time
    answers = [decide(*each) for each in zip(settled, rows, memories, strict=True)]
    begin = pieces.brief if all(answer is Answer.SKIP for answer, _ in answers) else pieces.front
    branching = pieces.branching if paired else None
    own = slice(None) if branching is None else slice(branching.index, None, branching.count)
    prepared, entry, times = _own((state.prepared, latents, step.times(batch)), branching, own)
    hidden, context, residual = begin(params.all, params.blocks[:front], prepared, entry, times)
    if pieces.seen is not None and begin is not pieces.brief:
        levels = _levels(step, batch)[own].to(entry.device) if getattr(pieces.seen, "reads_sigma", True) else None
        seen = pieces.seen(entry, levels)
        # A copy: it is kept, and may be the latents themselves, or a view.
        residual = seen.to(difference_dtype(seen)).clone(memory_format=torch.contiguous_format)
    if pieces.parts:
        return _one_by_one(pieces, params, state, hidden, context, rows, memories, paired)
    before = Cache(ledger=cache.ledger, plan=cache.plan, **_own(_buffers(cache), branching, own))
    decisions, sizes = _decide(pieces, settled, answers, before, residual, rows, memories, paired)
    ledger = write([m.after(d, size) for m, d, size in zip(memories, decisions, sizes, strict=True)])
    after = Cache(ledger=ledger, plan=cache.plan, **_buffers(before))
    if pieces.compiled and any(decision.computed for decision in decisions):  # what a skip passes on is unmarked
        mark_batch((hidden, context), entry.shape[0])
    blocks = params.blocks[front:stop]
    hidden, after = _middle(pieces, blocks, hidden, context, residual, after, decisions[own], memories[own])
    prediction = pieces.back(params.all, params.blocks[stop:], hidden, context)
    if pieces.verifies:
        prediction, added = prediction
        after, decisions = _verified(pieces, after, added, memories, decisions, own, _agreed(pieces, paired))
    if pieces.gains and any(decision.computed for decision in decisions):
        after = _answer(after, residual, prediction, memories, decisions, branching, own)
    if branching is not None:
        prediction = branching.together(prediction)
        after = _among_others(cache, before, after, own)
    return prediction, State(prepared=state.prepared, cache=after, branches=state.branches), Info(decisions)


def _one_by_one(
    pieces: Pieces,
    params: Bound,
    state: State,
    hidden: Tree,
    context: Tree,
    rows: tuple[Where, ...],
    memories: list[Memory],
    paired: bool,
) -> tuple[torch.Tensor, State, Info]:
    """Compute or fill in the middle blocks one by one, each with a cache of its own, and then the back."""
    (front, stop), caches = pieces.span, []
    decided: list[tuple[Decision, ...]] = []
    for index, (part, cache) in enumerate(zip(pieces.parts, state.cache.parts, strict=True), start=front):
        # Limits count steps; what was computed when is of this block.
        own = [
            attrs.evolve(of_block, skipped=of_step.skipped, streak=of_step.streak)
            for of_block, of_step in zip(read(cache.ledger), memories, strict=True)
        ]
        settled = [settle(part.rules, where.count) for where in rows]
        answers = [decide(*each) for each in zip(settled, rows, own, strict=True)]
        entering = pieces.enters(hidden).clone(memory_format=torch.contiguous_format) if part.probing else None
        decisions, sizes = _decide(part, settled, answers, cache, entering, rows, own, paired)
        ledger = write([m.after(d, size) for m, d, size in zip(own, decisions, sizes, strict=True)])
        if pieces.compiled and any(decision.computed for decision in decisions):
            mark_batch((hidden, context), len(rows))
        after = attrs.evolve(cache, ledger=ledger)
        blocks = params.blocks[index : index + 1]
        hidden, after = _middle(part, blocks, hidden, context, entering, after, decisions, own)
        caches, decided = [*caches, after], [*decided, decisions]
    always = front + pieces.count - stop
    whole = tuple(_merged(each, always) for each in zip(*decided, strict=True))
    ledger = write([m.after(d) for m, d in zip(memories, whole, strict=True)])
    cache = attrs.evolve(state.cache, ledger=ledger, parts=tuple(caches))
    prediction = pieces.back(params.all, params.blocks[stop:], hidden, context)
    return prediction, State(prepared=state.prepared, cache=cache, branches=state.branches), Info(whole)


def _merged(decisions: tuple[Decision, ...], always: int) -> Decision:
    """Return what was decided for one sample: computed if all blocks were; the change is the mean of those measured."""
    skipped = [decision for decision in decisions if not decision.computed]
    changes = [decision.change for decision in decisions if decision.change is not None]
    telling = (skipped or [each for each in decisions if each.reason != "default"] or list(decisions))[0]
    blocks = always + sum(decision.blocks for decision in decisions)
    change = sum(changes) / len(changes) if changes else None
    return attrs.evolve(telling, computed=not skipped, change=change, blocks=blocks)


def _buffers(cache: Cache) -> dict[str, Any]:
    return {"probe": cache.probe, "history": cache.history, "answer": cache.answer}


def _levels(step: Step, batch: int) -> torch.Tensor:
    """Return the noise level of every row, (B,)."""
    if step.sigma is None:
        raise ValueError(
            "the probe of this plan needs noise levels, and these steps have no sigma; give Step.sigma (accelerate "
            "takes it from schedulers of flow matching only; easycache(...) needs none)"
        )
    return step.sigma.flatten().expand(batch)


def _own(tree: Tree, branching: Branching | None, own: slice) -> Tree:
    """Return the rows of this rank's branch, as views; all of them where branches are not divided."""
    return tree if branching is None else map_samples(lambda leaf: leaf[own], tree)


def _among_others(whole: Cache, before: Cache, after: Cache, own: slice) -> Cache:
    """Return the cache of all rows with those of this rank's branch as they are after the step; others are not its."""
    if all(getattr(after, name) is each for name, each in _buffers(before).items()):
        return Cache(ledger=after.ledger, plan=after.plan, **_buffers(whole))
    on = torch.arange(whole.ledger.shape[0])[own]
    return Cache(ledger=after.ledger, plan=after.plan, **put(_buffers(whole), on, _buffers(after)))


def _decide(
    pieces: Pieces,
    settled: list[Rules],
    foreseen: list[tuple[Answer, str]],
    cache: Cache,
    residual: torch.Tensor | None,
    rows: tuple[Where, ...],
    memories: list[Memory],
    paired: bool,
) -> tuple[tuple[Decision, ...], list[float]]:
    """Return what is done with every row, and the sizes of what it was compared with.

    `foreseen` are the answers before anything is measured.
    """
    answers, sizes = list(foreseen), [memory.size for memory in memories]
    changes: list[float | None] = [None] * len(rows)
    if any(answer is Answer.DEFER for answer, _ in answers):  # the only synchronisation with the device
        assert cache.probe is not None and residual is not None, "a plan that measures keeps a probe"
        agree = _agreed(pieces, paired)
        measured, sizes = measure(pieces.probe, cache.probe, residual, paired, agree, sizes)
        for row, (answer, _) in enumerate(answers):
            if answer is Answer.DEFER:
                answers[row] = decide(settled[row], rows[row], memories[row], measured[row])
                # A gain is not known before two steps are computed: nothing was measured then.
                changes[row] = None if pieces.gains and measured[row] == math.inf else measured[row]
    front, stop = pieces.span
    total, skipping = pieces.count, front + pieces.count - stop
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


def _agreed(pieces: Pieces, paired: bool) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what makes sums (K, B) of one rank those of all rows: its tokens first, then its branch.

    Latents are whole on every rank that divides the tokens.
    """
    agree, branching = None if pieces.seen is not None else pieces.agree, pieces.branching
    if branching is None or not paired:
        return agree

    def of_all_branches(sums: torch.Tensor) -> torch.Tensor:
        return branching.together((sums if agree is None else agree(sums)).T).T

    return of_all_branches


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
        history = _shift(cache.history, left)
        return hidden, attrs.evolve(cache, probe=residual, history=history)
    if pieces.follows and residual is not None:  # the next step is compared with this one, skipped or not
        cache = attrs.evolve(cache, probe=residual)
    filled = pieces.fill(hidden, cache.history, _weights(pieces, cache.history, decisions, memories))
    if not computing:
        return filled, cache
    on = torch.tensor(computing)
    part, left = pieces.middle(blocks, take(hidden, on), take(context, on))
    history = _shift(take(cache.history, on), left)
    return put(filled, on, part), attrs.evolve(
        cache,
        probe=None if cache.probe is None else put(cache.probe, on, take(residual, on)),
        history=put(cache.history, on, history),
    )


def _verified(
    pieces: Pieces,
    cache: Cache,
    added: torch.Tensor,
    memories: list[Memory],
    decisions: tuple[Decision, ...],
    own: slice,
    agree: Callable[[torch.Tensor], torch.Tensor] | None,
) -> tuple[Cache, tuple[Decision, ...]]:
    """Compare what the back blocks added at a skipped step with its draft, and keep it where the step was computed.

    The ledger is the new one already; `memories` are those before the step.
    """
    sizes = [-1.0] * len(decisions)
    if not all(decision.computed for decision in decisions):
        stream, depth = _draft(pieces), len(cache.answer)
        table = [
            stream.weights(m.times[:depth], d.index, m.first) if m.computed else (0.0,) * depth
            for m, d in zip(memories[own], decisions[own], strict=True)
        ]
        weights = torch.tensor([[float(w) for w in row] for row in table], dtype=torch.float64)
        sizes = draft_errors(cache.answer, added, weights, agree)
        sizes = [-1.0 if d.computed else size for d, size in zip(decisions, sizes, strict=True)]
        decisions = tuple(
            d if d.computed else attrs.evolve(d, change=size) for d, size in zip(decisions, sizes, strict=True)
        )
    ledger = write([attrs.evolve(m, size=size) for m, size in zip(read(cache.ledger), sizes, strict=True)])
    on = torch.tensor([row for row, decision in enumerate(decisions[own]) if decision.computed])
    if not len(on):
        return attrs.evolve(cache, ledger=ledger), decisions
    newest = (take(added, on).to(cache.answer[0].dtype), *take(cache.answer[:-1], on))
    return attrs.evolve(cache, ledger=ledger, answer=put(cache.answer, on, newest)), decisions


def _answer(
    cache: Cache,
    seen: torch.Tensor | None,
    prediction: torch.Tensor | tuple[torch.Tensor, ...],
    memories: list[Memory],
    decisions: tuple[Decision, ...],
    branching: Branching | None,
    own: slice,
) -> Cache:
    """Keep what was seen and predicted by the rows that were computed, and what their next changes are relative to.

    The ledger is the new one already; `memories` are those before the step.
    """
    assert seen is not None, "a probe with gain sees the latents of all steps but those that are skipped anyway"
    if isinstance(prediction, tuple):  # of video and sound
        prediction = torch.cat([each.flatten(1) for each in prediction], dim=1)
    before, predicted = cache.answer
    if predicted.shape[1:] != prediction.shape[1:] and not any(memory.computed for memory in memories):
        # Latents that enter with what is given of a picture are larger than predictions; nothing is kept yet.
        predicted = predicted.new_zeros((len(predicted), *prediction.shape[1:]))
        cache = attrs.evolve(cache, answer=(before, predicted))
    sizes = answered(cache.answer, seen, prediction)
    sizes = (sizes if branching is None else branching.together(sizes.unsqueeze(1)).squeeze(1)).tolist()
    rows = [
        attrs.evolve(after, size=size if before.computed else -1.0) if decision.computed else after
        for after, before, decision, size in zip(read(cache.ledger), memories, decisions, sizes, strict=True)
    ]
    on = torch.tensor([row for row, decision in enumerate(decisions[own]) if decision.computed])
    if not len(on):  # on ranks of its own another branch was computed
        return attrs.evolve(cache, ledger=write(rows))
    now = tuple(take(each, on).to(kept.dtype) for each, kept in zip((seen, prediction), cache.answer, strict=True))
    return attrs.evolve(cache, ledger=write(rows), answer=put(cache.answer, on, now))


def _shift(history: tuple, left: tuple[torch.Tensor, ...]) -> tuple:
    """Put what a computed step left in front of each stream's history, dropping the oldest."""
    return tuple((new, *past[:-1]) for new, past in zip(left, history, strict=True))


def _weights(
    pieces: Pieces, history: tuple, decisions: tuple[Decision, ...], memories: list[Memory]
) -> tuple[torch.Tensor | None, ...]:
    """Return (B, K) weights per kept stream; None for a held one, which needs no sum."""

    def table(stream: Kept, past: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
        if stream.held:
            return None
        times = [memory.times[: len(past)] for memory in memories]
        products = inner_products(past, pieces.agree) if any(map(stream.fits, times)) else [None] * len(times)
        rows = [
            # A row that computes now may have no history yet; what is filled in for it is not used.
            stream.weights(own, d.index, m.first, each) if m.computed else (0.0,) * len(past)
            for d, m, own, each in zip(decisions, memories, times, products, strict=True)
        ]
        device, wide = past[0].device, past[0].dtype == torch.float64
        if any(isinstance(row, torch.Tensor) for row in rows):  # weights with a gradient
            dtype = torch.float64 if wide else torch.float32
            return torch.stack([torch.as_tensor(row, dtype=dtype, device=device) for row in rows])
        return send(torch.from_numpy(np.array(rows, dtype=np.float64 if wide else np.float32)), device)

    return tuple(table(stream, past) for stream, past in zip(pieces.kept, history, strict=True))
