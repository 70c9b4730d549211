"""Law 16: Euler's trajectory is that of diffusers' scheduler, and every solver takes every schedule."""

import re
from typing import Any, cast

import diffusers
import hypothesis
import numpy
import pytest
import torch
from hypothesis import strategies as st

import pure
from pure import FlowMatchEuler, Schedule, Step

SOLVERS = {
    "static": (FlowMatchEuler(), {}),
    "shift-3": (FlowMatchEuler(Schedule(shift=3.0)), {"shift": 3.0}),
    "dynamic": (FlowMatchEuler(Schedule(dynamic=True)), {"use_dynamic_shifting": True}),
    "dynamic-linear": (
        FlowMatchEuler(Schedule(dynamic=True, time_shift="linear")),
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ),
    "dynamic-flux": (
        FlowMatchEuler(Schedule(dynamic=True, shift=3.0)),
        {"use_dynamic_shifting": True, "shift": 3.0, "base_image_seq_len": 256, "max_image_seq_len": 4096},
    ),
}


def scheduler_of(options: dict, count: int, tokens: int) -> Any:
    """A diffusers scheduler, its time set as the FLUX pipeline sets it."""
    scheduler = cast(Any, diffusers.FlowMatchEulerDiscreteScheduler(**options))  # its annotations are loose
    slope = (1.15 - 0.5) / (4096 - 256)
    mu = tokens * slope + (0.5 - slope * 256) if options.get("use_dynamic_shifting") else None
    scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / count, count), mu=mu)
    return scheduler


