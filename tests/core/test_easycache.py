"""EasyCache: its decisions from the definition; and what a probe of latents refuses."""

from typing import Any

import attrs
import pytest
import torch

import pure
from pure.plan import Probe
from pure.testing.situation import SOLVER, Situation
from pure.testing.toys import RANDOM
from pure.transforms import dbcache, easycache, taylorseer

SEEDS, COUNT, THRESHOLD, WARMUP = (1, 2, 3), 14, 0.3, 3


@pytest.mark.parametrize("guide", [False, True])
def test_decisions_follow_the_definition_for_every_sample(guide: bool) -> None:
    parts = [easycache(threshold=THRESHOLD, warmup=WARMUP), taylorseer(order=1)]
    case = Situation(model=RANDOM, transform=pure.compose(*parts), seeds=SEEDS, count=COUNT)
    entries, skips = case.trace(), 0
    for row in range(len(SEEDS)):
        latents = [entry.latents[row].double() for entry in entries]
        predictions = [entry.prediction[row].double() for entry in entries]
        computed: list[int] = []
        total = 0.0
        for index, entry in enumerate(entries):
            decision = entry.info.decisions[row]
            if index < WARMUP or index == COUNT - 1:
                assert decision.computed and decision.change is None
            else:
                last, before = computed[-1], computed[-2]
                k = (predictions[last] - predictions[before]).abs().mean() / (
                    latents[last] - latents[before]
                ).abs().mean()
                moved = (latents[index] - latents[index - 1]).abs().mean() / predictions[last].abs().mean()
                assert decision.change == pytest.approx(float(k * moved), rel=1e-4)
                total += float(k * moved)
                assert abs(total - THRESHOLD) > 1e-4, "choose a threshold that decides"
                assert decision.computed == (total >= THRESHOLD) and decision.reason == "easycache"
                skips += not decision.computed
            if decision.computed:
                computed, total = [*computed, index], 0.0
    assert 0 < skips < len(SEEDS) * (COUNT - WARMUP - 1)


def test_until_two_steps_are_computed_nothing_is_known() -> None:
    entries = Situation(model=RANDOM, transform=easycache(threshold=1e9, warmup=0), seeds=(1,), count=5).trace()
    assert [entry.info.computed[0] for entry in entries] == [True, True, False, False, True]
    assert [entry.info.changes[0] is None for entry in entries] == [True, True, False, False, True]
    assert entries[1].info.reasons == ("easycache",), "it decided, and had nothing to measure"


def test_a_batch_decides_as_its_samples_do_and_a_state_goes_on() -> None:
    case = Situation(model=RANDOM, transform=easycache(threshold=THRESHOLD, warmup=2), seeds=SEEDS, count=COUNT)
    batch = case.trace()
    for row, seed in enumerate(SEEDS):
        alone = case.trace(seeds=(seed,))
        assert [e.info.computed[0] for e in alone] == [e.info.computed[row] for e in batch]
        torch.testing.assert_close(alone[-1].prediction[0], batch[-1].prediction[row], rtol=1e-4, atol=1e-5)


def test_several_predictions_are_measured_together() -> None:
    def twice(*given: Any) -> Any:
        return (RANDOM.first.head(*given),) * 2

    case = Situation(model=RANDOM, transform=pure.identity, seeds=(1,), count=3)
    found: list[float | None] = []
    for head in (RANDOM.first.head, twice):
        cached = easycache(threshold=1e9, warmup=2)(attrs.evolve(RANDOM.first, head=head))
        latents = case.latents()
        state = cached.init(RANDOM.params, case.conditioning(), latents, 4)
        for index, step in enumerate(SOLVER.schedule(4, tokens=16)[:3]):
            _, state, info = cached.apply(RANDOM.params, state, pure.Inputs(latents * (1 + index) ** 2, step))
            found.append(info.changes[0])
    one, two = found[2], found[5]
    assert one is not None and one > 0 and one == pytest.approx(two)


def test_a_prediction_that_does_not_change_needs_no_steps() -> None:
    from pure.measure import answered

    one, two = torch.ones(1, 3), torch.full((1, 3), 2.0)
    assert answered((one, two), two, two).item() == float("inf")
    assert answered((one, two), two, one).item() == pytest.approx(3 * 3 / 3)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"easycache\(\) and dbcache\(\) both set what is measured of a step"):
        pure.compose(easycache(), dbcache(front=1))(RANDOM.first)
    for given in ({"threshold": -1.0}, {"warmup": -1}, {"follow": "both"}):
        with pytest.raises(ValueError, match=next(iter(given))):
            easycache(**given)  # type: ignore[arg-type]
    seen = easycache()(RANDOM.first).plan.probe.seen  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="names two things to compare; give one"):
        Probe(of=lambda *_: torch.ones(1), seen=seen)
    for wrong in ({"seen": seen}, {"since": "last step"}, {"seen": seen, "since": "last step", "downsample": 2}):
        with pytest.raises(ValueError, match="follows all of the latents from step to step; set seen"):
            Probe(gain=True, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("transform", "count", "words"),
    [
        (
            easycache(threshold=9.0, warmup=0),
            3,
            "easycache computes every one of 3 steps; take more steps: easycache needs",
        ),
        (easycache(threshold=9.0, warmup=0), 2, "take more steps: easycache needs at least 4"),
        (easycache(threshold=9.0, warmup=3), 4, "use a shorter warm-up or more steps"),
        (easycache(threshold=9.0, warmup=0), 4, ""),
    ],
)
def test_too_few_steps_to_skip_any_are_told(transform, count, words):
    found = transform(RANDOM.first).notes(count)
    assert len(found) == bool(words) and all(words in note.text for note in found)
