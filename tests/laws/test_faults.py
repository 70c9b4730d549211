"""The laws are no decoration: each planted fault is caught by the law that is there for it."""

import itertools
import random
from collections.abc import Callable

import attrs
import pytest
import torch

import pure
from pure import guidance as cfg
from pure import pieces, rules, saving, stepping
from pure.testing import algebra, answers, memory, rows, toys
from pure.testing.laws import Law
from pure.testing.situation import Model, Situation
from pure.testing.toys import CLOSED, EXPERTS, RANDOM, STREAMS
from pure.transforms import dbcache, guided, scm, taylorseer
from pure.tree import map_samples

SKIPPING = dbcache(front=1, threshold=0.5, warmup=1)
SLOPE = taylorseer(order=1)

Plant = Callable[[pytest.MonkeyPatch], None]


def situation(model: Model, *transforms: pure.Transform, samples: int = 2, count: int = 8) -> Situation:
    return Situation(model=model, transform=pure.compose(*transforms), seeds=tuple(range(samples)), count=count)


def assert_caught(law: Law, sound: Situation, plant: Plant, match: str | None = None) -> None:
    """The law holds, is broken by the fault, and holds again without it."""
    law(sound)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError, match=match):
        plant(patch)
        law(attrs.evolve(sound))
    law(attrs.evolve(sound))


def test_a_residual_added_twice() -> None:
    def twice(self, stream, now, past, weights):
        return now + past[0] + past[0]

    fault: Plant = lambda patch: patch.setattr(pieces.Fill, "_predict", twice)  # noqa: E731
    for model in (RANDOM, CLOSED, STREAMS):
        assert_caught(answers.repetition_costs_nothing, situation(model, SKIPPING), fault, "step 1")
    assert_caught(answers.closed_form_holds, situation(CLOSED, SKIPPING), fault, "threshold")


def test_a_computed_step_that_adds_its_own_residual() -> None:
    sound = pieces.Middle.__call__

    def roundabout(self, blocks, hidden, context):
        out, left = sound(self, blocks, hidden, context)
        sums = {s.name: getattr(hidden, s.name) + r for s, r in zip(self.kept, left, strict=True)}
        return attrs.evolve(out, **sums), left

    law, case = algebra.never_skip_is_plain, situation(RANDOM, SKIPPING)
    assert_caught(law, case, lambda patch: patch.setattr(pieces.Middle, "__call__", roundabout))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda image: image.add_(1.0), "gave two results|modified in place"),
        (lambda image: image.mul_(1.0), "modified in place"),  # no value changes; the version counter tells
    ],
)
def test_a_block_that_writes_in_place(write: Callable, message: str) -> None:
    def greedy(params, hidden, context, attend):
        return toys.closed_block(params, attrs.evolve(hidden, image=write(hidden.image)), context, attend)

    blocks = tuple(pure.Block(greedy, block.prefix) for block in CLOSED.first.blocks)
    faulty = attrs.evolve(CLOSED, denoiser=attrs.evolve(CLOSED.first, blocks=blocks))
    memory.apply_is_pure(situation(CLOSED, SKIPPING))
    with pytest.raises(AssertionError, match=message):
        memory.apply_is_pure(situation(faulty, SKIPPING))


def test_a_history_written_in_place() -> None:
    def reuse(history, left):
        return tuple((past[0].copy_(new), *past[1:]) for new, past in zip(left, history, strict=True))

    fault: Plant = lambda patch: patch.setattr(stepping, "_shift", reuse)  # noqa: E731
    case = situation(RANDOM, SKIPPING)
    assert_caught(memory.apply_is_pure, case, fault, "history.* was modified in place")
    assert_caught(memory.old_states_still_work, case, fault)


def test_a_step_that_draws_random_numbers() -> None:
    def careless(probe, old, new):
        return sums(probe, old, new + 0 * torch.randn(()))

    from pure import measure

    sums = measure.sums
    fault: Plant = lambda patch: patch.setattr(measure, "sums", careless)  # noqa: E731
    assert_caught(memory.apply_is_pure, situation(RANDOM, SKIPPING), fault, "global generator")


