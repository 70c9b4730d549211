"""Parts of tuning without a model, each at its borders: budgets, names of recordings, plans, times and choices."""

from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from pure import FlowMatchEuler
from pure.configs.tuned import TunedFor
from pure.engine.errors import Misuse
from pure.engine.tuning import bench as benches
from pure.engine.tuning import keeping, reaching, recording, refining, searching, tuning
from pure.engine.tuning.bench import Bench
from pure.engine.tuning.budget import Budget, read_budget
from pure.engine.tuning.plan import ExpertPlan, TunedPlan, _rounded, plan_of
from pure.engine.tuning.prompts import read
from pure.engine.tuning.reaching import Found
from pure.engine.tuning.recording import Recorded
from pure.engine.tuning.rerun import TunedSpan, histories
from pure.engine.tuning.searching import Errors

STEPS = tuple(FlowMatchEuler().schedule(5))
SPAN = TunedSpan(front=1, back=2, depth=2)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [("1", "steps", 1), ("27", "steps", 27), ("1.01x", "ratio", 1.01), ("28x", "ratio", 28), ("0.1dB", "quality", 0.1),
     ("100dB", "quality", 100)],
)  # fmt: skip
def test_budgets_at_their_borders(text, kind, value):
    assert read_budget(text, 28) == Budget(kind, value)
    for wrong in ("0", "28", "1.0x", "28.1x", "0dB", "100.1dB"):
        with pytest.raises(Misuse):
            read_budget(wrong, 28)


def test_prompts_are_as_many_as_asked_for_and_different():
    assert read(["a", "b", "a", "c"], 2) == ("a", "b") and read(lambda count: ["x"] * count + ["y"], 2) == ("x", "y")
    message = "3 different prompts are needed and the sequence has 2; give more, or fit and check with fewer"
    with pytest.raises(Misuse, match=message):
        read(["a", "b", "a"], 3)
    for wrong in ("ab", [1], 3):
        with pytest.raises(Misuse, match=r"prompts to tune with are a sequence of texts, got .* from the function"):
            read(lambda count, wrong=wrong: wrong, 1)  # type: ignore[return-value,misc]


# ------------------------------------------------------------------------------ recordings


def test_a_recording_is_named_by_all_it_depends_on():
    facts = {"a": 1, "b": [2]}
    names = {
        keeping._name(*each)
        for each in [
            ("cat", 1, SPAN, facts), ("dog", 1, SPAN, facts), ("cat", 2, SPAN, facts),
            ("cat", 1, attrs.evolve(SPAN, front=0), facts), ("cat", 1, attrs.evolve(SPAN, back=0), facts),
            ("cat", 1, SPAN, {**facts, "a": 2}),
        ]
    }  # fmt: skip
    assert len(names) == 6
    same = keeping._name("cat", 1, attrs.evolve(SPAN, depth=3), {"b": [2], "a": 1})
    assert same == keeping._name("cat", 1, SPAN, facts), "how far back a plan looks is no part of a recording"


def test_facts_of_a_recording_tell_pictures_options_and_noise_levels_apart(monkeypatch):
    monkeypatch.setattr(benches, "made_for", lambda *_: TunedFor(steps=5))
    case: Any = SimpleNamespace(steps=STEPS, pipeline=None, plain=None, request=None)
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    found = [benches._facts(case, {"images": (each,), "height": 32}) for each in (red, red, blue)]
    assert found[0] == found[1] != found[2] and found[0]["options"] == {"height": 32}
    other: Any = SimpleNamespace(**{**vars(case), "steps": STEPS[:-1]})
    assert benches._facts(other, {}) != benches._facts(case, {}) != benches._facts(case, {"height": 32})
    assert found[0]["sigmas"] == [float(step.sigma) for step in STEPS] and found[0]["steps"] == 5  # type: ignore[arg-type]


