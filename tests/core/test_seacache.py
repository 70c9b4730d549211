"""SeaCache: the decisions and predictions of diffusers for Wan, and what is refused."""

from typing import Any

import pytest
import torch
from diffusers.hooks import SeaCacheConfig

import pure
from pure import Inputs
from pure.models.wan.denoiser import wan
from pure.plan import Probe
from pure.transforms import dbcache, newton, seacache
from tests.support.flux import FLUX_DEV
from tests.support.wan import call, transformer

COUNT = 10


def peer(model: Any, given: Any, steps: tuple[pure.Step, ...], config: SeaCacheConfig) -> tuple[str, torch.Tensor]:
    """Return what diffusers computes, found by the calls of the last block, and where Euler's method arrives."""
    ran: list[int] = []
    handle = model.blocks[-1].attn1.register_forward_hook(lambda *_: ran.append(1))
    model.enable_cache(config)
    latents, found = given.latents, ""
    for step in steps:
        ran.clear()
        context = {"step_index": step.index, "sigma": float(step.sigma), "num_inference_steps": len(steps)}  # type: ignore[arg-type]
        with torch.no_grad(), model.cache_context("cond", **context):
            prediction = model(
                hidden_states=latents,
                timestep=step.times(len(latents)),
                encoder_hidden_states=given.conditioning.text,
                return_dict=False,
            )[0]
        latents = latents + (step.sigma_next - step.sigma) * prediction  # type: ignore[operator]
        found += str(len(ran))
    handle.remove()
    model.disable_cache()
    return found, latents


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.5},
        {"threshold": 0.9, "max_consecutive_cached": 3, "residual_order": 0},
        {"threshold": 0.4, "retention_steps": 3, "cache_end_steps": 2, "power_exp": 2.0},
        {"threshold": 2.0, "max_consecutive_cached": 0},
    ],
    ids=str,
)
def test_decisions_and_latents_are_those_of_diffusers(options: dict) -> None:
    model, solver = transformer(), pure.FlowMatchEuler()
    given, steps = call(model, 1), solver.schedule(COUNT, tokens=16)
    expected, latents = peer(model, given, steps, SeaCacheConfig(**options))
    ours = seacache(
        threshold=options.get("threshold", 0.25),
        power=options.get("power_exp", 3.0),
        warmup=options.get("retention_steps", 1),
        ending=options.get("cache_end_steps", 1),
        max_continuous=options.get("max_consecutive_cached", 2) or None,
    )
    cached = pure.compose(ours, newton(order=options.get("residual_order", 1)))(wan(model.config))
    done = pure.sample(cached, dict(model.state_dict()), given.conditioning, given.latents, steps, solver)
    assert "".join(str(int(info.computed[0])) for info in done.infos) == expected
    torch.testing.assert_close(done.latents, latents, rtol=1e-4, atol=1e-5)


def test_what_is_refused() -> None:
    state = (FLUX_DEV.params, FLUX_DEV.conditioning((1,)), FLUX_DEV.latents((1,)), 4)
    with pytest.raises(ValueError, match=r"this model packs them into tokens; use dbcache\(...\) or easycache"):
        seacache()(FLUX_DEV.first).init(*state)
    with pytest.raises(ValueError, match=r"seacache\(\) and dbcache\(\) both set what is measured of a step"):
        pure.compose(seacache(), dbcache(front=1))(FLUX_DEV.first)
    for given in ({"threshold": -1.0}, {"power": 11.0}, {"ending": -1}, {"max_continuous": -1}, {"warmup": 0.5}):
        with pytest.raises(ValueError, match=next(iter(given))):
            seacache(**given)  # type: ignore[arg-type]


def test_steps_without_noise_levels_are_refused() -> None:
    model = transformer()
    given, cached = call(model, 1), seacache()(wan(model.config))
    state = cached.init(dict(model.state_dict()), given.conditioning, given.latents, 4)
    step = pure.Step(index=0, count=4, timestep=torch.tensor(900.0))
    with pytest.raises(ValueError, match=r"needs noise levels, and these steps have no sigma; give Step\.sigma"):
        cached.apply(dict(model.state_dict()), state, Inputs(given.latents, step))
    assert Probe().fronted
