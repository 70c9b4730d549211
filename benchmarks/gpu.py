"""FLUX.1-dev at its real size on a GPU, with random weights: what caching saves, against diffusers and cache-dit.

    python -m benchmarks.gpu            # prints the table
    python -m benchmarks.gpu --write    # and puts it into docs/performance.md

1024 x 1024 pixels, 512 text tokens, bf16, 28 steps. Random weights make no picture, but
the same operations; thresholds would mean nothing on them, so masks decide. Runs are
shuffled within each round, and medians are compared. No run decided by a mask may wait for
the device: a second, checked run of each would fail if it did. cache-dit computes the same steps, which is
checked, and is compiled as its command line does it. With CUDA graphs a step is replayed as it was recorded.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

import pure
from benchmarks.command import medians, need_cuda, parser, publish
from benchmarks.flux import FRONT, NEVER, STEPS, ULTRA, Bench, Contestant, bench, block_limit
from benchmarks.graphs import Graphed
from benchmarks.peer import peer, recommended
from benchmarks.table import markdown
from pure.transforms import compiled, scm, taylorseer
from pure.transforms.scm import preset_mask

SIDE, TEXT = 64, 512
PRESETS = ("slow", "medium", "fast", "ultra")


def drawn(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Return a random parameter of about the size that keeps activations in range."""
    value = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.bfloat16)
    return value / max(shape[-1], 1) ** 0.5 if len(shape) > 1 else 0.02 * value + (1 if "norm" in name else 0)


def build(device: str = "cuda", side: int = SIDE, text: int = TEXT, **config: object) -> Bench:
    """Make the model and one request from fixed seeds; both libraries share the weights."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        module = FluxTransformer2DModel(**{"guidance_embeds": True, **config}).eval()
    params = {name: drawn(name, each.shape, generator) for name, each in module.state_dict().items()}
    module.load_state_dict(params, assign=True)
    module.pos_embed.to(device)
    return bench(module, side, text)


def plans() -> dict[str, pure.Transform]:
    """Return the plans to compare, by name."""
    found: dict[str, pure.Transform] = {"plain": pure.identity, "never skip": NEVER}
    for preset in PRESETS:
        found[f"static {preset}"] = pure.compose(FRONT, scm(preset=preset, policy="static"))
    found["static ultra + TaylorSeer"] = pure.compose(found["static ultra"], taylorseer(order=1))
    return found


def contestants(made: Bench, backend: str = "inductor") -> dict[str, Any]:
    """Return the runs to compare, by name; compiled ones by a backend of `torch.compile`."""
    mask, fast = preset_mask("ultra", STEPS), compiled(backend=backend)
    theirs = {name: peer(made, mask=mask) for name in ("cache-dit, static ultra", "cache-dit, static ultra, compiled")}
    regions: Any = theirs["cache-dit, static ultra, compiled"].made.module
    regions.compile_repeated_blocks(fullgraph=True, backend=backend)
    masked = pure.compose(ULTRA, fast)
    return {
        "diffusers": made.diffusers,
        **theirs,
        **{name: made.ours(plan) for name, plan in plans().items()},
        "plain, compiled": made.ours(fast),
        "static ultra, compiled": made.ours(masked),
        "plain, compiled, CUDA graphs": Graphed(made, fast),
        "static ultra, compiled, CUDA graphs": Graphed(made, masked),
    }


def measure(runs: dict[str, Contestant], rounds: int) -> dict[str, float]:
    """Run what compiles and what skips once untimed, and check what was computed; return median seconds by name.

    Raises:
        RuntimeError: two runs of static `ultra` computed other steps.
    """
    whole = {name: lambda run=run: list(run()) for name, run in runs.items()}
    for name in (name for name in whole if "ultra" in name or "compiled" in name):
        with recommended("cache-dit" in name and "compiled" in name):
            whole[name]()
    masked = {name: run.computed for name, run in runs.items() if "ultra" in name}  # type: ignore[attr-defined]
    if len(set(masked.values())) != 1:
        raise RuntimeError(f"runs of static ultra computed other steps: {masked}")
    return medians(whole, rounds)


def limit(made: Bench, name: str) -> float:
    """Return the speed-up if blocks were all the work."""
    preset = next((word for word in PRESETS if word in name), None)
    return 1.0 if preset is None else block_limit(preset, len(made.denoiser.blocks))


@contextlib.contextmanager
def waits_forbidden() -> Iterator[None]:
    """Have torch raise an error where it waits for a GPU."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def equality(made: Bench) -> dict[str, object]:
    """Compare one prediction with diffusers', and check that masked runs never wait for the device."""
    step, theirs = made.steps[3], made.predict(made.latents, made.steps[3])
    with torch.no_grad():
        state = made.denoiser.init(made.params, made.conditioning, made.latents, STEPS)
        ours, _, _ = made.denoiser.apply(made.params, state, pure.Inputs(made.latents, step))
    run = made.ours(plans()["static ultra + TaylorSeer"])
    with waits_forbidden():
        list(run())
    return {
        "prediction": "equal bit for bit" if torch.equal(ours, theirs) else float((ours - theirs).abs().max()),
        "waits of a masked run": 0,
    }


def report(made: Bench, rounds: int, about: dict[str, str], backend: str = "inductor") -> dict:
    """Measure everything; return plain numbers."""
    checked, seconds = equality(made), measure(contestants(made, backend), rounds)
    return {
        **about,
        "rounds": rounds,
        "checked": checked,
        "seconds": seconds,
        "limit": {name: limit(made, name) for name in seconds},
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
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
    found = parser(__name__, "performance.md")
    found.add_argument("--rounds", type=int, default=3, help="how often every contestant runs (default 3)")
    options, about = found.parse_args(), need_cuda(found)
    result = report(build(), options.rounds, about)
    publish(options.write, "performance.md", "gpu", table(result), result)


if __name__ == "__main__":
    main()
