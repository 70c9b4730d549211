"""Two ranks of one thread each against one, on a CPU, and what stands between that and twice the speed.

    python -m benchmarks.scaling            # prints the tables, in ten minutes on two idle cores
    python -m benchmarks.scaling --write    # and puts them into docs/scaling.md

One FLUX transformer with random weights: 3 double and 6 single blocks, width 384, 1024 image and 64 text tokens, fp32.
The ranks are processes that talk over gloo. In every round all contestants take a step each, in random order. The time
of a step is that of the slower rank. One rank alone runs while the other waits; *both* is the same step whole in both
processes at once, which send nothing: what the machine loses by computing twice at a time. Twice its speed is
the limit.
"""

import functools
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.distributed as dist
from diffusers import FluxTransformer2DModel
from torch.profiler import ProfilerActivity, profile

import pure
from benchmarks.command import parser, publish
from benchmarks.flux import CONFIG as FLUX
from benchmarks.flux import STEPS, ULTRA, Bench, bench
from benchmarks.table import markdown
from benchmarks.traced import fake_ranks, traced
from pure.cli.memory import keep_memory
from pure.distributed import Sizes, context_parallel, guidance_parallel, make_mesh, run, tensor_parallel
from pure.guidance import Branches
from pure.transforms import guided
from pure.transforms.scm import preset_mask

