"""What caching costs and what it saves, against our own plain denoiser and against diffusers.

    python -m benchmarks.overhead            # prints the table
    python -m benchmarks.overhead --write    # and puts it into docs/performance.md

One FLUX transformer with random weights: 6 double and 12 single blocks, width 384, 256
image and 32 text tokens, fp32, two threads. In every round all contestants go through 28 steps
side by side: a step of each, in random order, then the next, so that what else the machine does
slows all of them alike. The time of a run is the sum over its steps of each step's median over
the rounds of several processes: where a process happens to put its tensors moves its times by 2 %.
Memory that is freed stays with the process, as it does in `puredit`: see `keep_memory`.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

import pure
from benchmarks.command import parser, publish
from benchmarks.flux import CONFIG, NEVER, STEPS, ULTRA, Bench, Contestant, bench, block_limit
from benchmarks.peer import peer
from benchmarks.table import markdown
from pure.cli.memory import keep_memory
from pure.transforms import dbcache, taylorseer
from pure.transforms.scm import preset_mask

SIDE, TEXT = 16, 32
MASKED = {"static ultra": ULTRA, "static ultra + TaylorSeer": pure.compose(ULTRA, taylorseer(order=1))}


def build(dtype: torch.dtype = torch.float32) -> Bench:
    """Make the model and one request from fixed seeds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: Any = FluxTransformer2DModel(**CONFIG)  # whose annotation of `to` is not what it takes
        return bench(module.eval().to(dtype), SIDE, TEXT)


def contestants(made: Bench) -> dict[str, Contestant]:
    """Return the runs to compare, by name."""
    plans = {"plain": pure.identity, "never skip": NEVER, **MASKED}
    peers = {
        "cache-dit, never skip": peer(made, threshold=1e-9),
        "cache-dit, static ultra": peer(made, mask=preset_mask("ultra", STEPS)),
    }
    return {"diffusers": made.diffusers, **peers, **{name: made.ours(plan) for name, plan in plans.items()}}


def measure(runs: dict[str, Contestant], rounds: int, seed: int) -> dict[str, list[list[float]]]:
    """Let all runs go on side by side, step by step in a new random order; return seconds by name, round and step."""
    shuffle = random.Random(seed)
    seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        going = {name: run() for name, run in runs.items()}
        laps: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(STEPS):
            for name in shuffle.sample(list(runs), len(runs)):
                start = time.perf_counter()
                next(going[name])
                laps[name].append(time.perf_counter() - start)
        for name, found in laps.items():
            seconds[name].append(found)
    return seconds


def typical(rounds: list[list[float]]) -> float:
    """Return the seconds of a run: the sum of every step's median over the rounds."""
    return sum(statistics.median(step) for step in zip(*rounds, strict=True))


def machinery(rounds: int = 300) -> dict[str, float]:
    """Microseconds a step costs on a model that does nothing, by plan; runs as a whole take turns in random order."""
    from benchmarks.nothing import nothing

    denoiser, params, conditioning, latents = nothing()
    steps = pure.FlowMatchEuler().schedule(STEPS, 1)
    plans = {
        "plain": pure.identity,
        "dbcache, measuring": dbcache(warmup=1, threshold=0.5, max_continuous=None),
        **MASKED,
    }
    runs = {name: plan(denoiser) for name, plan in plans.items()}
    found: dict[str, list[list[float]]] = {name: [] for name in runs}
    shuffle = random.Random(0)
    for _ in range(rounds):
        for name in shuffle.sample(list(runs), len(runs)):
            found[name].append(_step_costs(runs[name], params, conditioning, latents, steps))
    return {name: typical(costs) / STEPS * 1e6 for name, costs in found.items()}


def _step_costs(
    denoiser: pure.Denoiser, params: dict, conditioning: object, latents: torch.Tensor, steps: tuple
) -> list[float]:
    """Return the seconds of every step of a run."""
    bound, costs = denoiser.bind(params), []
    with torch.no_grad():
        state = denoiser.init(bound, conditioning, latents, len(steps))
        for step in steps:
            start = time.perf_counter()
            _, state, _ = denoiser.apply(bound, state, pure.Inputs(latents, step))
            costs.append(time.perf_counter() - start)
    return costs


