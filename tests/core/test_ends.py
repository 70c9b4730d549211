"""What can skip remembers, and what never can does not; numbers exactly to the ends of their ranges."""

import inspect
import itertools
from typing import Any, cast

import attrs
import pytest
import torch

import pure
from pure import Answer, Hold, Memory, Note, Where, programs
from pure.coefficients import place
from pure.decide import check, decide
from pure.fitting import prepare
from pure.gram import fitted_weights, gram_matrix
from pure.memory import read
from pure.notes import warn
from pure.pieces import Fill, Kept
from pure.plan import Probe, Span
from pure.rules import Accumulated, Rule, Threshold
from pure.step import MOST_STEPS, check_count
from pure.testing.situation import SOLVER, Situation, same
from pure.testing.toys import RANDOM, OneStream
from pure.transforms import (
    budget,
    calibrated,
    dbcache,
    dbprune,
    easycache,
    guided,
    scm,
    seacache,
    speca,
    taylorseer,
    teacache,
)
from pure.transforms.seacache import Filter
from pure.tree import tensors_of
from tests.support.flux import FLUX_DEV

SIZE = len(RANDOM.first.blocks)


@pytest.mark.parametrize(
    ("never", "may"),
    [
        (dbcache(max_continuous=0), dbcache(max_continuous=1)),
        (dbcache(threshold=0.0), dbcache(threshold=0.01)),
        (dbprune(threshold=0.0), dbprune(threshold=0.01)),
        (budget(early=0.0, late=0.0), budget(early=0.0, late=0.1)),
        (budget(early=0.0, late=0.0), budget(early=0.1, late=0.0)),
        (easycache(threshold=0.0), easycache(threshold=0.01)),
        (seacache(max_continuous=0), seacache(max_continuous=1)),
        (seacache(threshold=0.0), seacache(max_continuous=None)),
        (speca(most=0), speca(most=1)),
        (teacache(threshold=0.0, polynomial=(1, 0)), teacache(threshold=0.01, polynomial=(1, 0))),
    ],
    ids=str,
)
def test_only_what_can_skip_remembers(never: pure.Transform, may: pure.Transform) -> None:
    denoiser = FLUX_DEV.first if isinstance(may, teacache) else RANDOM.first
    nothing, something = never(denoiser).pieces, may(denoiser).pieces
    assert not (nothing.kept or nothing.parts or nothing.probing or nothing.verifies)
    assert something.kept or any(part.kept for part in something.parts)


@pytest.mark.parametrize("cache", [dbcache(front=3, back=1), budget(front=3, back=1), speca(back=SIZE)], ids=str)
def test_as_many_blocks_may_run_always_as_there_are(cache: Any) -> None:
    span = cache(RANDOM.first).plan.span
    assert span == Span(front=getattr(cache, "front", 0), back=cache.back)
    with pytest.raises(ValueError, match=f"but the denoiser has {SIZE}; make "):
        attrs.evolve(cache, back=cache.back + 1)(RANDOM.first)


def test_the_last_block_can_be_kept_and_none_after_it() -> None:
    assert dbprune(keep=(SIZE - 1,))(RANDOM.first).plan.span == Span(front=1, each=True, keep=(SIZE - 1,))
    with pytest.raises(ValueError, match="keeps a block that is not there"):
        dbprune(keep=(SIZE,))(RANDOM.first)
    with pytest.raises(ValueError, match=r"dbprune\(keep=\(-1,\)\): give indices of blocks"):
        dbprune(keep=(-1,))


def test_a_run_has_at_most_so_many_steps_and_a_weight_is_no_bool() -> None:
    check_count(MOST_STEPS)
    with pytest.raises(ValueError, match=f"1 to {MOST_STEPS} steps, got {MOST_STEPS + 1}"):
        check_count(MOST_STEPS + 1)
    with pytest.raises(ValueError, match="weights are finite numbers"):
        calibrated(table=[[[4], 5, [True]]])