def test_a_branch_guessed_from_call_parity() -> None:
    calls = itertools.count()

    def guess(batch):
        return torch.arange(next(calls) % 2, 2 * batch, 2)

    case = situation(RANDOM, guided(scale=2.0, start=0.3, stop=0.7), SKIPPING)
    fault: Plant = lambda patch: patch.setattr(cfg, "conditional", guess)  # noqa: E731
    assert_caught(rows.branches_are_separate, case, fault)


def test_a_branch_that_goes_on_outside_the_interval() -> None:
    def both(tree, index, part):
        return map_samples(lambda leaf: torch.cat([leaf[:1], leaf[1:] + 1]), put(tree, index, part))

    put = pure.put
    case = situation(RANDOM, guided(scale=2.0, stop=0.5), SKIPPING, samples=1)
    fault: Plant = lambda patch: patch.setattr("pure.denoiser.put", both)  # noqa: E731
    assert_caught(rows.branches_are_separate, case, fault, "the unconditional branch changed outside the interval")


def test_a_decision_taken_on_the_mean_of_the_batch() -> None:
    measure = stepping.measure

    def mean(*arguments):
        changes, sizes = measure(*arguments)
        return [sum(changes) / len(changes)] * len(changes), sizes

    case = situation(RANDOM, dbcache(front=1, threshold=0.25, warmup=1), samples=4)
    fault: Plant = lambda patch: patch.setattr(stepping, "measure", mean)  # noqa: E731
    assert_caught(rows.batches_are_independent, case, fault)


def test_a_poisoned_sample_that_reaches_its_neighbours() -> None:
    def blurred(params, prepared, latents, timestep):
        mean = prepared.mean(0, keepdim=True).expand_as(prepared)
        return toys.random_embed(params, mean, latents, timestep)

    faulty = attrs.evolve(RANDOM, denoiser=attrs.evolve(RANDOM.first, embed=blurred))
    transforms = (SKIPPING, taylorseer(order=1, on="hidden"))
    rows.rows_are_isolated(situation(RANDOM, *transforms))
    with pytest.raises(AssertionError):
        rows.rows_are_isolated(situation(faulty, *transforms))


def test_state_left_behind_by_an_exception() -> None:
    sound, interrupted = pieces.Middle.__call__, []

    def resuming(self, blocks, hidden, context):
        if interrupted and interrupted[0].image.shape == hidden.image.shape:
            hidden = interrupted.pop()
        interrupted.append(hidden)
        answer = sound(self, blocks, hidden, context)
        interrupted.pop()
        return answer

    # The law interrupts wherever its seed says: here, in the middle of the second step.
    case = situation(RANDOM, dbcache(front=1, threshold=0.5, warmup=8), count=8)
    case = attrs.evolve(case, seed=next(s for s in range(99) if random.Random(s).randrange(1, 34) in (6, 7, 8)))
    fault: Plant = lambda patch: patch.setattr(pieces.Middle, "__call__", resuming)  # noqa: E731
    assert_caught(memory.failure_leaves_nothing, case, fault)


def test_a_view_kept_in_the_state() -> None:
    def kept(self, stream, hidden, out):
        return getattr(out, stream.name)

    case = situation(STREAMS, SKIPPING, taylorseer(order=0, on="hidden"))
    memory.structure_is_invariant(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces.Middle, "_left", kept)
        with pytest.raises(TypeError, match=r"changed the state at \.cache\.history\[0\]\[0\].*clone views"):
            memory.structure_is_invariant(attrs.evolve(case))
    contiguous = situation(RANDOM, SKIPPING, taylorseer(order=0, on="hidden"))
    wide: Plant = lambda patch: patch.setattr(pieces.Middle, "_left", _wide)  # noqa: E731
    assert_caught(memory.structure_is_invariant, contiguous, wide, "is a view of")


def _wide(self, stream, hidden, out):
    """Keep a view whose strides do not give it away: the front half of a larger tensor."""
    value = getattr(out, stream.name)
    return torch.cat([value, value])[: len(value)]