def memory(made: Bench) -> list[tuple[str, int, int]]:
    """Bytes of state per sample: measured, and what the plan must keep."""
    width = CONFIG["num_attention_heads"] * CONFIG["attention_head_dim"]
    image, text = SIDE * SIDE * width * 4, TEXT * width * 4
    plans = [
        ("dbcache", dbcache(), image + image),
        ("dbcache, back 1", dbcache(back=1), image + text + image),
        ("dbcache + TaylorSeer order 1", pure.compose(dbcache(), taylorseer(order=1)), 2 * image + image),
        ("static ultra", ULTRA, image),
    ]
    rows = []
    for name, plan, expected in plans:
        cache = plan(made.denoiser).init(made.params, made.conditioning, made.latents, STEPS).cache
        tensors = [cache.probe, *(tensor for stream in cache.history for tensor in stream)]
        rows.append((name, sum(t.numel() * t.element_size() for t in tensors if t is not None), expected))
    return rows


def gather(processes: int, rounds: int, seed: int) -> dict[str, list[list[float]]]:
    """Measure in processes of their own, one after the other; return the rounds of all."""
    found: dict[str, list[list[float]]] = {}
    for number in range(processes):
        words = ["--alone", "--rounds", str(rounds), "--seed", str(seed + number)]
        command = [sys.executable, "-m", "benchmarks.overhead", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for name, laps in json.loads(done.stdout.splitlines()[-1]).items():  # libraries print before it
            found.setdefault(name, []).extend(laps)
    return found


def report(made: Bench, processes: int, rounds: int, seed: int) -> dict:
    """Measure everything; return plain numbers."""
    found = gather(processes, rounds, seed)
    median = {name: typical(values) for name, values in found.items()}
    return {
        "processes": processes,
        "rounds": rounds,
        "limit": block_limit("ultra", len(made.denoiser.blocks)),
        "seconds": median,
        "over_plain": {name: median["plain"] / value for name, value in median.items()},
        "over_diffusers": {name: median["diffusers"] / value for name, value in median.items()},
        "machinery_us": machinery(),
        "state_bytes": memory(made),
    }


def tables(result: dict) -> str:
    """Return the report as Markdown."""
    limit = result["limit"]
    runs = [
        (
            name,
            f"{seconds:.2f}",
            f"{1 / result['over_plain'][name]:.3f}",
            f"{1 / result['over_diffusers'][name]:.3f}",
            f"{result['over_plain'][name] / limit:.3f}" if "static" in name else "",
            f"{result['over_diffusers'][name] / limit:.3f}" if "static" in name else "",
        )
        for name, seconds in result["seconds"].items()
    ]
    head = ("run of 28 steps", "seconds", "time / plain", "time / diffusers", "of limit over plain", "over diffusers")
    return "\n\n".join(
        [
            f"Medians of {result['rounds']} shuffled rounds in each of {result['processes']} processes, step by step; "
            f"the block-count limit of static `ultra` with one front block is {limit:.2f}x.",
            markdown(head, runs),
            "Machinery per step, on a model that does nothing:",
            markdown(("plan", "microseconds"), [(n, f"{us:.0f}") for n, us in result["machinery_us"].items()]),
            "Bytes of state per sample:",
            markdown(
                ("plan", "measured", "residuals + probe"),
                [(n, f"{b:,}", f"{e:,}") for n, b, e in result["state_bytes"]],
            ),
        ]
    )


def main() -> None:
    """Run the benchmark."""
    found = parser(__name__, "performance.md")
    found.add_argument("--processes", type=int, default=4, help="how many processes measure (default 4)")
    found.add_argument("--rounds", type=int, default=3, help="how often every contestant runs in each (default 3)")
    found.add_argument("--alone", action="store_true", help="be one of these processes: print its seconds as JSON")
    found.add_argument("--seed", type=int, default=0, help="seed of the shuffling")
    options = found.parse_args()
    keep_memory(os.environ)
    torch.set_num_threads(2)
    if options.alone:
        print(json.dumps(measure(contestants(build()), options.rounds, options.seed)))
        return
    result = report(build(), options.processes, options.rounds, options.seed)
    publish(options.write, "performance.md", "overhead", tables(result), result)


if __name__ == "__main__":
    main()
