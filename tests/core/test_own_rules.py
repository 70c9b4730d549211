"""Rules, probes and solvers of one's own: what they see, what is measured for them, what they are told."""

import math
from typing import Any

import attrs
import pytest
import torch

import pure
from pure import Answer
from pure.decide import check, decide, measures
from pure.measure import measure
from pure.memory import read
from pure.plan import Probe, Span
from pure.rules import Accumulated, Mask, Threshold, Total
from pure.testing.situation import SOLVER, Situation, close
from pure.testing.toys import RANDOM
from pure.transforms import dbcache

SEEN: list[tuple] = []


@attrs.frozen
class Looking(pure.Rule):
    """Notes what it sees of every sample, and computes."""

    name = "looking"
    before = Mask
    history = 3

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        SEEN.append((where.index, where.fraction, where.sigma, where.timestep, where.branch, memory.times))
        return Answer.COMPUTE


@attrs.frozen
class Judging(pure.Rule):
    """Skips while a change is below a limit that falls with the noise."""

    name = "judging"
    before = Threshold
    limit: Any = 1.0

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.DEFER

    def judge(self, change: float, where: pure.Where, memory: pure.Memory) -> Any:
        if isinstance(self.limit, str):
            return self.limit
        return Answer.SKIP if change < self.limit * where.sigma else Answer.COMPUTE


@attrs.frozen
class Noisy(pure.Rule):
    """Skips once the noise is low."""

    name = "noisy"
    before = Threshold

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.SKIP if where.sigma < 0.5 else Answer.COMPUTE


def test_notes_look_at_the_levels_of_the_steps_where_they_are_known() -> None:
    denoiser, steps = with_rules(Noisy(), span=Span()), SOLVER.schedule(8, tokens=16)
    assert denoiser.notes(steps) == ()
    for early in (steps[:3], 8):
        (note,) = denoiser.notes(early)
        assert note.text == "nothing will be skipped: noisy computes every one of 8 steps"


def with_rules(*rules: pure.Rule, **fields: Any) -> pure.Denoiser:
    plan = pure.Plan(**{"span": Span(front=1), **fields}).add(*rules)
    return attrs.evolve(RANDOM.first, plan=plan)


def run(denoiser: pure.Denoiser, count: int = 6, seeds: tuple[int, ...] = (1, 2)) -> pure.Run:
    case = Situation(model=RANDOM, transform=pure.identity, seeds=seeds, count=count)
    return pure.sample(denoiser, RANDOM.params, case.conditioning(), case.latents(), case.schedule(), SOLVER)


def sigma(step: pure.Step) -> torch.Tensor:
    assert step.sigma is not None
    return step.sigma


def test_a_rule_sees_levels_fraction_and_as_many_computed_steps_as_it_asks_for() -> None:
    denoiser, steps = with_rules(Looking(), Threshold(0.9)), SOLVER.schedule(4, tokens=16)
    SEEN.clear()
    run(denoiser, 4, (1,))
    assert all(len(times) == 3 for *_, times in SEEN), "in checks before the run, too"
    last = SEEN[3:7]  # after the check of the plan
    assert [index for index, *_ in last] == [0, 1, 2, 3]
    assert [fraction for _, fraction, *_ in last] == [0.0, 0.25, 0.5, 0.75]
    assert [level for _, _, level, *_ in last] == [float(sigma(step)) for step in steps]
    assert [timestep for _, _, _, timestep, *_ in last] == [float(step.timestep) for step in steps]
    assert [times for *_, times in last] == [(-1, -1, -1), (0, -1, -1), (1, 0, -1), (2, 1, 0)]
    checked = [level for _, _, level, *_ in SEEN[:3]]
    assert checked == [float(sigma(step)) for step in steps[1:]], "checks know the schedule"


def test_samples_at_different_steps_see_their_own_levels() -> None:
    steps = SOLVER.schedule(4, tokens=16)
    step = pure.Step(
        index=(1, 3),
        count=4,
        timestep=torch.stack([steps[1].timestep, steps[3].timestep]),
        sigma=torch.stack([sigma(steps[1]), sigma(steps[3])]),
    )
    first, second = step.rows(2)
    assert (first.sigma, second.sigma) == (float(sigma(steps[1])), float(sigma(steps[3])))
    assert (first.timestep, second.timestep) == (float(steps[1].timestep), float(steps[3].timestep))
    levels = pure.Step(index=1, count=4, timestep=torch.tensor([0.5, 0.25])).rows(2)
    assert [where.timestep for where in levels] == [0.5, 0.25] and math.isnan(levels[0].sigma)
    per_token = pure.Step(index=1, count=4, timestep=torch.tensor([[0.0, 0.5], [0.25, 0.5]])).rows(2)
    assert [where.timestep for where in per_token] == [0.0, 0.25]