def test_of_a_large_residual_the_same_random_part_is_kept(monkeypatch):
    monkeypatch.setattr(recording, "MOST", 10)
    history = [(torch.arange(40.0).reshape(2, 20),), (torch.arange(8.0).reshape(2, 4),)]
    monkeypatch.setattr(recording, "cache_of", lambda state, expert: SimpleNamespace(history=history))
    found = recording._part("state", "", 2)
    assert found.shape == (2, 14) and np.array_equal(found, recording._part("state", "", 2))
    assert np.array_equal(found[1, :10], found[0, :10] + 20) and found[0, 10:].tolist() == [0, 1, 2, 3]
    monkeypatch.setattr(recording, "MOST", 20)
    assert recording._part("state", "", 2)[0, :20].tolist() == list(range(20)), "no more than that is kept whole"


@pytest.mark.parametrize(("number", "of"), [(0, 3), (2, 3)])
def test_progress_is_of_all_groups(number, of):
    told: list[Any] = []
    benches._share(lambda *each: told.append(each), number, of)("recording", 3, 5)
    assert told == [("recording", number * 5 + 3, of * 5)]


# ------------------------------------------------------------------------------ plans


def test_a_plan_is_written_with_its_span_and_five_digits():
    weights = {1: torch.tensor([1.0, 0.0]), 3: torch.tensor([1.234567, -0.234567]), 4: torch.tensor([0.0, 1.0])}
    found = plan_of(STEPS, (1, 0, 1, 0, 0), weights, SPAN, TunedFor(steps=5, psnr=40.126, model="abc"))
    part = found.parts[""]
    assert part.mask == (1, 0, 1, 0, 0)
    assert part.table == (((0,), 1, (1.0,)), ((2, 0), 3, (1.23457, -0.23457)), ((2, 0), 4, (0.0, 1.0)))
    lines = found.text.splitlines()
    assert "  Fn_compute_blocks: 1" in lines and "  Bn_compute_blocks: 2" in lines
    assert '  steps_computation_mask: "10100"' in lines and "    - [[2, 0], 3, [1.23457, -0.23457]]" in lines
    assert "  psnr: 40.13" in lines and '  model: "abc"' in lines and "secondary:" not in lines
    two = TunedPlan(
        made_for=found.made_for, front=0, back=0, parts={"high": part, "low": ExpertPlan(mask=(1,), table=())}
    )
    assert "secondary:\n  cache_config:\n    Fn_compute_blocks: 0" in two.text
    assert two.text.count("calibrated_weights") == 1, "a part without skipped steps has no weights"


@pytest.mark.parametrize("weights", [[0.3333333, 0.3333333, 0.3333334], [1.000004, -0.000004], [2.0, -1.0], [1.0]])
def test_weights_add_up_to_one_as_they_are_written(weights):
    assert sum(round(each * 10**5) for each in _rounded(weights)) == 10**5


# ------------------------------------------------------------------------------ choices


def bench(steps: int = 5, counts: tuple[int, ...] = (1, 2, 3, 4, 5), pace: tuple[float, float] = (2.0, 0.5)) -> Any:
    made: dict[str, Any] = dict.fromkeys(attrs.fields_dict(Bench))
    errors: Any = SimpleNamespace(steps=STEPS[:steps])
    return Bench(**{**made, "span": SPAN, "errors": errors, "masks": dict.fromkeys(counts), "pace": pace})


def test_how_many_times_faster_a_plan_is():
    one = bench()
    assert one.ratio(5) == 1.0 and one.ratio(2) == pytest.approx(10 / (4 + 1.5)) and one.ratio(1) == 2.5


def test_the_most_steps_that_a_budget_allows():
    one, faster = bench(), bench(pace=(2.0, 0.0))
    assert reaching._affordable(one, one, Budget("steps", 3)) == 3
    assert reaching._affordable(one, bench(counts=(1, 2)), Budget("steps", 2)) == 2
    assert reaching._affordable(one, one, Budget("ratio", one.ratio(2))) == 2
    assert reaching._affordable(one, one, Budget("ratio", one.ratio(2) + 0.01)) == 1
    assert reaching._affordable(one, one, Budget("ratio", 9)) is None
    assert reaching._affordable(one, bench(counts=(5,)), Budget("ratio", 1.0)) is None, "a whole run is no plan"
    assert reaching._affordable(bench(counts=(1, 3)), bench(counts=(1, 3)), Budget("steps", 2)) == 1
    short = bench(counts=(1, 3))
    assert reaching._affordable(short, short, Budget("steps", 2)) is None
    assert reaching._affordable(one, faster, Budget("steps", 2)) == 2


