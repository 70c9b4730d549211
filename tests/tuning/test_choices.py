"""Refinement, joint masks and benches with stand-ins for runs: what is tried, kept and counted."""

from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch

import pure
from pure import FlowMatchEuler
from pure.configs.tuned import TunedFor
from pure.engine.tuning import bench as benches
from pure.engine.tuning import keeping, reaching, refining, searching
from pure.engine.tuning.plan import ExpertPlan, TunedPlan
from pure.engine.tuning.recording import Recorded
from pure.engine.tuning.refining import decibels, improve, swaps
from pure.engine.tuning.rerun import TunedSpan
from pure.engine.tuning.searching import Errors
from pure.shortest import BestMask
from pure.transforms import calibrated, dbcache, scm

STEPS = tuple(FlowMatchEuler().schedule(5))
SPAN = TunedSpan(depth=2)
ERRORS = Errors(steps=STEPS, grams={"": np.eye(5)}, moves=np.ones(5))


def trial(count: int = 1) -> Any:
    cases = [SimpleNamespace(steps=STEPS, noise=torch.zeros(1)) for _ in range(count)]
    return SimpleNamespace(cases=cases, references=[torch.zeros(1)] * count, span=SPAN, bound="bound")


def test_decibels_are_of_every_sample():
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert decibels(reference * torch.tensor([[1.1], [0.9]]), reference).tolist() == pytest.approx(
        [20.0, 20.0], abs=1e-4
    )
    assert decibels(reference + torch.tensor([[5.0, 0.0], [0.0, 0.0]]), reference)[0] == pytest.approx(0.0)
    assert decibels(reference, reference).tolist() == pytest.approx([300.0, 300.0])


# ------------------------------------------------------------------------------ swaps


@pytest.fixture
def swapping(monkeypatch):
    """Swap towards a mask; return what is found and which masks were run, from which step on."""

    def swap(entries: Any, target: Any, gain: float = 1.0, **options: Any) -> Any:
        tried: list[Any] = []

        def quality(trial: Any, mask: Any, weights: Any, places: Any = None) -> float:
            if places is not None:
                tried.append((mask, places))
            return -gain * sum(abs(a - b) for a, b in zip(np.cumsum(mask), np.cumsum(target), strict=True))

        monkeypatch.setattr(refining, "quality", quality)
        monkeypatch.setattr(refining, "changed", lambda weights, errors, mask, depth, kind, since: (mask, kind, since))
        monkeypatch.setattr(refining, "_places", lambda trial, case, mask, weights: list(range(len(mask))))
        found = swaps(trial(2), ERRORS, entries, "fitted", **options)
        return found, tried

    return swap


def test_computed_steps_move_while_that_makes_the_run_better(swapping):
    (entries, weights), tried = swapping((1, 0, 0, 0, 1), (1, 1, 0, 0, 0))
    assert entries == (1, 0, 1, 0, 0) and weights[:2] == (entries, "fitted")
    assert all(mask[0] == 1 and sum(mask) == 2 for mask, _ in tried), "the first step is always computed"
    assert all(places == [where] * 2 for (_, places), where in zip(tried, [each[1][0] for each in tried], strict=True))
    assert swapping((1, 0, 0, 0, 1), (1, 1, 0, 0, 0), rounds=1)[0][0] == (1, 0, 0, 1, 0), "a step moves once a round"
    assert swapping((1, 0, 0, 0, 1), (1, 1, 0, 0, 0), rounds=3)[0][0] == (1, 1, 0, 0, 0)
    assert swapping((1, 0, 1, 0, 0), (1, 0, 1, 0, 0))[0][0] == (1, 0, 1, 0, 0), "what is best stays"


def test_a_run_begins_where_it_differs(swapping):
    _, tried = swapping((1, 0, 0, 1, 0), (1, 0, 0, 1, 0))
    assert tried == [((1, 0, 0, 0, 1), [3, 3]), ((1, 0, 1, 0, 0), [2, 2]), ((1, 1, 0, 0, 0), [1, 1])]


def test_a_round_that_brings_little_is_the_last(swapping):
    told: list[Any] = []
    _, tried = swapping((1, 0, 0, 0, 1), (1, 1, 0, 0, 0), gain=0.001, observe=lambda *each: told.append(each))
    assert tried == [((1, 0, 0, 1, 0), [3, 3])]
    assert told == [("swaps", number, 4) for number in range(4)]


