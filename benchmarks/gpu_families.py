"""Every family at a real size on a GPU, with random weights: what a skipped step costs.

    python -m benchmarks.gpu_families            # prints the table
    python -m benchmarks.gpu_families --write    # and puts it into docs/performance.md

bf16, one sample, no guidance, 28 steps; runs are shuffled within each round, medians compared.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

import pure
from benchmarks.command import medians, need_cuda, parser, publish
from benchmarks.flux import NEVER, STEPS, ULTRA, block_limit
from benchmarks.gpu import drawn
from benchmarks.published import PUBLISHED, Published
from benchmarks.table import markdown
from pure.models.common.config import parameter_shapes
from pure.transforms import taylorseer

CHOSEN = ("FLUX.1-dev", "FLUX.2-klein-4B", "Ovis-Image-7B", "Qwen-Image", "Z-Image-Turbo", "Wan2.1-T2V-1.3B")
PLANS: dict[str, pure.Transform] = {
    "plain": pure.identity,
    "never skip": NEVER,
    "ultra": ULTRA,
    "ultra + TaylorSeer": pure.compose(ULTRA, taylorseer(order=1)),
}


def chosen() -> list[Published]:
    """Return the checkpoints that fit one GPU and a few minutes."""
    return [found for found in PUBLISHED if any(name in found.name for name in CHOSEN) and "Edit" not in found.name]


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
    config = found.found.config.read(found.settings)
    denoiser = found.found.denoiser(config)
    params = {name: drawn(name, torch.Size(shape), generator) for name, shape in parameter_shapes(config).items()}
    with torch.device(device):
        conditioning, latents = filled(found.request(torch.bfloat16), generator)
    solver = pure.FlowMatchEuler(pure.Schedule(shift=3.0))
    steps = tuple(attrs.evolve(step, timestep=step.timestep.to(device)) for step in solver.schedule(STEPS, 1))

    def run(plan: pure.Transform) -> Callable[[], torch.Tensor]:
        planned = plan(denoiser)
        bound = planned.bind(params)
        return lambda: pure.sample(planned, bound, conditioning, latents, steps, solver).latents

    return {name: run(plan) for name, plan in PLANS.items()}


def measure(found: Published, device: str, rounds: int) -> dict[str, float]:
    """Return median seconds by plan."""
    made = runs(found, device)
    made["ultra"]()  # kernels are chosen in the first run
    return medians(made, rounds)


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
    words = parser(__name__, "performance.md")
    words.add_argument("--rounds", type=int, default=3, help="rounds of every checkpoint (default 3)")
    words.add_argument("--out", type=Path, help="write the numbers as JSON, after every checkpoint")
    options, about = words.parse_args(), need_cuda(words)
    result: dict = {**about, "rounds": options.rounds, "checkpoints": {}}
    for found in chosen():
        seconds = measure(found, "cuda", options.rounds)
        blocks = len(found.found.denoiser(found.settings).blocks)
        result["checkpoints"][found.short] = {"seconds": seconds, "limit": block_limit("ultra", blocks)}
        print(found.short, seconds, flush=True)
        torch.cuda.empty_cache()
        if options.out:
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    publish(options.write, "performance.md", "gpu-families", table(result), result)


if __name__ == "__main__":
    main()