def found(quality: float, kind: str = "fitted", entries: tuple[int, ...] = (1, 0, 1, 0, 0)) -> Found:
    return Found(bench=bench(), entries=entries, weights={}, kind=kind, quality=quality)


def test_the_best_start_of_all_weights_is_taken(monkeypatch):
    monkeypatch.setattr(reaching, "start_weights", lambda errors, entries, depth, kind: kind)
    monkeypatch.setattr(reaching, "quality", lambda trial, entries, kind: {"fitted": 1, "taylor-1": 3}.get(kind, 2))
    one = attrs.evolve(bench(), masks={2: SimpleNamespace(entries=(1, 1))})
    best: Any = reaching.begun(one, 2)
    assert (best.kind, best.quality, best.weights, best.entries) == ("taylor-1", 3, "taylor-1", (1, 1))
    assert reaching.begun(one, 3) is None


@pytest.mark.parametrize(
    ("refine", "swapped", "wanted", "rounds"),
    [("none", 9.0, 1.0, []), ("swaps", 9.0, 9.0, []), ("swaps", 0.5, 1.0, []),
     ("gradient", 9.0, 29.0, [1, 1, 5]), ("gradient", 0.5, 21.0, [1, 1, 5])],
)  # fmt: skip
def test_what_is_refined(monkeypatch, refine, swapped, wanted, rounds):
    other, ran = (1, 1, 0, 0, 0), []
    monkeypatch.setattr(reaching, "swaps", lambda *_: (other, {}))
    monkeypatch.setattr(reaching, "quality", lambda trial, entries, weights: swapped)

    def improved(one: Found, count: int, observe: Any) -> Found:
        ran.append(count)
        return attrs.evolve(one, quality=one.quality + 10)

    monkeypatch.setattr(reaching, "_improved", improved)
    assert reaching.refined(found(1.0), refine, None).quality == wanted
    assert ran == rounds


