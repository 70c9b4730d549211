"""Law 16 for UniPC: its trajectory is that of diffusers' scheduler, bit for bit."""

import itertools
from typing import Any, cast

import attrs
import diffusers
import hypothesis
import pytest
import torch
from hypothesis import strategies as st

import pure
from pure import Schedule, Step
from pure.schedule import BACK_OFF
from pure.testing.situation import Situation
from pure.tree import signature
from pure.unipc import UniPC
from tests.support.wan import WAN_T2V

SHAPE = (2, 3, 2, 2)


def scheduler_of(shift: float, count: int) -> Any:
    """A diffusers scheduler as Wan configures it, its time set."""
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    scheduler = cast(Any, diffusers.UniPCMultistepScheduler(**options))  # its annotations are loose
    scheduler.set_timesteps(count)
    return scheduler


def of(shift: float) -> UniPC:
    """The solver of a Wan checkpoint."""
    return UniPC(Schedule(shift=shift, spacing="whole", unit=1))


def velocity(latents: torch.Tensor, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return (0.3 * latents.float() + pure.gaussian(latents.shape, seed)).to(dtype)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 7.3, 12.0])
def test_the_schedule_is_the_schedulers(shift: float) -> None:
    solver = of(shift)
    for count in (*range(1, 61), 100, 333, 999, 1000):
        scheduler = scheduler_of(shift, count)
        assert torch.equal(solver.schedule.sigmas(count), scheduler.sigmas)
        assert [float(step.timestep) for step in solver.schedule(count)] == scheduler.timesteps.tolist()
    steps = solver.schedule(20, 16)
    assert [step.index for step in steps] == list(range(20)) and {step.count for step in steps} == {20}
    assert all(one.sigma_next is not None and one.sigma_next == two.sigma for one, two in itertools.pairwise(steps))
    assert steps[-1].sigma_next == 0


TYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),  # a narrow model: latents stay in fp32
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float64, torch.float64),
]


@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 8, 20, 50])
@hypothesis.settings(max_examples=3)
@hypothesis.given(shift=st.sampled_from((1.0, 3.0, 5.0, 12.0)), seed=st.integers(0, 99), batch=st.integers(1, 2))
def test_trajectory_is_the_schedulers(count: int, types: Any, shift: float, seed: int, batch: int) -> None:
    solver, scheduler = of(shift), scheduler_of(shift, count)
    theirs = latents = pure.gaussian((batch, *SHAPE), seed).to(types[0])
    carry = solver.init(latents)
    for step, timestep in zip(solver.schedule(count), scheduler.timesteps, strict=True):
        predicted = velocity(solver.latents(carry), seed + step.rows(1)[0].index, types[1])
        carry = solver.step(carry, predicted, step)
        theirs = scheduler.step(predicted, timestep, theirs, return_dict=False)[0]
        assert solver.latents(carry).dtype == theirs.dtype
        assert torch.equal(solver.latents(carry), theirs)


def test_the_carry_keeps_its_structure_and_is_never_changed() -> None:
    solver = of(5.0)
    carry = solver.init(pure.gaussian((2, *SHAPE), 0))
    expected = signature(carry)
    assert carry.taken.dtype == torch.int64
    for step in solver.schedule(4):
        fields = [getattr(carry, name) for name in ("latents", "corrected", "clean", "older", "sigmas", "taken")]
        copies = [tensor.clone() for tensor in fields]
        predicted = velocity(carry.latents, 1, torch.float32)
        after, again = (solver.step(carry, predicted, step) for _ in range(2))
        assert torch.equal(after.latents, again.latents) and signature(after) == expected
        assert all(torch.equal(tensor, copy) for tensor, copy in zip(fields, copies, strict=True))
        carry = after


def test_samples_of_a_batch_may_stand_at_different_steps() -> None:
    """Also where requests that began at different times were joined: each sample has a history of its own."""
    solver, starts = of(3.0), (0, 1, 3)
    steps = solver.schedule(6)
    alone = [_walked(solver, row, start) for row, start in enumerate(starts)]
    together = pure.join(*alone)
    for turn in range(6 - max(starts)):
        places = tuple(start + turn for start in starts)
        mixed = Step(
            index=places,
            count=6,
            timestep=torch.stack([steps[place].timestep for place in places]),
            sigma=_column(steps, "sigma", places),
            sigma_next=_column(steps, "sigma_next", places),
        )
        predicted = velocity(together.latents, 50 + turn, torch.float32)
        together = solver.step(together, predicted, mixed)
        for row, place in enumerate(places):
            alone[row] = solver.step(alone[row], predicted[row : row + 1], steps[place])
            for name in ("latents", "corrected", "clean", "older", "sigmas", "taken"):
                assert torch.equal(getattr(together, name)[row : row + 1], getattr(alone[row], name))