@pytest.mark.parametrize("cache", [easycache(threshold=0.3, warmup=3), dbprune(threshold=0.3, warmup=2)], ids=str)
@pytest.mark.parametrize("follow", ["own", "conditional"])
def test_branches_follow_where_that_is_set(cache: Any, follow: str) -> None:
    recipe = pure.compose(guided(scale=2.0), attrs.evolve(cache, follow=follow))
    measured = [
        (one.change, two.change)
        for entry in Situation(model=RANDOM, transform=recipe, seeds=(1, 2), count=8).trace()
        for one, two in zip(entry.info.decisions[0::2], entry.info.decisions[1::2], strict=True)
        if None not in (one.change, two.change)
    ]
    assert len(measured) > 4 and all(one == two for one, two in measured) == (follow == "conditional")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_sample_is_filtered_for_its_own_noise_level(dtype: torch.dtype) -> None:
    latents, sigma = pure.gaussian((2, 3, 4, 6), 0, dtype=dtype), torch.tensor([0.9, 0.2])
    together = Filter(2.0)(latents, sigma)
    alone = [Filter(2.0)(latents[row : row + 1], sigma[row : row + 1]) for row in range(2)]
    assert together.dtype == dtype
    torch.testing.assert_close(together, torch.cat(alone))


def test_tensors_of_another_type_are_not_shared() -> None:
    one, other = (pure.Shared(value=torch.ones(2, dtype=dtype)) for dtype in (torch.float16, torch.float32))
    with pytest.raises(ValueError, match="a value that all samples share differs"):
        pure.join((torch.zeros(1), one), (torch.zeros(1), other))


@attrs.frozen
class Beside(Rule):
    """Defers, and notes what it is given."""

    name = "beside"
    before = Threshold
    history = 3

    def answer(self, where: Where, memory: Memory) -> Answer:
        assert memory.times == (0, -1, -1), "checks are of a run whose first step alone was computed"
        return Answer.DEFER


def test_a_threshold_beyond_every_change_skips_whatever_is_measured() -> None:
    memory = Memory(skipped=0, streak=0, computed=1, first=0, accumulated=0.0, times=(0,))
    for change in (0.5, 1.0, 7.0):
        assert decide((Accumulated(9.0), Threshold(1.0)), Where(1, 4), memory, change)[0] is Answer.SKIP


def test_a_sum_is_measured_whatever_stands_between_it_and_the_threshold() -> None:
    rules = (Accumulated(0.5), Beside(), Threshold(1.0))
    memory = Memory(skipped=1, streak=1, computed=1, first=0, accumulated=0.4, times=(0, -1, -1))
    assert decide(rules, Where(2, 10), memory) == (Answer.DEFER, "measure")
    assert check(rules, 4) == ()


def test_differences_begin_with_the_first_computed_step_of_the_run() -> None:
    """Of a run that begins at step 2 there is no slope at step 4, as there is none at step 2 of a whole one."""
    mask, runs = scm(mask="11110000", policy="static"), []
    for recipe in (mask, pure.compose(mask, taylorseer(order=1))):
        case = Situation(model=RANDOM, transform=recipe, seeds=(1,), count=8)
        runs.append(case.trace(steps=case.schedule()[2:6]))
    held, seen = ([entry.prediction for entry in run] for run in runs)
    assert [entry.info.computed[0] for entry in runs[0]] == [True, True, False, False]
    assert same(held[2], seen[2]) and same(held[3], seen[3])


def test_a_schedule_of_one_step_ends_at_the_last_level() -> None:
    assert pure.Schedule(terminal=0.02).sigmas(1).tolist() == [1.0, 0.0]


def test_latents_are_rounded_to_the_type_of_the_prediction() -> None:
    (step,) = SOLVER.schedule(1)
    assert SOLVER.step(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bfloat16), step).dtype == torch.bfloat16


def test_a_probe_that_gains_measures_every_token() -> None:
    with pytest.raises(ValueError, match="leave importance and downsample out"):
        Probe(gain=True, seen=lambda latents, sigma: latents, since="last step", importance=0.1)