def test_a_checked_plan_has_the_mean_and_the_worst_tenth(monkeypatch):
    near = torch.arange(1.0, 21.0)
    monkeypatch.setattr(
        reaching, "psnr", lambda *_: near[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    )
    monkeypatch.setattr(reaching, "made_for", lambda *_: TunedFor(steps=5))
    monkeypatch.setattr(reaching, "plan_of", lambda steps, entries, weights, span, made: plan(made))
    case = SimpleNamespace(pipeline=None, plain=None, request=None)
    one = attrs.evolve(found(1.0), bench=attrs.evolve(bench(), check=SimpleNamespace(cases=[case])))
    told: list[Any] = []
    checked = reaching.checked(one, lambda *each: told.append(each))
    made = checked.made_for
    assert (made.psnr, made.worst_psnr, made.prompts, made.computed, made.steps) == (10.5, 1.5, 20, 2, 5)
    assert checked.ratio == pytest.approx(10 / 5.5) and told == [("check", 2, 5)]


def plan(made: TunedFor) -> TunedPlan:
    return TunedPlan(made_for=made, front=0, back=0, parts={})


def test_the_curve_leaves_out_what_is_a_plan_already(monkeypatch):
    monkeypatch.setattr(reaching, "begun", lambda bench, count: count)
    monkeypatch.setattr(reaching, "checked", lambda one, observe: one)
    one = bench()
    assert reaching.curve(one, 8, [3]) == (2, 4) and reaching.curve(one, 8, [2, 4]) == (3,)
    assert (
        reaching.curve(one, 0, []) == () and reaching.curve(one, 2, []) == (2, 4) and reaching.curve(one, 1, []) == (2,)
    )


def test_the_best_span_within_a_budget_is_refined(monkeypatch):
    monkeypatch.setattr(reaching, "refined", lambda one, refine, observe: (one.quality, refine))
    slow, fast = bench(pace=(2.0, 1.5)), bench(pace=(2.0, 0.1))
    qualities = {(id(slow), 1): 5.0, (id(slow), 3): 4.0, (id(fast), 2): 9.0, (id(fast), 4): 3.0}
    monkeypatch.setattr(
        reaching, "begun",
        lambda one, count: attrs.evolve(found(qualities[id(one), count])) if (id(one), count) in qualities else None,
    )  # fmt: skip
    assert reaching.reached([slow, fast], Budget("steps", 3), "swaps") == (4.0, "swaps"), (
        "the other has none of so many"
    )
    assert reaching.reached([slow, fast], Budget("ratio", fast.ratio(2)), "none") == (9.0, "none")
    with pytest.raises(Misuse, match=rf"no plan keeps to 20x; the fastest one is {fast.ratio(1):.2f}x with 1 steps"):
        reaching.reached([slow, fast], Budget("ratio", 20.0), "none")


@pytest.mark.parametrize(("floor", "wanted"), [(45.0, 4), (35.0, 3), (33.0, 2), (5.0, 1), (55.0, None)])
def test_the_fastest_plan_that_comes_near_enough(monkeypatch, floor, wanted):
    """Of computed steps 4, 3, 2, 1 the start comes as near as 50, 40, 30, 10 dB, refined 4 dB nearer."""
    near = {4: 50.0, 3: 40.0, 2: 30.0, 1: 10.0}
    refined: list[Any] = []
    monkeypatch.setattr(reaching, "begun", lambda one, count: attrs.evolve(found(near[count], entries=(1,) * count)))
    monkeypatch.setattr(reaching, "_near", lambda one: one.quality)

    def refine(one: Found, how: str, observe: Any) -> Found:
        refined.append(one.computed)
        return attrs.evolve(one, quality=one.quality + 4)

    monkeypatch.setattr(reaching, "refined", refine)
    if wanted is None:
        with pytest.raises(Misuse, match=r"no plan comes as near as 55dB; the nearest one has 54\.0 dB"):
            reaching.reached([bench()], Budget("quality", floor), "swaps")
        return
    best = reaching.reached([bench()], Budget("quality", floor), "swaps")
    assert (best.computed, best.quality) == (wanted, near[wanted] + 4)
    assert refined.count(wanted) == 1, "refined once, before or after it was kept"


# ------------------------------------------------------------------------------ searching


def test_errors_are_the_mean_of_all_prompts():
    grams = [np.eye(2), 3 * np.eye(2)]
    recorded = [Recorded(prompt="a", seed=1, grams={"": gram}, latents=torch.zeros(1)) for gram in grams]
    errors = searching.errors_of(recorded, STEPS)
    assert np.array_equal(errors.grams[""], 2 * np.eye(2)) and errors.own("") == [0, 1, 2, 3, 4]
    assert errors.moves.shape == (5,) and (errors.moves < 0).all() and errors.moves.sum() == pytest.approx(-1.0)


def test_weights_before_a_change_stay():
    errors = Errors(steps=STEPS, grams={"": np.eye(5)}, moves=np.ones(5))
    old = {at: torch.full((2,), float(at)) for at in (1, 2, 3)}
    new = searching.changed(old, errors, (1, 0, 0, 1, 0), 2, "taylor-1", 2)
    assert sorted(new) == [1, 2, 4] and torch.equal(new[1], old[1])
    started = searching.start_weights(errors, (1, 0, 0, 1, 0), 2, "taylor-1")
    assert torch.equal(new[2], started[2]) and torch.equal(new[4], started[4])


def test_the_gaps_of_long_schedules_are_bounded(monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(searching, "best_masks", lambda count, depth, cost, longest: asked.append(longest) or {})
    monkeypatch.setattr(searching, "gap_cost", lambda *_: None)
    for count in (32, 33):
        steps = tuple(FlowMatchEuler().schedule(count))
        searching.masks(Errors(steps=steps, grams={"": np.eye(count)}, moves=np.ones(count)), 2)
    assert asked == [None, 10]


def test_histories_are_as_deep_as_said():
    assert histories(STEPS, (1, 1, 1, 0, 0), 2) == {3: (2, 1), 4: (2, 1)}
    assert histories(STEPS, (1, 0, 1, 0, 1), 3) == {1: (0,), 3: (2, 0)}
    assert histories(STEPS, (1, 0, 0, 0, 0), 1) == {1: (0,), 2: (0,), 3: (0,), 4: (0,)}


def test_computed_steps_move_by_one_or_two():
    errors: Any = None
    assert refining._moves(errors, (1, 0, 0, 1)) == [(0, 1), (3, 2), (0, 2), (3, 1)]


def test_a_moved_weight_is_made_up_for_by_the_newest():
    weights = {2: torch.tensor([0.7, 0.2, 0.1]), 3: torch.tensor([1.0])}
    moved = refining._moved(weights, [(2, 1), (2, 2)], torch.tensor([0.1, -0.05]))
    assert moved[2].tolist() == pytest.approx([0.65, 0.3, 0.05]) and weights[2].tolist() == pytest.approx(
        [0.7, 0.2, 0.1]
    )


# ------------------------------------------------------------------------------ what is tuned


def test_spans_are_all_pairs_that_leave_a_block():
    pipeline: Any = SimpleNamespace(denoiser=SimpleNamespace(blocks=range(4)))
    found = tuning._spans(pipeline, (0, 3), [0, 1], 2)
    assert found == [TunedSpan(0, 0, 2), TunedSpan(0, 1, 2), TunedSpan(3, 0, 2)]
    assert tuning._spans(pipeline, 1, 2, 8) == [TunedSpan(1, 2, 8)]
    for front, back in ((4, 0), (-1, 0), ((), 0), (True, 0), (0, 4)):
        with pytest.raises(Misuse, match="whole numbers of 0 to 3, the denoiser has 4 blocks"):
            tuning._spans(pipeline, front, back, 1)
    with pytest.raises(Misuse, match="leave none of the 4 blocks to skip"):
        tuning._spans(pipeline, 2, 2, 1)


@pytest.mark.parametrize(
    ("frames", "pictures", "prompts"), [(5, (0, 0), "videos"), (5, (1, 1), "videos"), (1, (1, 3), "edits"),
                                        (1, (0, 3), "images")]
)  # fmt: skip
def test_prompts_are_those_of_the_task(frames, pictures, prompts):
    pipeline: Any = SimpleNamespace(request=lambda text: SimpleNamespace(frames=frames), image_count=pictures)
    assert tuning._usual(pipeline) == prompts


@pytest.mark.parametrize(("dtype", "refine", "fine"), [
    (torch.float32, "gradient", True), (torch.bfloat16, "gradient", False), (torch.float16, "gradient", False),
    (torch.bfloat16, "swaps", True), (torch.float16, "none", True),
])  # fmt: skip
@pytest.mark.parametrize("steps", [200, 201])
def test_what_can_be_tuned(monkeypatch, dtype, refine, fine, steps):
    pipeline: Any = SimpleNamespace(
        dtype=dtype, request=lambda *_, **options: SimpleNamespace(steps=steps, frames=1, options=options),
        denoiser=SimpleNamespace(blocks=range(4)), image_count=(0, 0),
    )  # fmt: skip
    monkeypatch.setattr(tuning, "make_bench", lambda *arguments: arguments)
    monkeypatch.setattr(tuning, "reached", lambda benches, budget, *_: SimpleNamespace(computed=3, benches=benches))
    monkeypatch.setattr(tuning, "checked", lambda one, observe: one)
    monkeypatch.setattr(tuning, "curve", lambda bench, points, leave, observe: (points, leave))
    prompts = [f"{number}" for number in range(9)]

    def tune() -> Any:
        return tuning.tune(
            pipeline, prompts, budget=[3, "2x"], refine=refine, fit=2, held_out=3, front=(0, 1), recording="here",
            negative_prompt="", height=32,
        )  # fmt: skip

    if not fine or steps > 200:
        with pytest.raises(
            Misuse, match="plans are tuned for at most 200 steps" if fine else "needs a pipeline in fp32"
        ):
            tune()
        return
    found = tune()
    assert len(found.plans) == 2 and found.curve == (8, [3, 3])
    (_, texts, fit, span, options, folder, _), other = found.plan.benches
    assert (texts, fit, span, str(folder)) == (tuple(prompts[:5]), 2, TunedSpan(0, 0, 3), "here")
    assert options == {"height": 32, "negative_prompt": ""} and other[3] == TunedSpan(1, 0, 3)