# ------------------------------------------------------------------------------ weights


def test_weights_are_improved_by_damped_steps(monkeypatch):
    """Of a parabola with its top at 0.3: each round goes on from the best, damped less after a step that helped."""
    weights = {1: torch.tensor([1.0, 0.0], dtype=torch.float64), 2: torch.tensor([0.8, 0.2], dtype=torch.float64)}
    rounds: list[float] = []

    def equations(trial: Any, entries: Any, now: Any, names: Any, observe: Any) -> Any:
        assert names == [(2, 1)], "of two known steps the newest one's weight makes up for the other"
        rounds.append(float(now[2][1]))
        return torch.ones(1, 1, dtype=torch.float64), now[2][1:] - 0.3

    def quality(trial: Any, entries: Any, now: Any) -> float:
        off = float(now[2][1]) - 0.3
        return -(off**2) * 1000

    monkeypatch.setattr(refining, "_equations", equations)
    monkeypatch.setattr(refining, "quality", quality)
    found = improve(trial(), (1, 0, 0, 1, 1), {1: weights[1]}, 3)
    assert found == {1: weights[1]}, "there is nothing to improve"
    monkeypatch.setattr(refining, "_names", lambda trial, entries, now: [(2, 1)])
    found = improve(trial(), (1, 0, 0, 1, 1), weights, 3)
    assert float(found[2][1]) == pytest.approx(0.3, abs=2e-3) and float(found[2].sum()) == pytest.approx(1.0)
    assert rounds[:2] == [0.2, pytest.approx(0.3 - 0.1 * 0.01 / 1.01)] and torch.equal(found[1], weights[1])
    assert len(rounds) == 2, "a round that brings little is the last"
    rounds.clear()
    assert float(improve(trial(), (1, 0, 0, 1, 1), weights, 0)[2][1]) == 0.2 and not rounds


def test_steps_that_make_it_worse_are_damped_more(monkeypatch):
    weights, tried = {2: torch.tensor([1.0, 0.0], dtype=torch.float64)}, []
    one = torch.ones(1, 1, dtype=torch.float64)
    monkeypatch.setattr(refining, "_names", lambda *_: [(2, 1)])
    monkeypatch.setattr(refining, "_equations", lambda *_: (one, -one[0]))

    def quality(trial: Any, entries: Any, now: Any) -> float:
        tried.append(float(now[2][1]))
        return 1.0 if tried[-1] == 0 else float("nan") if tried[-1] > 0.9 else 0.5

    monkeypatch.setattr(refining, "quality", quality)
    assert improve(trial(), (1, 0, 0, 1, 1), weights, 1) == weights
    assert tried == [0.0, *(pytest.approx(1 / (1 + 0.01 * 5**n)) for n in range(6))]


def test_the_equations_are_those_of_least_squares(monkeypatch):
    """Latents that are linear in two weights, of two cases with two samples: the matrix of the slopes themselves."""
    slopes = torch.arange(1.0, 25.0, dtype=torch.float64).reshape(2, 2, 3, 2)  # case, sample, number, weight
    base = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    weights = {at: torch.tensor([0.7, 0.3], dtype=torch.float64) for at in (3, 4)}
    told: list[Any] = []

    def latents(case: Any, now: Any) -> torch.Tensor:
        return base + slopes[case.number] @ torch.stack([now[3][1], now[4][1]])

    monkeypatch.setattr(refining, "end", lambda case, bound, entries, now, span, place: latents(case, now))
    monkeypatch.setattr(
        refining, "_places", lambda trial, case, *_: [SimpleNamespace(carry=latents(case, weights))] * 6
    )
    solver = SimpleNamespace(latents=lambda carry: carry)
    cases = [SimpleNamespace(number=n, noise=base, pipeline=SimpleNamespace(solver=solver)) for n in range(2)]
    given: Any = SimpleNamespace(
        cases=cases, references=[torch.zeros(2, 3, dtype=torch.float64)] * 2, span=SPAN, bound=0
    )
    normal, slope = refining._equations(given, (), weights, [(3, 1), (4, 1)], lambda *each: told.append(each))
    wanted, right = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for case in cases:
        for jacobian, off in zip(slopes[case.number], latents(case, weights), strict=True):
            wanted += jacobian.T @ jacobian / off.square().sum()
            right += jacobian.T @ off / off.square().sum()
    torch.testing.assert_close(normal, wanted)
    torch.testing.assert_close(slope, right)
    assert told == [("weights", number, 4) for number in range(1, 5)]