@pytest.mark.parametrize("name", SOLVERS)
@hypothesis.given(count=st.integers(1, 60), tokens=st.sampled_from((4, 16, 256, 1024, 4096)), seed=st.integers(0, 9))
def test_trajectory_is_the_schedulers(name: str, count: int, tokens: int, seed: int) -> None:
    solver, options = SOLVERS[name]
    scheduler = scheduler_of(options, count, tokens)
    steps = solver.schedule(count, tokens)
    assert torch.equal(torch.stack([step.sigma for step in steps]), scheduler.sigmas[:-1])
    assert steps[-1].sigma_next == 0 and len(steps) == count
    assert torch.allclose(torch.stack([step.timestep for step in steps]) * 1000, scheduler.timesteps, atol=1e-3)
    theirs = latents = pure.gaussian((1, 4, 3), seed)
    carry = solver.init(latents)
    for step, timestep in zip(steps, scheduler.timesteps, strict=True):
        velocity = 0.3 * solver.latents(carry) + pure.gaussian((1, 4, 3), 100 + seed)
        carry = solver.step(carry, velocity, step)
        theirs = scheduler.step(velocity, timestep, theirs, return_dict=False)[0]
        assert torch.equal(solver.latents(carry), theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_integrated_in_fp32_and_rounded_once(dtype: torch.dtype) -> None:
    """Of the same latents diffusers, which rounds the product too, makes the same but for one rounding."""
    solver, scheduler = FlowMatchEuler(), scheduler_of({}, 28, 16)
    latents = pure.gaussian((1, 64, 16), 0).to(dtype)
    for step, timestep in zip(solver.schedule(28, 16), scheduler.timesteps, strict=True):
        velocity = pure.gaussian((1, 64, 16), step.rows(1)[0].index).to(dtype)
        ours = solver.step(latents, velocity, step)
        theirs = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        assert step.sigma is not None and step.sigma_next is not None
        exact = latents.double() + (step.sigma_next - step.sigma).double() * velocity.double()
        assert ours.dtype == theirs.dtype == dtype
        eps = torch.finfo(dtype).eps
        # Half a unit in the last place, and what the sum in fp32 can add to it.
        assert bool(((ours.double() - exact).abs() <= exact.abs() * (eps / 2 + 1e-6) + 1e-7).all())
        assert bool(((ours.double() - theirs.double()).abs() <= eps * (exact.abs() + velocity.double().abs())).all())
        latents = ours


def test_double_precision_is_integrated_in_double_precision() -> None:
    latents, velocity = (pure.gaussian((1, 8), seed, dtype=torch.float64) for seed in (0, 1))
    step = FlowMatchEuler().schedule(3, 16)[1]
    assert step.sigma is not None and step.sigma_next is not None
    exact = latents + (step.sigma_next - step.sigma).double() * velocity
    assert torch.equal(FlowMatchEuler().step(latents, velocity, step), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_samples_of_a_batch_may_stand_at_different_steps(dtype: torch.dtype) -> None:
    solver = FlowMatchEuler(Schedule(shift=3.0))
    steps, latents = solver.schedule(5, 16), pure.gaussian((3, 64, 16), [1, 2, 3]).to(dtype)
    velocity, places = pure.gaussian((3, 64, 16), [4, 5, 6]).to(dtype), (0, 2, 4)

    def column(name: str) -> torch.Tensor:
        return torch.stack([getattr(steps[i], name) for i in places])

    mixed = Step(
        index=places,
        count=5,
        timestep=column("timestep"),
        sigma=column("sigma"),
        sigma_next=column("sigma_next"),
    )
    together = solver.step(latents, velocity, mixed)
    for row, place in enumerate(places):
        alone = solver.step(latents[row : row + 1], velocity[row : row + 1], steps[place])
        assert torch.equal(together[row : row + 1], alone)


def test_a_step_without_sigma_is_refused() -> None:
    with pytest.raises(ValueError, match="has no sigma; take steps from the solver's schedule"):
        FlowMatchEuler().step(torch.zeros(1, 2), torch.zeros(1, 2), Step(index=0, count=1, timestep=torch.zeros(())))


def test_a_schedule_of_no_steps_is_refused() -> None:
    for count in (0, -1, 10**9, True, 2.5):
        with pytest.raises(ValueError, match=re.escape(f"a run takes 1 to 10000 steps, got {count!r}")):
            FlowMatchEuler().schedule(cast(Any, count), 16)


def test_a_shift_beyond_all_numbers_is_refused() -> None:
    solver = FlowMatchEuler(Schedule(dynamic=True))
    with pytest.raises(ValueError, match="39062500 tokens are too many: their shift is no finite number"):
        solver.schedule(4, (100_000 // 16) ** 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spacing": "even"}, r"Schedule\(spacing='even'\): choose one of \['count', 'open', 'train', 'whole'\]"),
        ({"time_shift": "cubic"}, r"Schedule\(time_shift='cubic'\): choose one of"),
        ({"shift": 0.0}, r"Schedule\(shift=0.0\): the shift must be a finite number above 0"),
        ({"shift": float("nan")}, r"Schedule\(shift=nan\): the shift must be a finite number above 0"),
        ({"shift": "x"}, r"Schedule\(shift='x'\): the shift must be a finite number above 0"),
        ({"shift": 10**400}, r"Schedule\(shift=a whole number of 1329 bits\): .* above 0 and at most 1e\+30"),
        ({"unit": -1}, r"Schedule\(unit=-1\): the unit of timesteps must be a whole number of at least 1"),
        ({"unit": 1.5}, r"Schedule\(unit=1.5\): the unit of timesteps must be a whole number"),
        ({"dynamic": "yes"}, r"Schedule\(dynamic='yes'\): choose True or False"),
        ({"base_tokens": 4096}, r"Schedule\(max_tokens=4096\): base_tokens and max_tokens must differ"),
        ({"terminal": 1.0}, r"Schedule\(terminal=1.0\): a noise level of at least 0 and below 1"),
    ],
)
def test_a_schedule_refuses_values_out_of_range(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**values)


@pytest.mark.parametrize("solver", [FlowMatchEuler, pure.UniPC])
@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule(shift=3.0, spacing="open", unit=1),
        Schedule(shift=7.0, spacing="train", unit=1),
        Schedule(shift=5.0, spacing="whole", unit=1),
        Schedule(dynamic=True, terminal=0.02),
        Schedule(dynamic=True, empirical=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_every_solver_takes_every_schedule(solver: Any, schedule: Schedule, count: int) -> None:
    """On a straight path from clean to noise every method is exact, at whatever levels it stops."""
    made = solver(schedule)
    clean, noise = pure.gaussian((1, 4, 3), 0), pure.gaussian((1, 4, 3), 1)
    carry = made.init(noise)
    for step in made.schedule(count, 1024):
        carry = made.step(carry, noise - clean, step)
    assert torch.allclose(made.latents(carry), clean, atol=1e-4)
