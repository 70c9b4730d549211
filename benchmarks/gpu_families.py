"""Every family at a real size on a GPU, with random weights: what a skipped step costs.

    python -m benchmarks.gpu_families            # prints the table
    python -m benchmarks.gpu_families --write    # and puts it into docs/performance.md

bf16, one sample, no guidance, 28 steps; runs are shuffled within each round, medians compared.
"""

import argparse
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

import pure
from benchmarks.published import PUBLISHED, Published
from benchmarks.table import markdown, replace_between
from pure.transforms import dbcache, scm, taylorseer
from pure.transforms.scm import preset_mask

STEPS, ROUNDS = 28, 3
CHOSEN = ("FLUX.1-dev", "FLUX.2-klein-4B", "Ovis-Image-7B", "Qwen-Image", "Z-Image-Turbo", "Wan2.1-T2V-1.3B")
ALWAYS = dbcache(front=1, threshold=1.0, warmup=0, max_continuous=None)
ULTRA = pure.compose(ALWAYS, scm(preset="ultra", policy="static"))
PLANS: dict[str, pure.Transform] = {
    "plain": pure.identity,
    "never skip": dbcache(front=1, threshold=1e-9),
    "ultra": ULTRA,
    "ultra + TaylorSeer": pure.compose(ULTRA, taylorseer(order=1)),
}


def chosen() -> list[Published]:
    """Return the checkpoints that fit one GPU and a few minutes."""
    return [found for found in PUBLISHED if any(name in found.name for name in CHOSEN) and "Edit" not in found.name]


def drawn(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return a random parameter of about the size that keeps activations in range."""
    value = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.bfloat16)
    return value / max(shape[-1], 1) ** 0.5 if len(shape) > 1 else 1 + 0.02 * value


def filled(tree: Any, generator: torch.Generator) -> Any:
    """Replace empty tensors by random ones."""

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.randn(leaf.shape, generator=generator, device=generator.device).to(leaf.dtype)

    return pytree.tree_map(fill, tree)


def runs(found: Published, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the runs to compare, by name."""
    generator = torch.Generator(device).manual_seed(0)
    settings = found.settings
    denoiser = found.found.denoiser(settings)
    params = {name: drawn(shape, generator) for name, shape in found.found.shapes(settings).items()}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            conditioning, latents = filled(found.request(), generator)
    finally:
        torch.set_default_dtype(torch.float32)
    solver = pure.FlowMatchEuler(shift=3.0)
    steps = tuple(attrs.evolve(step, timestep=step.timestep.to(device)) for step in solver.schedule(STEPS, 1))

    def run(plan: pure.Transform) -> Callable[[], torch.Tensor]:
        planned = plan(denoiser)
        bound = planned.bind(params)
        return lambda: pure.sample(planned, bound, conditioning, latents, steps, solver).latents

    return {name: run(plan) for name, plan in PLANS.items()}


def measure(found: Published, device: str, rounds: int) -> dict[str, float]:
    """Return median seconds by plan."""
    made, shuffle = runs(found, device), random.Random(0)
    order = list(made)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    made["ultra"]()  # kernels are chosen in the first run
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            torch.cuda.synchronize()
            start = time.perf_counter()
            made[name]()
            torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def limit(found: Published) -> float:
    """Return the speed-up of `ultra` if blocks were all the work."""
    mask, blocks = preset_mask("ultra", STEPS), len(found.found.denoiser(found.settings).blocks)
    assert mask is not None
    return STEPS * blocks / (sum(mask) * blocks + (STEPS - sum(mask)))


def table(result: dict) -> str:
    """Return the report as Markdown."""
    rows = [
        (
            name,
            f"{row['seconds']['plain'] / STEPS * 1e3:.0f}",
            f"{row['seconds']['never skip'] / row['seconds']['plain']:.3f}",
            f"{row['seconds']['plain'] / row['seconds']['ultra']:.2f}x",
            f"{row['seconds']['plain'] / row['seconds']['ultra + TaylorSeer']:.2f}x",
            f"{row['limit']:.2f}x",
        )
        for name, row in result["checkpoints"].items()
    ]
    head = ("checkpoint", "ms a step", "never skip / plain", "`ultra`", "`ultra` + TaylorSeer", "block-count limit")
    words = f"{result['device']}, torch {result['torch']}, medians of {result['rounds']} shuffled rounds.\n\n"
    return words + markdown(head, rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of every checkpoint (default {ROUNDS})")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON, after every checkpoint")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA device, and torch finds none")
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rounds": options.rounds}
    result: dict = {**about, "checkpoints": {}}
    for found in chosen():
        seconds = measure(found, "cuda", options.rounds)
        name = found.name.rpartition("/")[2].removesuffix("-Diffusers")
        result["checkpoints"][name] = {"seconds": seconds, "limit": limit(found)}
        print(name, seconds, flush=True)
        torch.cuda.empty_cache()
        if options.out:
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    if options.write:
        folder = Path(__file__).resolve().parent
        (folder / "gpu_families.json").write_text(json.dumps(result, indent=2) + "\n")
        replace_between(folder.parent / "docs" / "performance.md", "gpu-families", table(result))


if __name__ == "__main__":
    main()