def test_what_is_loaded_holds_no_more_than_itself(tmp_path: Any) -> None:
    case = Situation(model=RANDOM, transform=dbcache(front=1), seeds=(1, 2), count=8)
    pure.save_state(case.start(), tmp_path / "state")
    loaded = pure.load_state(tmp_path / "state", like=case.start())
    for name, leaf in tensors_of(loaded).items():
        assert leaf.untyped_storage().nbytes() == leaf.nbytes, name


def test_a_limit_counts_steps_whichever_blocks_were_skipped() -> None:
    """Of blocks that skip in turn each would otherwise have a limit of its own, and some would always be skipped."""
    longest = []
    for most in (2, None):
        cache = dbprune(front=0, threshold=0.2, warmup=1, max_continuous=most)
        entries = Situation(model=RANDOM, transform=cache, seeds=(1, 2, 3), count=12).trace()
        rows = zip(*(entry.info.computed for entry in entries), strict=True)
        runs = (len(list(run)) for row in rows for whole, run in itertools.groupby(row) if not whole)
        longest.append(max(runs))
    assert longest[0] == 2 < longest[1]


def test_what_verifies_remembers_the_error_of_skipped_steps_only() -> None:
    cache = pure.compose(speca(threshold=0.1, decay=0.5, floor=0.01, least=1, most=3, warmup=2), taylorseer(order=1))
    found = set()
    for entry in Situation(model=RANDOM, transform=cache, seeds=(1, 2, 3), count=12).trace():
        sizes = [memory.size for memory in read(entry.after.cache.ledger)]
        assert [size < 0 for size in sizes] == list(entry.info.computed)
        found.add(len(set(entry.info.computed)))
    assert found == {1, 2}, "at some steps only some samples are computed"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_fill_of_fp16_is_clipped_at_both_ends(sign: int) -> None:
    now = OneStream(image=torch.full((1, 1, 1), sign * 60000.0).half())
    found = Fill((Kept("image", Hold()),))(now, ((torch.full((1, 1, 1), sign * 1e5),),), (None,))
    assert found.image.item() == sign * 65504


def test_guidance_is_always_on_where_nothing_ends_it() -> None:
    ends: dict[str, Any] = {"start": 0.1, "stop": 0.9, "lowest_sigma": 0.1}
    assert pure.Guidance(scale=2.0).always
    assert not any(pure.Guidance(scale=2.0, **{name: value}).always for name, value in ends.items())


def test_every_history_has_a_row_of_its_own() -> None:
    count, depth = 4, 2
    histories = [(one, two) for one in range(-1, count) for two in range(-1, count)]
    assert {place(each, count) for each in histories} == set(range((count + 1) ** depth))


def test_weights_do_not_depend_on_the_size_of_residuals() -> None:
    gram = gram_matrix(pure.gaussian((5, 9), 0).numpy())
    small = fitted_weights(gram, (3, 2, 0), 4, ridge=0.1)
    assert fitted_weights(1e6 * gram, (3, 2, 0), 4, ridge=0.1) == pytest.approx(small)


def test_an_attribute_that_something_else_lacks_is_not_blamed_on_the_conditioning() -> None:
    with pytest.raises(AttributeError, match="'int' object has no attribute 'rotary'"):
        prepare(lambda params, conditioning: cast(Any, 3).rotary, RANDOM.params, object())


def test_a_warning_names_the_line_that_called_what_warns() -> None:
    def called() -> None:
        warn([Note("said once"), Note("said once")])

    with pytest.warns(UserWarning, match="^said once$") as caught:
        called()
        at = inspect.currentframe()
    assert at is not None and [(each.filename, each.lineno) for each in caught] == [(__file__, at.f_lineno - 2)]


def test_a_program_that_follows_measures_the_conditional_branch() -> None:
    case = Situation(
        model=RANDOM, transform=pure.compose(guided(scale=2.0), dbcache(follow="conditional")), seeds=(1,), count=4
    )
    made = pure.program(case.single, case.schedule(), case.solver)
    state = attrs.evolve(made.init(RANDOM.params, case.conditioning(), case.latents()), probe=torch.ones(2, 3, 4))
    moved = torch.tensor([1.25, 9.0]).view(2, 1, 1).expand(2, 3, 4)
    assert programs._change(case.single.pieces, state, moved, True).item() == 0.25
