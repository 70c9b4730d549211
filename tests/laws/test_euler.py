"""Law 16: a solver's trajectory is that of the diffusers scheduler it stands for."""

from typing import Any, cast

import diffusers
import hypothesis
import numpy
import pytest
import torch
from hypothesis import strategies as st

import pure
from pure import FlowMatchEuler, Step

SOLVERS = {
    "static": (FlowMatchEuler(), {}),
    "shift-3": (FlowMatchEuler(shift=3.0), {"shift": 3.0}),
    "dynamic": (FlowMatchEuler(dynamic=True), {"use_dynamic_shifting": True}),
    "dynamic-linear": (
        FlowMatchEuler(dynamic=True, time_shift="linear"),
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ),
    "dynamic-flux": (
        FlowMatchEuler(dynamic=True, shift=3.0),
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


def test_bfloat16_predictions_are_integrated_in_fp32() -> None:
    solver, scheduler = FlowMatchEuler(), scheduler_of({}, 4, 16)
    ours = theirs = pure.gaussian((1, 4, 3), 0, dtype=torch.bfloat16)
    for step, timestep in zip(solver.schedule(4, 16), scheduler.timesteps, strict=True):
        ours = solver.step(ours, ours, step)
        theirs = scheduler.step(theirs, timestep, theirs, return_dict=False)[0]
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_samples_of_a_batch_may_stand_at_different_steps() -> None:
    solver = FlowMatchEuler(shift=3.0)
    steps, latents = solver.schedule(5, 16), pure.gaussian((3, 4, 2), [1, 2, 3])
    velocity, places = pure.gaussian((3, 4, 2), [4, 5, 6]), (0, 2, 4)

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
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        FlowMatchEuler().schedule(0, 16)