def test_a_rule_that_judges_is_given_the_measured_change() -> None:
    made = run(with_rules(Judging(0.5), Total(2)))
    expected = run(with_rules(Threshold(0.5)))
    assert made.infos[1].changes == expected.infos[1].changes, "what dbcache measures"
    for info, step in zip(made.infos[1:], SOLVER.schedule(6, tokens=16)[1:], strict=True):
        for decision in info.decisions:
            if decision.change is not None:
                assert decision.computed == (decision.change >= 0.5 * float(sigma(step)))
                assert decision.reason == "judging"
    assert any(d.change is not None and not d.computed for info in made.infos for d in info.decisions)
    assert isinstance(made.state, pure.State)
    assert max(memory.skipped for memory in read(made.state.cache.ledger)) <= 2, "limits before it hold"


def test_nothing_is_measured_of_a_sample_whose_rules_need_no_change() -> None:
    """Beside one that is measured: the second sample is at its first step."""
    case = Situation(model=RANDOM, transform=dbcache(front=1, threshold=0.5, warmup=1), seeds=(1, 2), count=6)
    first, second = (case.start(seeds=(seed,)) for seed in (1, 2))
    steps = case.schedule()
    first = case.apply(first, case.latents((1,)), steps[0])[1]
    info = case.apply(pure.join(first, second), case.latents(), pure.merge_steps([steps[1], steps[0]]))[2]
    assert info.changes[0] is not None and info.changes[1] is None
    assert info.reasons == ("threshold", "warm-up")


def test_a_judge_that_defers_leaves_it_to_the_next() -> None:
    deferring = attrs.frozen(type("Deferring", (Judging,), {"judge": lambda *_: Answer.DEFER, "__annotations__": {}}))
    rules = (deferring(), Threshold(0.3))
    where, memory = pure.Where(3, 9), read(torch.tensor([[0, 0, 1, 0, 0.0, -1.0, 0]], dtype=torch.float64))[0]
    assert decide(rules, where, memory) == (Answer.DEFER, "measure")
    assert decide(rules, where, memory, 0.2) == (Answer.SKIP, "threshold")
    assert decide(rules, where, memory, 0.4) == (Answer.COMPUTE, "threshold")
    assert decide(rules[:1], where, memory, 0.4) == (Answer.COMPUTE, "default")


def test_a_wrong_judgement_names_the_rule() -> None:
    with pytest.raises(TypeError, match=r"Judging\(limit='soon'\) answered 'soon' at step 1; judge\(\) must return"):
        run(with_rules(Judging("soon")))


def test_a_rule_that_judges_needs_something_to_measure() -> None:
    with pytest.raises(ValueError, match=r"Judging\(limit=1.0\) judges .* no front blocks: set span=Span\(front=1\)"):
        run(with_rules(Judging(), span=Span()))
    assert measures((Judging(),)) and measures((Accumulated(0.1), Threshold(1.0))) and not measures((Threshold(1.0),))
    assert check((Judging(),), 5) == (), "it may skip"


def entry(params: Any, hidden: Any, context: Any) -> torch.Tensor:
    return hidden.image * params["in"].abs().sum()


@pytest.mark.parametrize("front", [0, 1])
def test_a_probe_measures_what_it_names_and_compares_it_with_the_last_step(front: int) -> None:
    """What it names is what the front blocks are given, not what they return."""
    fields = {"span": Span(front=front), "probe": Probe(of=entry, since="last step")}
    made = run(with_rules(Judging(1e9), **fields))
    case = Situation(model=RANDOM, transform=pure.identity, seeds=(1, 2), count=6)
    previous = None
    latents = case.latents()
    for step, info in zip(case.schedule(), made.infos, strict=True):
        now = (latents @ RANDOM.params["in"]) * RANDOM.params["in"].abs().sum()
        if previous is not None:
            change = (now - previous).abs().sum((1, 2)) / previous.abs().sum((1, 2))
            assert list(info.changes) == pytest.approx(change.tolist(), rel=1e-4)
        previous = now
        latents = _after(step, case, front)
    assert not any(info.computed[0] for info in made.infos[1:])


