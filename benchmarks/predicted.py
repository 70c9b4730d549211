"""The efficiency that counted work predicts for many GPUs, of a step of published checkpoints.

    python -m benchmarks.predicted            # prints the tables, in half a minute; needs no GPU
    python -m benchmarks.predicted --write    # and puts them into docs/scaling.md

A step of the first rank is traced (`benchmarks.traced`) and played back on a machine with published speeds: products
and attentions one after the other, messages beside them, each after the one before it, until the program waits for one.
"""

import functools
from typing import Any

import attrs
import torch

from benchmarks.command import parser, publish
from benchmarks.published import PUBLISHED, Published
from benchmarks.table import markdown
from benchmarks.traced import HOST, Event, Message, Product, Trace, fake_ranks, traced
from pure.distributed import Sizes, context_parallel
from pure.models.common.config import parameter_shapes


@attrs.frozen(kw_only=True)
class Machine:
    """A GPU and its links; speeds are in units a second.

    Attributes:
        peak: floating-point operations, bf16, dense.
        used: part of `peak` that products and attentions reach, with all that is between them.
        memory: bytes from its memory.
        inside: bytes to other GPUs of the host, in one direction.
        across: bytes to other hosts, in one direction, for each GPU.
        filled: part of `memory`, `inside` and `across` that is reached.
        begin: seconds that a message takes to begin within a host, and `begin_across` with other hosts in it;
            both for every doubling of the ranks that exchange something.
        begin_across: see `begin`.
    """

    peak: float = 989e12
    used: float = 0.55
    memory: float = 3.35e12
    inside: float = 450e9
    across: float = 50e9
    filled: float = 0.8
    begin: float = 5e-6
    begin_across: float = 10e-6


H100 = Machine()


@attrs.frozen
class Cost:
    """Seconds of a step of one rank, computed in full.

    Attributes:
        seconds: all.
        waiting: of these, those in which nothing is computed.
        outside: of embedding and head, with what is sent there.
        block: of the first block, which a cached step computes too.
    """

    seconds: float
    waiting: float
    outside: float
    block: float


def cost(trace: Trace, machine: Machine = H100) -> Cost:
    """Play a traced step back."""
    played = [(count, *_play(events, machine)) for count, events in trace.parts]
    return Cost(
        seconds=sum(count * seconds for count, seconds, _ in played),
        waiting=sum(count * waiting for count, _, waiting in played),
        outside=played[0][1],
        block=played[1][1],
    )


def _play(events: tuple[Event, ...], machine: Machine) -> tuple[float, float]:
    """Return the seconds of events, and how many of these are spent waiting."""
    now = free = waiting = 0.0
    arrivals: dict[int, float] = {}
    for number, event in enumerate(events):
        if isinstance(event, Product):
            compute, read = event.flops / (machine.peak * machine.used), event.bytes / (machine.memory * machine.filled)
            now += max(compute, read)
        elif isinstance(event, Message):
            free = arrivals[number] = max(now, free) + _sending(event, machine)
        elif arrivals[event.message] > now:
            waiting += arrivals[event.message] - now
            now = arrivals[event.message]
    return now, waiting


def _sending(message: Message, machine: Machine) -> float:
    speed, begin = (machine.across, machine.begin_across) if message.across else (machine.inside, machine.begin)
    return begin * max(message.ranks - 1, 0).bit_length() + message.bytes / (speed * machine.filled)


@attrs.frozen
class Way:
    """How a step is divided.

    Attributes:
        name: as the table has it.
        sizes: of the mesh of those that work on the same sample.
        options: of `context_parallel`.
    """

    name: str
    sizes: Sizes
    options: dict[str, Any] = attrs.field(factory=dict)