CONFIG = {**FLUX, "num_layers": 3, "num_single_layers": 6}
SIDE, TEXT = 32, 64
PLANS = {"": pure.identity, "ultra": ULTRA}
PROFILED = 4  # steps
KINDS = {
    "products": ("aten::addmm", "aten::mm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "sending and waiting": ("_c10d_functional::", "c10d::", "gloo"),
}


@attrs.frozen
class Mode:
    """A way to divide a step between two ranks.

    Attributes:
        name: as the table has it.
        sizes: of the mesh.
        options: of `context_parallel`.
        request: "even", "uneven" with a text token less, or "guided" with two branches.
    """

    name: str
    sizes: Sizes
    options: dict[str, Any] = attrs.field(factory=dict)
    request: str = "even"


MODES = (
    Mode("ulysses", Sizes(ulysses=2)),
    Mode("ulysses, async", Sizes(ulysses=2), {"overlap": True}),
    Mode("ulysses, float8", Sizes(ulysses=2), {"float8": True}),
    Mode("ulysses, uneven", Sizes(ulysses=2), {}, "uneven"),
    Mode("ring", Sizes(ring=2)),
    Mode("ring, allgather", Sizes(ring=2), {"rotate": "allgather"}),
    Mode("tensor parallel", Sizes(tp=2)),
    Mode("guidance parallel", Sizes(cfg=2), {}, "guided"),
)
REQUESTS = ("even", "uneven", "guided")
Step = Callable[[], None]
Key = tuple[str, str]  # a contestant's name and its plan's


def build() -> dict[str, Bench]:
    """Make the model, and the three requests, from fixed seeds."""
    torch.manual_seed(0)
    module = FluxTransformer2DModel(**CONFIG).eval()
    even, uneven = bench(module, SIDE, TEXT), bench(module, SIDE, TEXT - 1)
    other = bench(module, SIDE, TEXT, seed=2).conditioning
    branches: Any = Branches(conditional=even.conditioning, unconditional=other)
    return {"even": even, "uneven": uneven, "guided": attrs.evolve(even, conditioning=branches)}


def stepping(made: Bench, transform: pure.Transform, params: Any = None) -> Callable[[int], Step]:
    """Return a function from a step's number to the step; each starts from the state that the one before left."""
    params = made.params if params is None else params
    denoiser = transform(made.denoiser)
    bound = denoiser.bind(params)
    start = denoiser.init(bound, made.conditioning, made.latents, made.steps)
    last = [start]

    def step(number: int) -> None:
        if number == 0:
            last[0] = start
        last[0] = denoiser.apply(bound, last[0], pure.Inputs(made.latents, made.steps[number]))[1]

    return lambda number: functools.partial(step, number)


def contestants(benches: dict[str, Bench]) -> dict[Key, Callable[[int], Step]]:
    """Return the steps of every mode, and of one rank with the same request, with and without a cache."""
    guide = {"even": pure.identity, "uneven": pure.identity, "guided": guided(scale=3.5)}
    meshes = {mode.sizes: make_mesh(mode.sizes) for mode in MODES}
    found: dict[Key, Callable[[int], Step]] = {}
    for plan, cache in PLANS.items():
        for request in REQUESTS:
            found[f"alone, {request}", plan] = stepping(benches[request], pure.compose(cache, guide[request]))
        found["both", plan] = stepping(benches["even"], cache)
        for mode in MODES:
            made, mesh = benches[mode.request], meshes[mode.sizes]
            split = tensor_parallel(made.params, made.denoiser, mesh)
            divided = (context_parallel(mesh, **mode.options), guidance_parallel(mesh))
            found[mode.name, plan] = stepping(made, pure.compose(cache, guide[mode.request], *divided), split)
    return found


def measure(benches: dict[str, Bench], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Be one of two ranks; return the seconds of a run of 28 steps by plan, contestant and clock.

    The clocks are "seconds", and "cpu": the time for which this machine computed for the rank, sending included.
    Of the plan without a cache `rounds` steps are taken, all of which are alike; of the other all 28.
    """
    steps, taken = contestants(benches), defaultdict[tuple[Key, int], list[torch.Tensor]](list)
    shuffle = random.Random(0)
    with torch.no_grad():
        for number in range(STEPS):
            for key in shuffle.sample(list(steps), len(steps)):
                if key[1] or number <= rounds:
                    taken[key, number].append(_timed(steps[key](number), alone=key[0].startswith("alone")))
    mask = preset_mask("ultra", STEPS)
    assert mask is not None
    found: dict[str, dict[str, dict[str, float]]] = {plan: {} for plan in PLANS}
    for name, plan in steps:
        laps = [taken[(name, plan), number] for number in range(STEPS)]
        if plan:
            alike = [[n for n, bit in enumerate(mask) if bool(bit) is which] for which in (True, False)]
        else:
            alike = [list(range(STEPS))]
            laps[0] = []  # the first step of a process is slower
        parts = [len(part) * _median([lap for n in part for lap in laps[n]]) for part in alike]
        found[plan][name] = dict(zip(("seconds", "cpu"), torch.stack(parts).sum(0).tolist(), strict=True))
    return found


def _median(laps: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(laps).quantile(0.5, dim=0)


def _timed(step: Step, alone: bool) -> torch.Tensor:
    """Return the seconds of a step by both clocks, on the slower rank; `alone` on the first only."""
    dist.barrier()
    begin = time.perf_counter(), time.process_time()
    if not alone or dist.get_rank() == 0:
        step()
    taken = torch.tensor([time.perf_counter() - begin[0], time.process_time() - begin[1]], dtype=torch.float64)
    dist.all_reduce(taken, dist.ReduceOp.MAX)
    return taken


def kinds(benches: dict[str, Bench]) -> dict[str, dict[str, float]]:
    """Be one of two ranks; return the milliseconds of a step without a cache by contestant and kind of operation."""
    found: dict[str, dict[str, float]] = {}
    for (name, plan), step in contestants(benches).items():
        if plan or name.startswith("alone"):
            continue
        with torch.no_grad():
            step(0)()
            dist.barrier()
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                for number in range(1, 1 + PROFILED):
                    step(number)()
        by = dict.fromkeys((*KINDS, "the rest"), 0.0)
        for event in profiled.key_averages():
            kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "the rest")
            by[kind] += event.self_cpu_time_total / 1e3 / PROFILED
        found[name] = by
    return found


def counted(axis: str, ranks: int) -> dict[str, Any]:
    """Return the work of the first of `ranks` along an axis in a step of one sample."""
    made = bench(FluxTransformer2DModel(**CONFIG), SIDE, TEXT)
    shapes = {name: tuple(tensor.shape) for name, tensor in made.params.items()}
    with fake_ranks(Sizes(**{axis: ranks})) as mesh:
        divided = context_parallel(mesh)
        request = made.conditioning, made.latents
        trace = traced(made.denoiser, shapes, lambda: request, mesh, divided, torch.float32)
    return {"flops": trace.flops, "collectives": trace.collectives.total(), "bytes": trace.bytes}


def _both(benches: dict[str, Bench], rounds: int) -> tuple[dict, dict]:
    return measure(benches, rounds), kinds(benches)


def report(rounds: int) -> dict[str, Any]:
    """Measure and count everything; return plain numbers."""
    work = {f"{axis} {ranks}": counted(axis, ranks) for axis in ("ulysses", "ring", "tp") for ranks in (1, 2, 4, 8)}
    seconds, by_kind = run(_both, 2, build(), rounds, start="fork")
    return {"rounds": rounds, "seconds": seconds, "kinds": by_kind, "counted": work}


def tables(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [("*both*: twice the speed of one", *_gains(result, "both", "alone, even", 2))]
    lines += [(mode.name, *_gains(result, mode.name, f"alone, {mode.request}", 1)) for mode in MODES]
    head = ("2 ranks over one", "time", "of *both*", "CPU time", "`ultra`: time", "of *both*", "CPU time")
    names = (*KINDS, "the rest")
    work = [
        (name, *(f"{by[kind]:.0f}" for kind in names), f"{sum(by.values()):.0f}")
        for name, by in result["kinds"].items()
    ]
    one = result["counted"]["ulysses 1"]["flops"]
    counts = [
        (way, f"{row['flops'] / 1e9:.1f}", f"{one / row['flops']:.2f}", row["collectives"], f"{row['bytes'] / 1e6:.1f}")
        for way, row in result["counted"].items()
    ]
    return "\n\n".join(
        [
            f"Medians of {result['rounds']} steps, and of the steps of one run with `ultra`.",
            markdown(head, lines),
            "Milliseconds of a step of the first rank, by kind of operation; of *both* half would be its share:",
            markdown(("", *names, "all"), work),
            "Counted work of the first rank in a step:",
            markdown(("ranks", "GFLOP", "one rank's over it", "collectives", "MB sent"), counts),
        ]
    )


def _gains(result: dict[str, Any], name: str, alone: str, times: int) -> list[str]:
    """Return how many times faster a contestant is than one rank, with and without a cache."""
    found = []
    for plan in PLANS:
        of = result["seconds"][plan]
        gains = [times * of[alone][clock] / of[name][clock] for clock in ("seconds", "cpu")]
        most = 2 * of["alone, even"]["seconds"] / of["both"]["seconds"]
        found += [f"{gains[0]:.2f}x", f"{gains[0] / most:.0%}", f"{gains[1]:.2f}x"]
    return found


def main() -> None:
    """Run the benchmark."""
    found = parser(__name__, "scaling.md")
    found.add_argument("--rounds", type=int, default=12, help="steps without a cache of every contestant (default 12)")
    options = found.parse_args()
    keep_memory(os.environ)
    torch.set_num_threads(1)
    result = report(options.rounds)
    publish(options.write, "scaling.md", "scaling", tables(result), result)


if __name__ == "__main__":
    main()