def test_samples_at_one_level_may_have_other_histories() -> None:
    """One begins where the other has been for two steps."""
    solver = of(3.0)
    step, alone = solver.schedule(6)[2], [_walked(solver, 0, 2), _walked(solver, 1, 0)]
    together, predicted = pure.join(*alone), velocity(pure.gaussian((2, *SHAPE), 7), 8, torch.float32)
    found = solver.step(together, predicted, step)
    for row, own in enumerate(alone):
        assert torch.equal(found.latents[row : row + 1], solver.step(own, predicted[row : row + 1], step).latents)


def test_a_schedule_that_begins_with_nothing_but_noise_stays_finite() -> None:
    """As the same schedule from a level just below 1, where the log of the signal is finite."""
    solver, latents = UniPC(Schedule(shift=3.0)), pure.gaussian((1, *SHAPE), 0)
    steps = solver.schedule(6)
    assert steps[0].sigma == 1
    first = attrs.evolve(steps[0], sigma=torch.tensor(1 - BACK_OFF))
    carry, other = solver.init(latents), solver.init(latents)
    for step, same in zip(steps, (first, *steps[1:]), strict=True):
        carry = solver.step(carry, velocity(carry.latents, 1, torch.float32), step)
        other = solver.step(other, velocity(other.latents, 1, torch.float32), same)
        assert carry.latents.isfinite().all() and torch.equal(carry.latents, other.latents)


def _walked(solver: UniPC, seed: int, count: int) -> Any:
    carry = solver.init(pure.gaussian((1, *SHAPE), seed))
    for step in solver.schedule(6)[:count]:
        carry = solver.step(carry, velocity(carry.latents, seed, torch.float32), step)
    return carry


def _column(steps: tuple[Step, ...], name: str, places: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([getattr(steps[place], name) for place in places])


def test_the_names_of_steps_change_nothing() -> None:
    """Experts count their own steps; the solver goes by noise levels."""
    solver = of(12.0)
    latents = pure.gaussian((1, *SHAPE), 3)
    plain = named = solver.init(latents)
    for i, step in enumerate(solver.schedule(5)):
        other = attrs.evolve(step, expert="high" if i < 2 else "low", index=i if i < 2 else i - 2, count=2 + (i > 1))
        plain, named = (
            solver.step(c, velocity(latents, i, torch.float32), s) for c, s in ((plain, step), (named, other))
        )
        assert torch.equal(plain.latents, named.latents)


def test_a_run_can_be_saved_and_resumed(tmp_path: Any) -> None:
    solver, steps = of(3.0), of(3.0).schedule(6)
    carry = _walked(solver, 1, 3)
    pure.save_state(carry, tmp_path / "carry.safetensors")
    resumed = pure.load_state(tmp_path / "carry.safetensors", like=solver.init(pure.gaussian((1, *SHAPE), 9)))
    for step in steps[3:]:
        predicted = velocity(carry.latents, 4, torch.float32)
        carry, resumed = solver.step(carry, predicted, step), solver.step(resumed, predicted, step)
        assert torch.equal(carry.latents, resumed.latents)


def test_the_loop_of_the_library_takes_it() -> None:
    case = Situation(model=WAN_T2V, transform=pure.identity, seeds=(1, 2), count=4)
    solver, scheduler = of(3.0), scheduler_of(3.0, 4)
    steps = solver.schedule(4)
    latents, conditioning = case.latents(), case.conditioning()
    run = pure.sample(case.single, case.model.params, conditioning, latents, steps, solver)
    state = case.start()
    for step, timestep in zip(steps, scheduler.timesteps, strict=True):
        prediction, state, _ = case.apply(state, latents, step)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    assert torch.equal(run.latents, latents)


def test_a_step_without_sigma_is_refused() -> None:
    solver = UniPC()
    with pytest.raises(ValueError, match="has no sigma; take steps from the solver's schedule"):
        solver.step(solver.init(torch.zeros(1, 2)), torch.zeros(1, 2), Step(index=0, count=1, timestep=torch.zeros(())))


def test_a_schedule_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="a run takes 1 to 10000 steps, got 0"):
        UniPC().schedule(0)
