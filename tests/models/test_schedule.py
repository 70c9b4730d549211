"""Schedules and solver steps against diffusers' scheduler, called as FluxPipeline calls it: the same bits."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

from pure import FlowMatchEuler, Schedule

COUNTS = [*range(1, 51), 100, 1000]
CASES = {
    "schnell": ({"shift": 1.0}, FlowMatchEuler()),
    "static": ({"shift": 3.0}, FlowMatchEuler(Schedule(shift=3.0))),
    "dev": ({"shift": 3.0, "use_dynamic_shifting": True}, FlowMatchEuler(Schedule(shift=3.0, dynamic=True))),
    "linear": (
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "max_shift": 2.0, "base_image_seq_len": 64},
        FlowMatchEuler(Schedule(dynamic=True, time_shift="linear", max_shift=2.0, base_tokens=64)),
    ),
}


SPACED = {
    "wan": ({"shift": 7.0}, FlowMatchEuler(Schedule(shift=7.0, spacing="train", unit=1)), None),
    "flow sigmas": ({"shift": 3.0}, FlowMatchEuler(Schedule(shift=3.0, spacing="train")), None),
    "dynamic": (
        {"shift": 3.0, "use_dynamic_shifting": True},
        FlowMatchEuler(Schedule(shift=3.0, dynamic=True, spacing="train")),
        None,
    ),
    "hunyuan": (
        {"shift": 7.0},
        FlowMatchEuler(Schedule(shift=7.0, spacing="open", unit=1)),
        lambda n: np.linspace(1.0, 0.0, n + 1)[:-1],
    ),
    "qwen": (
        {"use_dynamic_shifting": True, "shift_terminal": 0.02, "max_shift": 0.9, "max_image_seq_len": 8192},
        FlowMatchEuler(Schedule(dynamic=True, terminal=0.02, max_shift=0.9, max_tokens=8192)),
        lambda n: np.linspace(1.0, 1 / n, n),
    ),
}


@pytest.mark.parametrize("case", SPACED)
def test_other_spacings_are_equal_bit_for_bit(case):
    options, solver, sigmas = SPACED[case]
    scheduler: Any = FlowMatchEulerDiscreteScheduler(**options)
    for count in range(2, 51):
        mu = solver.schedule.exponent(count, 1024) if solver.schedule.dynamic else None
        if sigmas is None:
            scheduler.set_timesteps(count, mu=mu)
        else:
            scheduler.set_timesteps(sigmas=sigmas(count), mu=mu)
        assert torch.equal(solver.schedule.sigmas(count, 1024), scheduler.sigmas)
        timesteps = torch.stack([step.timestep for step in solver.schedule(count, 1024)])
        unit = solver.schedule.unit
        assert torch.equal(timesteps * unit, scheduler.timesteps / unit * unit)


def test_timesteps_are_rounded_in_units_of_training_steps():
    """As pipelines do: `t.to(dtype) / 1000`."""
    scheduler, exact = prepared(FlowMatchEulerDiscreteScheduler(), 28, 1024), torch.float32
    for dtype in (torch.bfloat16, torch.float16, exact):
        steps = FlowMatchEuler().schedule(28, 1024, dtype)
        assert torch.equal(torch.stack([step.timestep for step in steps]), scheduler.timesteps.to(dtype) / 1000)
        assert {step.sigma.dtype for step in steps if step.sigma is not None} == {exact}
        assert torch.equal(torch.stack([step.sigma for step in steps if step.sigma is not None]), scheduler.sigmas[:-1])


@pytest.mark.parametrize("tokens", [16, 1024, 4300, 4301, 16384])
def test_the_exponent_of_flux2(tokens):
    solver = FlowMatchEuler(Schedule(dynamic=True, empirical=True))
    for count in (1, 4, 28, 50, 200):
        assert solver.schedule.exponent(count, tokens) == compute_empirical_mu(tokens, count)


def prepared(scheduler: Any, count: int, tokens: int) -> Any:
    """The scheduler with its time set; its annotations are looser than what it holds."""
    config = scheduler.config
    mu = calculate_shift(
        tokens, config["base_image_seq_len"], config["max_image_seq_len"], config["base_shift"], config["max_shift"]
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count), mu=mu)
    scheduler.set_begin_index(0)
    return scheduler


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tokens", [1, 255, 1024, 16384])
def test_schedules_are_equal_bit_for_bit(case, tokens):
    options, solver = CASES[case]
    reused = FlowMatchEulerDiscreteScheduler(**options)
    for count in COUNTS:
        scheduler = prepared(reused, count, tokens)
        steps = solver.schedule(count, tokens)
        assert [step.index for step in steps] == list(range(count))
        assert torch.equal(torch.stack([step.timestep for step in steps]), scheduler.timesteps / 1000)
        assert torch.equal(torch.stack([step.sigma for step in steps]), scheduler.sigmas[:-1])
        assert torch.equal(torch.stack([step.sigma_next for step in steps]), scheduler.sigmas[1:])


@pytest.mark.parametrize("case", CASES)
def test_trajectories_are_equal_bit_for_bit(case):
    """In half precision diffusers rounds once more a step: tests/laws/test_euler.py."""
    options, solver = CASES[case]
    scheduler = prepared(FlowMatchEulerDiscreteScheduler(**options), 9, 1024)
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(2, 5, 4, generator=generator)
    carry = solver.init(theirs)
    for step, timestep in zip(solver.schedule(9, 1024), scheduler.timesteps, strict=True):
        prediction = torch.randn(2, 5, 4, generator=generator)
        carry = solver.step(carry, prediction, step)
        theirs = scheduler.step(prediction, timestep, theirs, return_dict=False)[0]
        assert torch.equal(solver.latents(carry), theirs)