def test_a_state_that_grows() -> None:
    def growing(history, left):
        return tuple((new, *past) for new, past in zip(left, history, strict=True))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TypeError, match="changed the st"):
        patch.setattr(stepping, "_shift", growing)
        memory.structure_is_invariant(situation(RANDOM, SKIPPING))


def test_a_history_deeper_than_promised() -> None:
    empty = stepping.empty

    def deeper(*arguments):
        cache = empty(*arguments)
        return attrs.evolve(cache, history=tuple((*past, past[0].clone()) for past in cache.history))

    case = situation(RANDOM, SKIPPING)
    assert_caught(memory.state_has_the_promised_size, case, lambda patch: patch.setattr(stepping, "empty", deeper))


def test_a_counter_lost_in_saving() -> None:
    save = saving.save_file

    def forgetful(tensors, path, metadata):
        save({name: t * 0 if name.endswith("ledger") else t for name, t in tensors.items()}, path, metadata=metadata)

    case = situation(RANDOM, SKIPPING, SLOPE)
    assert_caught(memory.saving_changes_nothing, case, lambda patch: patch.setattr(saving, "save_file", forgetful))


def test_a_stream_that_is_not_remembered() -> None:
    fault: Plant = lambda patch: patch.setattr("pure.denoiser.kept_names", lambda denoiser: ("image",))  # noqa: E731
    case = situation(CLOSED, SKIPPING)
    answers.closed_form_holds(case)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError):
        fault(patch)
        answers.closed_form_holds(attrs.evolve(case))


def test_a_mask_read_one_step_late() -> None:
    def late(self, where, memory_):
        entry = self.entries[max(where.index - 1, 0)]
        return pure.Answer.COMPUTE if entry else pure.Answer.SKIP

    fault: Plant = lambda patch: patch.setattr(rules.Entries, "answer", late)  # noqa: E731
    assert_caught(answers.limits_hold, situation(RANDOM, scm(mask="11010010", policy="static")), fault, "mask")


def test_a_limit_off_by_one() -> None:
    def lax(self, where, memory_):
        return pure.Answer.COMPUTE if memory_.streak > self.limit else pure.Answer.DEFER

    fault: Plant = lambda patch: patch.setattr(rules.Continuous, "answer", lax)  # noqa: E731
    case = situation(RANDOM, dbcache(front=1, threshold=1.0, max_continuous=1))
    assert_caught(answers.limits_hold, case, fault)


def test_an_accumulated_change_that_is_never_reset() -> None:
    after = pure.Memory.after

    def stuck(self, decision, *measured):
        new = after(self, decision, *measured)
        return attrs.evolve(new, accumulated=self.accumulated) if decision.computed else new

    case = situation(CLOSED, dbcache(front=1, threshold=1.0, max_accumulated=0.2, max_continuous=None, warmup=1))
    assert_caught(answers.closed_form_holds, case, lambda patch: patch.setattr(pure.Memory, "after", stuck))


def test_a_report_that_flatters() -> None:
    def flattering(index, computed, reason, change, blocks, branch, expert):
        return sound(index, computed, reason, change, blocks - 1, branch, expert)

    sound = stepping.Decision
    fault: Plant = lambda patch: patch.setattr(stepping, "Decision", flattering)  # noqa: E731
    assert_caught(answers.reports_are_true, situation(RANDOM, SKIPPING), fault)


def test_experts_that_share_a_state() -> None:
    apply = pure.Experts.apply

    def shared(self, params, state, inputs):
        prediction, new, info = apply(self, params, state, inputs)
        return prediction, dict.fromkeys(new, new[inputs.step.expert]), info

    fault: Plant = lambda patch: patch.setattr(pure.Experts, "apply", shared)  # noqa: E731
    assert_caught(rows.branches_are_separate, situation(EXPERTS, SKIPPING), fault)


def test_a_transform_that_depends_on_its_place() -> None:
    def tallied(self, *new):
        return attrs.evolve(self, rules=(*self.rules, *new))

    case = situation(RANDOM, SKIPPING, scm(mask="11010010"))
    assert_caught(algebra.composition_is_an_algebra, case, lambda patch: patch.setattr(pure.Plan, "add", tallied))
