"""FLUX.1-dev at its real size on a GPU, with random weights: what caching saves, against diffusers.

    python -m benchmarks.gpu            # prints the table
    python -m benchmarks.gpu --write    # and puts it into docs/performance.md

1024 x 1024 pixels, 512 text tokens, bf16, 28 steps. Random weights make no picture, but
the same operations; thresholds would mean nothing on them, so masks decide. Runs are
shuffled within each round, and medians are compared. No run decided by a mask may wait for
the device: a second, checked run of each would fail if it did.
"""

import argparse
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import attrs
import torch
from diffusers import FluxTransformer2DModel

import pure
from benchmarks.table import markdown, replace_between
from pure.models.common.image import positions
from pure.models.flux.config import parameter_shapes
from pure.models.flux.denoiser import Conditioning, flux
from pure.transforms import compiled, dbcache, scm, taylorseer
from pure.transforms.scm import preset_mask

STEPS, SIDE, TEXT = 28, 64, 512
CONFIG = {"guidance_embeds": True}
ALWAYS = dbcache(front=1, threshold=1.0, warmup=0, max_continuous=None)
NEVER = dbcache(front=1, threshold=1e-9)


@attrs.frozen(eq=False)
class Bench:
    """The model, as ours and as diffusers', and one request."""

    denoiser: pure.Denoiser
    params: dict[str, torch.Tensor]
    module: FluxTransformer2DModel
    conditioning: Conditioning
    latents: torch.Tensor
    steps: tuple[pure.Step, ...]
    solver: pure.FlowMatchEuler

    def ours(self, transform: pure.Transform) -> Callable[[], torch.Tensor]:
        """Return a run of the transformed denoiser."""
        denoiser = transform(self.denoiser)
        bound = denoiser.bind(self.params)
        return lambda: pure.sample(denoiser, bound, self.conditioning, self.latents, self.steps, self.solver).latents

    def diffusers(self) -> torch.Tensor:
        """Run diffusers' transformer over the same trajectory."""
        ids, latents, c = self.conditioning.ids.value, self.latents, self.conditioning
        with torch.no_grad():
            for step in self.steps:
                prediction = self.module(
                    hidden_states=latents,
                    timestep=step.times(1),
                    guidance=c.guidance,
                    pooled_projections=c.pooled,
                    encoder_hidden_states=c.text,
                    txt_ids=ids[:TEXT],
                    img_ids=ids[TEXT:],
                    return_dict=False,
                )[0]
                latents = self.solver.step(latents, prediction, step)
        return latents


def build(device: str = "cuda", config: dict | None = None, side: int = SIDE) -> Bench:
    """Make the model and one request from fixed seeds; both libraries share the weights."""
    config = {**CONFIG, **(config or {})}
    generator = torch.Generator(device).manual_seed(0)
    params = {}
    for name, shape in parameter_shapes(config).items():
        drawn = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        params[name] = drawn / shape[-1] ** 0.5 if len(shape) > 1 else drawn * 0.02 + (1 if "norm" in name else 0)
    with torch.device("meta"):
        module = FluxTransformer2DModel(**config).eval()
    module.load_state_dict(params, assign=True)
    module.pos_embed.to(device)
    settings = module.config
    draw = {"generator": generator, "device": device, "dtype": torch.bfloat16}
    solver = pure.FlowMatchEuler(dynamic=True)
    steps = tuple(
        attrs.evolve(step, timestep=step.timestep.to(device))
        for step in solver.schedule(STEPS, side * side, torch.bfloat16)
    )
    return Bench(
        denoiser=flux(config),
        params=params,
        module=module,
        conditioning=Conditioning(
            text=torch.randn(1, TEXT, settings["joint_attention_dim"], **draw),
            pooled=torch.randn(1, settings["pooled_projection_dim"], **draw),
            guidance=torch.full((1,), 3.5, device=device),
            ids=pure.Shared(value=positions(TEXT, side, side).to(device)),
        ),
        latents=torch.randn(1, side * side, settings["in_channels"], **draw),
        steps=steps,
        solver=solver,
    )