def _after(step: pure.Step, case: Situation, front: int) -> torch.Tensor:
    """The latents after a step of the run, found by running it again to there."""
    assert isinstance(step.index, int)
    denoiser = with_rules(Judging(1e9), span=Span(front=front), probe=Probe(of=entry, since="last step"))
    state = denoiser.init(RANDOM.params, case.conditioning(), case.latents(), case.schedule())
    steps = case.schedule()[: step.index + 1]
    *_, frame = pure.unroll(denoiser, RANDOM.params, state, case.latents(), steps, SOLVER)
    return frame.latents


def test_a_probe_is_given_the_context_of_its_own_rank() -> None:
    def of(params: Any, hidden: Any, context: Any) -> torch.Tensor:
        return hidden.image * context["of this rank"]

    denoiser = attrs.evolve(RANDOM.first, own=lambda context: {"of this rank": 2.0})
    denoiser = attrs.evolve(denoiser, plan=pure.Plan(span=Span(), probe=Probe(of=of)).add(Judging(1e9)))
    case = Situation(model=RANDOM, transform=pure.identity, seeds=(1,), count=3)
    state = denoiser.init(RANDOM.params, case.conditioning(), case.latents(), case.schedule())
    infos = [
        frame.info for frame in pure.unroll(denoiser, RANDOM.params, state, case.latents(), case.schedule(), SOLVER)
    ]
    assert [info.computed for info in infos] == [(True,), (False,), (False,)] and infos[1].changes[0] is not None


def test_a_change_goes_through_the_polynomial() -> None:
    old, new = pure.gaussian((2, 3, 4), 0), pure.gaussian((2, 3, 4), 1)
    plain, sizes = measure(Probe(), old, new)
    put, fresh = measure(Probe(polynomial=(2.0, -1.0, 0.5), since="last step"), old, new)
    assert put == pytest.approx([2 * change**2 - change + 0.5 for change in plain])
    assert min(sizes) > 0 and fresh == [-1.0, -1.0], "the next step is compared with this one"
    with pytest.raises(ValueError, match=r"since=.yesterday.*choose one of"):
        Probe(since="yesterday")


def test_a_probe_of_ones_own_works_in_batches_and_with_guidance() -> None:
    fields = {"span": Span(), "probe": Probe(of=entry, since="last step")}
    together = run(with_rules(Judging(0.6), **fields), seeds=(1, 2, 3))
    for row, seed in enumerate((1, 2, 3)):
        alone = run(with_rules(Judging(0.6), **fields), seeds=(seed,))
        assert [info.computed[row] for info in together.infos] == [info.computed[0] for info in alone.infos]
        assert close(together.latents[row : row + 1], alone.latents)
    assert len({info.computed for info in together.infos}) > 1


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda params, hidden, context: None, r"returned NoneType; return a tensor \(2, N, D\)"),
        (lambda params, hidden, context: hidden.image.sum(), r"returned torch.float32 of shape \(\)"),
        (lambda params, hidden, context: hidden.image[:1], r"returned torch.float32 of shape \(1, 3, 4\)"),
        (lambda params, hidden, context: hidden.image > 0, r"returned torch.bool of shape \(2, 3, 4\)"),
    ],
)
def test_a_probe_that_returns_nothing_comparable_is_named(of: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"Probe\(of=<function.*" + message):
        run(with_rules(Judging(0.5), span=Span(), probe=Probe(of=of)))


def test_a_probe_may_return_a_part_of_a_stream() -> None:
    parts = [lambda p, hidden, c: hidden.image[:, :2], lambda p, hidden, c: hidden.image[:, :2].contiguous()]
    view, dense = (run(with_rules(Judging(0.5), span=Span(), probe=Probe(of=of))) for of in parts)
    assert view.infos == dense.infos and any(info.changes[0] is not None for info in view.infos)


@pytest.mark.parametrize(
    ("field", "value"), [("before", 3), ("before", int), ("after", "Threshold"), ("history", 2.5), ("history", 0)]
)
def test_a_place_or_a_history_that_is_none_names_the_rule(field: str, value: Any) -> None:
    kind = attrs.frozen(type("Odd", (Judging,), {field: value, "__annotations__": {}}))
    with pytest.raises(TypeError, match=rf"Odd.{field} is .*; set it to a"):
        pure.Plan().add(kind())


@pytest.mark.parametrize("polynomial", [(10**400,), (math.nan,), (1.0, math.inf), (), [1.0]])
def test_a_polynomial_of_other_numbers_is_refused(polynomial: Any) -> None:
    with pytest.raises(ValueError, match=r"Probe\(polynomial=.*\): give a tuple of finite numbers"):
        Probe(polynomial=polynomial)