EIGHT = (
    Way("ulysses 8", Sizes(ulysses=8)),
    Way("ulysses 8, async", Sizes(ulysses=8), {"overlap": True}),
    Way("ulysses 8, float8", Sizes(ulysses=8), {"float8": True}),
    Way("ring 8", Sizes(ring=8)),
    Way("ring 8, allgather", Sizes(ring=8), {"rotate": "allgather"}),
    Way("tp 8", Sizes(tp=8)),
)
MANY = (
    Way("ring 8 x ulysses 8", Sizes(ring=8, ulysses=8)),
    Way("ring 8 x ulysses 8, float8", Sizes(ring=8, ulysses=8), {"float8": True}),
    Way("ulysses 8 x tp 8", Sizes(ulysses=8, tp=8)),
    Way("ring 8 x tp 8", Sizes(ring=8, tp=8)),
)
MOST = (
    Way("ring 128 x ulysses 8", Sizes(ring=128, ulysses=8)),
    Way("ring 16 x ulysses 8 x tp 8", Sizes(ring=16, ulysses=8, tp=8)),
)
APART = (Way("dp 8 x ulysses 8", Sizes(dp=8, ulysses=8)), Way("dp 128 x ulysses 8", Sizes(dp=128, ulysses=8)))
GUIDED = (
    Way("cfg 2 x ulysses 4", Sizes(cfg=2, ulysses=4)),
    Way("cfg 2 x ring 4 x ulysses 8", Sizes(cfg=2, ring=4, ulysses=8)),
    Way("dp 8 x cfg 2 x ulysses 4", Sizes(dp=8, cfg=2, ulysses=4)),
    Way("dp 128 x cfg 2 x ulysses 4", Sizes(dp=128, cfg=2, ulysses=4)),
    Way("dp 16 x cfg 2 x ring 4 x ulysses 8", Sizes(dp=16, cfg=2, ring=4, ulysses=8)),
    Way("cfg 2 x ring 64 x ulysses 8", Sizes(cfg=2, ring=64, ulysses=8)),
)
FLUX = next(each for each in PUBLISHED if each.short == "FLUX.1-dev")
WAN = next(each for each in PUBLISHED if each.short == "Wan2.2-T2V-A14B")
REQUESTS = {
    "FLUX.1-dev, 1024 x 1024": FLUX,
    "FLUX.1-dev, 2048 x 2048": attrs.evolve(FLUX, size=(1, 2048, 2048)),
    "Wan2.2-T2V-A14B, 1280 x 720, 81 frames": WAN,
}
RUN, COMPUTED = 28, 8
"""Steps of a run with the static mask `ultra`, and how many of these are computed."""


def step(request: Published, way: Way) -> Trace:
    """Return the trace of a step of one row: of one branch, where the model is guided."""
    config = request.found.config.read(request.settings)
    made = functools.partial(request.request, torch.bfloat16)
    with fake_ranks(way.sizes) as mesh:
        divided = context_parallel(mesh, **way.options)
        return traced(request.found.denoiser(config), parameter_shapes(config), made, mesh, divided)


def predict(request: Published, way: Way, alone: Cost) -> dict[str, Any]:
    """Return what is predicted of a way: plain numbers.

    Args:
        request: of one sample.
        way: how its step is divided.
        alone: what one rank takes for one row. A guided step has two, which one rank, and ranks without an axis `cfg`,
            take as twice the time of one.
    """
    trace = step(request, way)
    found, count, each = cost(trace), way.sizes.total, way.sizes.each
    rows = 2 if request is WAN else 1
    turns = rows // way.sizes.cfg
    joined = 0.0
    if way.sizes.cfg > 1:
        _, latents = request.request()
        joined = _sending(Message("all_gather_into_tensor", 2, latents.numel() * 2, each > HOST), H100)
    seconds = turns * found.seconds + joined
    skipped, skipped_alone = turns * (found.outside + found.block) + joined, rows * (alone.outside + alone.block)
    cached = COMPUTED * seconds + (RUN - COMPUTED) * skipped
    cached_alone = COMPUTED * rows * alone.seconds + (RUN - COMPUTED) * skipped_alone
    return {
        "ranks": count,
        "tflop": turns * trace.flops / 1e12,
        "collectives": turns * sum(trace.collectives.values()) + (way.sizes.cfg > 1),
        "megabytes": turns * trace.bytes / 1e6,
        "ms": seconds * 1e3,
        "waiting": turns * found.waiting / seconds,
        "efficiency": rows * alone.seconds / (each * seconds),
        "cached": cached_alone / (each * cached),
    }


def report() -> dict[str, Any]:
    """Predict everything; return plain numbers."""
    found: dict[str, Any] = {}
    for name, request in REQUESTS.items():
        alone = cost(step(request, Way("alone", Sizes())))
        ways = (*EIGHT, *MANY, *MOST, *APART, *(GUIDED if request is WAN else ()))
        rows = {way.name: predict(request, way, alone) for way in sorted(ways, key=lambda way: way.sizes.total)}
        rows = {"1 GPU": predict(request, Way("alone", Sizes()), alone), **rows}
        found[name] = rows
    return found


def tables(found: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    head = ("GPUs", "axes", "TFLOP", "collectives", "MB sent", "ms", "waiting", "efficiency", "with `ultra`")
    parts = []
    for name, rows in found.items():
        lines = [
            (
                row["ranks"],
                way,
                f"{row['tflop']:,.1f}",
                row["collectives"],
                f"{row['megabytes']:,.0f}",
                f"{row['ms']:,.1f}",
                f"{row['waiting']:.0%}",
                f"{row['efficiency']:.0%}",
                f"{row['cached']:.0%}",
            )
            for way, row in rows.items()
        ]
        parts += [f"{name}, a step of each rank:", markdown(head, lines)]
    return "\n\n".join(parts)


def main() -> None:
    """Predict, print the tables, and put them into the document."""
    options = parser(__name__, "scaling.md").parse_args()
    found = report()
    publish(options.write, "scaling.md", "predicted", tables(found), found)


if __name__ == "__main__":
    main()
