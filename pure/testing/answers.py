"""Laws 6, 7, 10 and 11: what a skipped step returns, when a step may be skipped, and what is reported."""

from typing import Any

import attrs
import torch

import pure
from pure import Experts
from pure.experts import first_of
from pure.testing.memory import with_blocks
from pure.testing.oracle import NEAR, Expected, _leading_ones, _mask, guide
from pure.testing.situation import Entry, Situation, close


def repetition_costs_nothing(situation: Situation) -> None:
    """Law 6: where nothing changes, a skipped step returns what a computed step returns."""
    steps = situation.schedule()
    still = steps[len(steps) // 3]
    state, latents = situation.start(), situation.latents()
    plain = situation.start(situation.plain)
    for step in steps:
        if isinstance(situation.model.denoiser, Experts):
            still = next(other for other in steps if other.expert == step.expert)
        step = attrs.evolve(step, timestep=still.timestep, sigma=still.sigma, sigma_next=still.sigma_next)
        prediction, state, info = situation.apply(state, latents, step)
        expected, plain, _ = situation.apply(plain, latents, step, situation.plain)
        assert close(prediction, expected, situation.slack(2e-5)), f"step {step.index}: {info.reasons}"
        if situation.known:  # a probe of one's own may call anything a change
            assert all(change is None or change <= NEAR for change in info.changes), info.changes


def closed_form_holds(situation: Situation) -> None:
    """Law 7: decisions and predictions of the closed-form denoiser are those of arithmetic on numbers."""
    texts: Any = situation.conditioning()
    branches = [texts] if situation.guidance is None else [texts.conditional, texts.unconditional]
    means = torch.stack([branch["text"].mean((1, 2)) for branch in branches], dim=1).flatten().tolist()
    rows = [Expected(situation, mean) for mean in means]
    for entry in situation.trace():
        guided = len(entry.info.decisions) > len(situation.seeds)
        stride = 1 if guided or situation.guidance is None else 2
        active, times = rows[::stride], float(entry.step.timestep.double())
        latents = entry.latents.repeat_interleave(2, 0) if guided else entry.latents
        answers = []
        for row, decision, sample in zip(active, entry.info.decisions, latents, strict=True):
            _check_decision(row, decision, entry, times)
            answers.append(row.step(sample, times, decision.index, not decision.computed, decision.change))
        expected = torch.stack(answers)
        if guided:
            assert situation.guidance is not None
            positive, negative = expected[0::2], expected[1::2]
            expected = guide(situation.guidance, positive, negative)
        assert close(entry.prediction, expected, 1e-9), entry.info.reasons


def _check_decision(row: Expected, decision, entry: Entry, time: float) -> None:
    db, count = row.situation.dbcache, entry.step.count
    assert isinstance(count, int)
    change = row.change(time) if row.computed and db else 0.0
    if decision.change is not None:
        assert db is not None, "a change was measured without a cache"
        if db.follow == "conditional":
            change = decision.change
        else:
            assert abs(decision.change - change) < 1e-9
    answer, near = row.decide(decision.index, count, change)
    if all(distance > NEAR for distance in near):
        assert decision.computed == (answer == "compute"), f"{decision}: expected the answer {answer!r}"


def limits_hold(situation: Situation) -> None:
    """Law 10: warm-up and mask are computed, limits are kept, a static mask is followed exactly."""
    histories: dict[tuple[str, int], list] = {}
    for entry in situation.trace():
        guided = len(entry.info.decisions) > len(situation.seeds)
        for place, decision in enumerate(entry.info.decisions):
            row = place if guided or not situation.guidance else 2 * place
            count = entry.step.count
            histories.setdefault((decision.expert, row), []).append((decision, count))
    for history in histories.values():
        _check_limits(situation, history)


def _check_limits(situation: Situation, history: list) -> None:
    db, static = situation.dbcache, situation.static
    skipped = streak = 0
    accumulated = 0.0
    assert history[0][0].computed, "the first step has nothing to reuse"
    for place, (decision, count) in enumerate(history):
        mask = _mask(situation, count)
        if mask is not None and (mask[decision.index] or (static and place)):
            warming = db and decision.index < min(db.warmup, _leading_ones(mask))
            assert decision.computed == bool(mask[decision.index]) or warming, f"mask {mask} at {decision}"
        if db and decision.index < db.warmup and decision.index % db.warmup_interval == 0:
            assert decision.computed or (mask is not None and decision.index >= _leading_ones(mask)), decision
        if not decision.computed and not (static and mask is not None):
            assert db is not None, "a step was skipped without a cache"
            assert db.max_cached is None or skipped < db.max_cached, decision
            assert db.max_continuous is None or streak < db.max_continuous, decision
            assert db.max_accumulated is None or accumulated < db.max_accumulated, decision
            assert db.threshold >= 1 or (decision.change is not None and decision.change < db.threshold), decision
        if decision.computed:
            streak, accumulated = 0, 0.0
        else:
            skipped, streak, accumulated = skipped + 1, streak + 1, accumulated + (decision.change or 0.0)


def reports_are_true(situation: Situation) -> None:
    """Law 11: the blocks that ran are the blocks reported; a run without a cache reports no skip."""
    ran = [0]

    def wrap(run):
        def block(params, hidden, context, attend):
            ran[0] += getattr(hidden, stream).shape[0]
            return run(params, hidden, context, attend)

        return block

    counted = with_blocks(situation.denoiser, wrap)
    first, db = first_of(situation.denoiser), situation.dbcache
    stack, stream, span = len(first.blocks), first.streams[0], first.plan.span or pure.Span()
    always = span.front + span.back
    state, entries = situation.start(counted), situation.trace()
    for entry in entries:
        ran[0] = 0
        _, state, info = situation.apply(state, entry.latents, entry.step, counted)
        assert info.blocks == ran[0] == sum(decision.blocks for decision in info.decisions)
        for decision in info.decisions:
            one_by_one = span.each and not decision.computed
            expected = decision.blocks if one_by_one else stack if decision.computed else always
            assert decision.blocks == expected and always <= decision.blocks <= stack, decision
            assert decision.reason and decision.index == entry.step.index and decision.expert == entry.step.expert
            assert (decision.reason == "threshold") <= (db is not None or not situation.known)
    if situation.known and db is None and situation.scm is None and situation.fitting is None:
        assert all(all(entry.info.computed) and set(entry.info.reasons) == {"default"} for entry in entries)
