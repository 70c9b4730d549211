"""Schedules and solver steps against diffusers' scheduler, called as FluxPipeline calls it: the same bits."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from pure import FlowMatchEuler

COUNTS = [*range(1, 51), 100, 1000]
CASES = {
    "schnell": ({"shift": 1.0}, FlowMatchEuler()),
    "static": ({"shift": 3.0}, FlowMatchEuler(shift=3.0)),
    "dev": ({"shift": 3.0, "use_dynamic_shifting": True}, FlowMatchEuler(shift=3.0, dynamic=True)),
    "linear": (
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "max_shift": 2.0, "base_image_seq_len": 64},
        FlowMatchEuler(dynamic=True, time_shift="linear", max_shift=2.0, base_tokens=64),
    ),
}


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trajectories_are_equal_bit_for_bit(case, dtype):
    options, solver = CASES[case]
    scheduler = prepared(FlowMatchEulerDiscreteScheduler(**options), 9, 1024)
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(2, 5, 4, generator=generator).to(dtype)
    carry = solver.init(theirs)
    for step, timestep in zip(solver.schedule(9, 1024), scheduler.timesteps, strict=True):
        prediction = torch.randn(2, 5, 4, generator=generator).to(dtype)
        carry = solver.step(carry, prediction, step)
        theirs = scheduler.step(prediction, timestep, theirs, return_dict=False)[0]
        assert torch.equal(solver.latents(carry), theirs)