def contestants(bench: Bench) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the runs to compare, by name."""
    plans: dict[str, pure.Transform] = {"plain": pure.identity, "never skip": NEVER}
    for preset in ("slow", "medium", "fast", "ultra"):
        plans[f"static {preset}"] = pure.compose(ALWAYS, scm(preset=preset, policy="static"))
    plans["static ultra + TaylorSeer"] = pure.compose(plans["static ultra"], taylorseer(order=1))
    plans["plain, compiled"] = compiled()
    plans["static ultra, compiled"] = pure.compose(plans["static ultra"], compiled())
    return {"diffusers": bench.diffusers} | {name: bench.ours(plan) for name, plan in plans.items()}


def timed(run: Callable[[], torch.Tensor]) -> float:
    """Return the seconds of one run, the device's work included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(runs: dict[str, Callable[[], torch.Tensor]], rounds: int) -> dict[str, list[float]]:
    """Run everything once untimed, then once a round in a new random order; return seconds by name."""
    for run in runs.values():
        run()
    order, shuffle = list(runs), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            seconds[name].append(timed(runs[name]))
    return seconds


def limit(bench: Bench, name: str) -> float:
    """Return the speed-up if blocks were all the work."""
    preset = next((word for word in name.replace(",", "").split() if word in ("slow", "medium", "fast", "ultra")), None)
    if preset is None:
        return 1.0
    mask, blocks = preset_mask(preset, STEPS), len(bench.denoiser.blocks)
    assert mask is not None
    return STEPS * blocks / (sum(mask) * blocks + (STEPS - sum(mask)))


def equality(bench: Bench) -> dict[str, object]:
    """Compare one prediction with diffusers', and check that masked runs never wait for the device."""
    step = bench.steps[3]
    with torch.no_grad():
        theirs = bench.module(
            hidden_states=bench.latents,
            timestep=step.times(1),
            guidance=bench.conditioning.guidance,
            pooled_projections=bench.conditioning.pooled,
            encoder_hidden_states=bench.conditioning.text,
            txt_ids=bench.conditioning.ids.value[:TEXT],
            img_ids=bench.conditioning.ids.value[TEXT:],
            return_dict=False,
        )[0]
        state = bench.denoiser.init(bench.params, bench.conditioning, bench.latents, STEPS)
        ours, _, _ = bench.denoiser.apply(bench.params, state, pure.Inputs(bench.latents, step))
    run = bench.ours(pure.compose(ALWAYS, scm(preset="ultra", policy="static"), taylorseer(order=1)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {
        "prediction": "equal bit for bit" if torch.equal(ours, theirs) else float((ours - theirs).abs().max()),
        "waits of a masked run": 0,
    }


def report(bench: Bench, rounds: int) -> dict:
    """Measure everything; return plain numbers."""
    checked = equality(bench)
    seconds = {name: statistics.median(values) for name, values in measure(contestants(bench), rounds).items()}
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "rounds": rounds,
        "checked": checked,
        "seconds": seconds,
        "limit": {name: limit(bench, name) for name in seconds},
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def table(result: dict) -> str:
    """Return the report as Markdown."""
    base = result["seconds"]
    rows = [
        (
            name,
            f"{seconds:.2f}",
            f"{base['diffusers'] / seconds:.2f}x",
            f"{base['plain'] / seconds:.2f}x",
            f"{result['limit'][name]:.2f}x" if result["limit"][name] != 1 else "",
        )
        for name, seconds in base.items()
    ]
    head = ("run of 28 steps", "seconds", "over diffusers", "over plain", "block-count limit")
    checked = ", ".join(f"{name}: {value}" for name, value in result["checked"].items())
    return (
        f"{result['device']}, torch {result['torch']}, medians of {result['rounds']} shuffled rounds, "
        f"{result['peak_gib']:.0f} GiB at most; against diffusers, {checked}.\n\n" + markdown(head, rows)
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often every contestant runs (default 5)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA device, and torch finds none; see benchmarks.overhead for the CPU")
    result = report(build(), options.rounds)
    print(table(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.write:
        folder = Path(__file__).resolve().parent
        (folder / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")
        replace_between(folder.parent / "docs" / "performance.md", "gpu", table(result))


if __name__ == "__main__":
    main()