def test_the_quality_of_a_mask_is_the_mean_over_all_samples(monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(refining, "end", lambda *each: asked.append(each[5]) or torch.full((2, 1), 1.1))
    given = trial(2)
    given.references = [torch.ones(2, 1), torch.full((2, 1), 1.1 / 1.01)]
    assert refining.quality(given, (), {}) == pytest.approx((20 + 40) / 2, abs=1e-3)
    place: Any = ["first", "second"]
    refining.quality(given, (), {}, place)
    assert asked == [None, None, "first", "second"]


# ------------------------------------------------------------------------------ recordings


def test_what_is_recorded_is_read_back_and_the_rest_is_made(monkeypatch, tmp_path):
    ran: list[Any] = []

    def record(case: Any, seeds: Any, span: Any, observe: Any) -> Any:
        ran.append((seeds, observe))
        gram = {"high": np.eye(2), "low": np.full((1, 1), 3.0)}
        return [
            Recorded(prompt=prompt, seed=seed, grams=gram, latents=torch.full((1, 2), float(seed)))
            for prompt, seed in zip(case.request.prompts, seeds, strict=True)
        ]

    monkeypatch.setattr(keeping, "record", record)
    case: Any = SimpleNamespace(request=SimpleNamespace(prompts=("a", "b")))

    def recorded(folder: Any, seeds: Any = (1, 2)) -> Any:
        return keeping.recorded(case, seeds, SPAN, {"x": 1}, folder, print)

    assert [one.seed for one in recorded(None)] == [1, 2] and not list(tmp_path.iterdir())
    first = recorded(tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2 and ran == [((1, 2), print)] * 2
    again = recorded(tmp_path / "kept")
    assert len(ran) == 2, "all was there"
    for one, other in zip(first, again, strict=True):
        assert (one.prompt, one.seed) == (other.prompt, other.seed) and torch.equal(one.latents, other.latents)
        assert all(np.array_equal(one.grams[name], other.grams[name]) for name in ("high", "low"))
    recorded(tmp_path / "kept", (1, 3))
    assert ran[2:] == [((1, 3), print)] and len(list((tmp_path / "kept").iterdir())) == 3


# ------------------------------------------------------------------------------ quality


def test_the_quality_of_pictures_is_of_every_sample(monkeypatch):
    shown = [torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.25)]
    latents = torch.stack([shown[0], shown[1] + 0.1])
    monkeypatch.setattr(reaching, "end", lambda case, bound, entries, weights, span: latents)
    pipeline = SimpleNamespace(finished=lambda one, request: one, decoded=lambda one, request: one)
    case = SimpleNamespace(pipeline=pipeline, request=None)
    given: Any = SimpleNamespace(cases=[case] * 2, references=[torch.stack(shown)] * 2, bound=None, span=None)
    assert reaching.psnr(given, (), {}).tolist() == pytest.approx([120.0, 20.0] * 2, abs=1e-3)


# ------------------------------------------------------------------------------ masks of two experts


def test_experts_share_the_computed_steps_out(monkeypatch):
    """Of every number of steps the cheapest of all pairs; steps of the two alternate."""
    own: dict[str, dict[int, Any]] = {
        "a": {1: BestMask((1, 0, 0), 9.0), 2: BestMask((1, 1, 0), 1.0), 3: BestMask((1, 1, 1), 0.0)},
        "b": {1: BestMask((1, 0), 4.0), 2: BestMask((1, 1), 0.0)},
    }
    monkeypatch.setattr(searching, "experts_of", lambda steps: ("a", "b", "a", "b", "a"))
    monkeypatch.setattr(searching, "gap_cost", lambda gram, moves: (gram, moves))
    asked: list[Any] = []
    monkeypatch.setattr(
        searching, "best_masks", lambda count, depth, cost, longest: asked.append((count, depth, cost)) or own[cost[0]]
    )
    errors = Errors(steps=STEPS, grams={"a": "a", "b": "b"}, moves=np.arange(5.0))  # type: ignore[dict-item]
    found = searching.masks(errors, 2)
    assert asked == [(3, 2, ("a", [0, 2, 4])), (2, 2, ("b", [1, 3]))]
    assert {count: (mask.entries, mask.cost) for count, mask in found.items()} == {
        2: ((1, 1, 0, 0, 0), 13.0), 3: ((1, 1, 1, 0, 0), 5.0), 4: ((1, 1, 1, 1, 0), 1.0), 5: ((1, 1, 1, 1, 1), 0.0)
    }  # fmt: skip


# ------------------------------------------------------------------------------ benches


@pytest.mark.parametrize(
    ("fit", "count", "parts"),
    [(3, 5, [(0, 2), (2, 3), (3, 5)]), (2, 5, [(0, 2), (2, 4), (4, 5)]), (1, 2, [(0, 1), (1, 2)])],
)
def test_prompts_are_recorded_in_batches_of_those_to_fit_and_of_others(monkeypatch, fit, count, parts):
    texts, told, asked = [f"prompt {number}" for number in range(count)], [], []

    def make_case(pipeline: Any, some: Any, seeds: Any, options: Any) -> Any:
        return SimpleNamespace(prompts=list(some), seeds=seeds, steps=STEPS)

    def recorded(case: Any, seeds: Any, span: Any, facts: Any, folder: Any, observe: Any) -> Any:
        asked.append((case.prompts, seeds, span, facts, folder))
        observe("recording", 1, 5)
        return [SimpleNamespace(latents=torch.full((1, 2), float(seed))) for seed in seeds]

    monkeypatch.setattr(benches, "batch_size", lambda *_: 2)
    monkeypatch.setattr(benches, "make_case", make_case)
    monkeypatch.setattr(benches, "recorded", recorded)
    monkeypatch.setattr(benches, "_facts", lambda case, options: options)
    monkeypatch.setattr(benches, "errors_of", lambda some, steps: [int(one.latents[0, 0]) for one in some])
    monkeypatch.setattr(benches, "masks", lambda errors, depth: (errors, depth))
    monkeypatch.setattr(benches.Trial, "of", classmethod(lambda cls, cases, latents, span: (cases, latents, span)))
    monkeypatch.setattr(benches, "_pace", lambda trial, errors: (2.0, 1.0))
    pipeline: Any = SimpleNamespace(request=lambda text, **options: None)
    folder: Any = "folder"
    made: Any = benches.make_bench(
        pipeline, texts, fit, SPAN, {"steps": 5}, folder, lambda *each: told.append(each)
    )  # fmt: skip
    seeds = [list(range(1000 + start, 1000 + stop)) for start, stop in parts]
    assert asked == [
        (texts[start:stop], own, SPAN, {"steps": 5}, "folder") for (start, stop), own in zip(parts, seeds, strict=True)
    ]
    assert told == [("recording", 5 * number + 1, 5 * len(parts)) for number in range(len(parts))]
    cases, latents, span = made.fit
    assert [case.prompts for case in cases] == [texts[start:stop] for start, stop in parts if stop <= fit]
    assert [each[:, 0].tolist() for each in latents] == [
        own for own, (_, stop) in zip(seeds, parts, strict=True) if stop <= fit
    ]
    assert [case.prompts for case in made.check[0]] == [texts[start:stop] for start, stop in parts if start >= fit]
    fitted = list(range(1000, 1000 + fit))
    assert (made.errors, made.masks, made.pace, span) == (fitted, (fitted, 2), (2.0, 1.0), SPAN)


# ------------------------------------------------------------------------------ plans


def test_a_plan_is_the_transform_that_its_file_says():
    table = (((0,), 1, (1.0,)),)
    one, two = ExpertPlan(mask=(1, 0), table=table), ExpertPlan(mask=(1, 1), table=())
    plan = TunedPlan(made_for=TunedFor(steps=2), front=1, back=2, parts={"": one})
    always = dbcache(front=1, back=2, threshold=1.0, warmup=0, max_continuous=None)
    first = pure.compose(always, scm(mask=(1, 0), policy="static"), calibrated(table=table))
    second = pure.compose(always, scm(mask=(1, 1), policy="static"), calibrated(table=()))
    assert plan.transform == first
    assert attrs.evolve(plan, parts={"high": one, "low": two}).transform == {"high": first, "low": second}
