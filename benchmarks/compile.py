"""What compilation brings and costs: this library, diffusers and cache-dit, each compiled as it recommends.

    python -m benchmarks.compile            # prints the tables
    python -m benchmarks.compile --write    # and puts them into docs/performance.md

The model and the request of `benchmarks.overhead`, in fp32 and bf16, on one thread. All contestants go through 28
steps side by side, as there. Caches decide alike, which is checked: by the static mask `ultra`, or by a threshold with
at most three skipped steps in a row. What compiling costs is measured in processes of their own: the first run of 28
steps less the second, once with an empty cache of inductor on disk and once with what that left there.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import torch

import pure
from benchmarks.command import FOLDER, parser, publish
from benchmarks.flux import STEPS, ULTRA, Bench, Contestant
from benchmarks.overhead import build, measure, typical
from benchmarks.peer import Peer, module_of, peer, recommended
from benchmarks.table import markdown
from pure.cli.memory import keep_memory
from pure.transforms import compiled, dbcache
from pure.transforms.scm import preset_mask

BACKEND = "inductor"
DTYPES = ("float32", "bfloat16")
LIMITS = {"threshold": 0.9, "warmup": 4}
MEASURED = dbcache(front=1, max_continuous=3, **LIMITS)
MASK = preset_mask("ultra", STEPS)
Computed = Callable[[], tuple[bool, ...]]
BASE, PEER, OURS = "diffusers", "cache-dit, compiled", "puredit, compiled"


@attrs.frozen(eq=False)
class Entry:
    """A contestant that is ready.

    Attributes:
        run: takes all steps.
        computed: of the last run, which steps were computed; None where there is no cache.
        recommended: whether it is compiled under the settings of torch that cache-dit recommends.
    """

    run: Contestant
    computed: Computed | None = None
    recommended: bool = False


def diffusers(made: Bench, fast: bool) -> Entry:
    """Return diffusers' transformer without a cache."""
    module = module_of(made)
    if fast:
        module.compile_repeated_blocks(fullgraph=True, backend=BACKEND)
    return Entry(attrs.evolve(made, module=module).diffusers)


def cached_by_peer(made: Bench, fast: bool, masked: bool) -> Entry:
    """Return cache-dit, compiled as its command line does it: the repeated blocks, under its settings of inductor."""
    found: Peer = peer(made, mask=MASK) if masked else peer(made, row=3, **LIMITS)
    if fast:
        found.made.module.compile_repeated_blocks(fullgraph=True, backend=BACKEND)
    return Entry(found, lambda: found.computed, recommended=fast)


def ours(made: Bench, fast: bool, masked: bool) -> Entry:
    """Return our denoiser, cached in the same way."""
    plan = ULTRA if masked else MEASURED
    run = made.ours(pure.compose(plan, compiled(backend=BACKEND)) if fast else plan)
    return Entry(run, lambda: run.computed)


ENTRIES: dict[str, Callable[[Bench], Entry]] = {
    BASE: lambda made: diffusers(made, False),
    "diffusers, compiled": lambda made: diffusers(made, True),
    "cache-dit": lambda made: cached_by_peer(made, False, True),
    PEER: lambda made: cached_by_peer(made, True, True),
    "puredit": lambda made: ours(made, False, True),
    OURS: lambda made: ours(made, True, True),
    PEER + ", threshold": lambda made: cached_by_peer(made, True, False),
    OURS + ", threshold": lambda made: ours(made, True, False),
}
STARTED = ("diffusers, compiled", PEER, OURS)


def last(run: Contestant) -> torch.Tensor:
    """Take all steps; return the last latents."""
    *_, latents = run()
    return latents


def compare(made: Bench, rounds: int, seed: int) -> dict:
    """Return seconds by contestant, round and step, what each computed, and how far it ends from cache-dit."""
    entries, latents = {name: entry(made) for name, entry in ENTRIES.items()}, {}
    for name, entry in entries.items():
        with recommended(entry.recommended):
            latents[name] = last(entry.run).float()
    seconds = measure({name: entry.run for name, entry in entries.items()}, rounds, seed)
    computed = {name: entry.computed() for name, entry in entries.items() if entry.computed is not None}
    for name, bits in computed.items():
        other = next(bits for each, bits in computed.items() if ("threshold" in each) == ("threshold" in name))
        assert bits == other, f"{name} computes {bits}, another {other}"
    reference = latents["cache-dit"]
    apart = {
        name: float((latents[name] - reference).norm() / reference.norm())
        for name in computed
        if "threshold" not in name
    }
    shares = {name: profile(entries[name].run) for name in (PEER, OURS)}
    return {"seconds": seconds, "computed": {n: sum(b) for n, b in computed.items()}, "apart": apart, "shares": shares}


def profile(run: Contestant) -> dict[str, float]:
    """Return the milliseconds that a run spends in products, attention and all else."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        last(run)
    shares = {"products": 0.0, "attention": 0.0, "other": 0.0}
    for event in found.key_averages():
        product = any(word in event.key for word in ("mm", "linear", "matmul"))
        kind = "attention" if "attention" in event.key else "products" if product else "other"
        shares[kind] += event.self_cpu_time_total / 1e3
    return shares


def start(made: Bench, name: str) -> float:
    """Return the seconds that the first run takes longer than the second."""
    entry, laps = ENTRIES[name](made), []
    with recommended(entry.recommended):
        for _ in range(2):
            begin = time.perf_counter()
            last(entry.run)
            laps.append(time.perf_counter() - begin)
    return laps[0] - laps[1]


def alone(words: list[str], folder: Path | None = None) -> dict:
    """Return what a process of its own measures; `folder` is inductor's cache on disk."""
    environment = os.environ if folder is None else {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "benchmarks.compile", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def runs(words: list[str]) -> dict:
    """Return what a process finds out that lets all contestants run side by side."""
    with tempfile.TemporaryDirectory() as folder:
        found = alone([*words, "--alone"], Path(folder))
    return {**found, "seconds": {name: typical(laps) for name, laps in found["seconds"].items()}}


def starts(words: list[str]) -> dict:
    """Return what compiling costs each contestant, with an empty cache on disk and with a filled one."""
    found = {}
    for name in STARTED:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = [alone([*words, "--start", name], Path(folder)) for _ in range(2)]
    return {"start": found}


def tables(result: dict) -> str:
    """Return the report as Markdown."""
    parts = []
    for dtype in (dtype for dtype in DTYPES if dtype in result):
        found = result[dtype]
        base = found["seconds"][BASE]
        rows = []
        for name, seconds in found["seconds"].items():
            rival = found["seconds"][PEER + ", threshold" if "threshold" in name else PEER]
            apart = found["apart"].get(name)
            rows.append(
                (
                    name,
                    f"{seconds:.2f}",
                    f"{base / seconds:.2f}x",
                    f"{rival / seconds:.2f}x",
                    found["computed"].get(name, STEPS),
                    "" if apart is None else f"{apart:.0e}",
                )
            )
        head = ("run of 28 steps", "seconds", "over diffusers", "over cache-dit compiled", "steps computed", "distance")
        about = f"torch {found['torch']}, threads: {found['threads']}, shuffled rounds: {found['rounds']}."
        parts += [f"In {dtype}; {about}", markdown(head, rows)]
        costs = [(name, *(f"{seconds:.1f}" for seconds in found["start"][name])) for name in STARTED]
        parts.append(markdown(("compilation, seconds", "empty cache", "filled cache"), costs))
        shares = [(name, *(f"{ms / 1e3:.2f}" for ms in kinds.values())) for name, kinds in found["shares"].items()]
        parts.append(markdown(("seconds of a run in", *next(iter(found["shares"].values()))), shares))
    return "\n\n".join(parts)


def main() -> None:
    """Run the benchmark."""
    found = parser(__name__, "performance.md")
    found.add_argument("--rounds", type=int, default=3, help="how often every contestant runs (default 3)")
    found.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    found.add_argument("--seed", type=int, default=0, help="seed of the shuffling")
    found.add_argument("--dtype", choices=DTYPES, help="measure in one of them alone (default both)")
    found.add_argument("--part", choices=("runs", "start"), help="measure this part again, and keep what is recorded")
    found.add_argument("--alone", action="store_true", help="be the process that compares: print its numbers as JSON")
    found.add_argument("--start", choices=STARTED, help="be a process that compiles one contestant: print its seconds")
    options = found.parse_args()
    keep_memory(os.environ)
    torch.set_num_threads(options.threads)
    if options.alone or options.start:
        made = build(getattr(torch, options.dtype or DTYPES[0]))
        print(json.dumps(start(made, options.start) if options.start else compare(made, options.rounds, options.seed)))
        return
    kept = FOLDER / "compile.json"
    result: dict = json.loads(kept.read_text()) if kept.exists() else {}
    for dtype in (options.dtype,) if options.dtype else DTYPES:
        words = ["--dtype", dtype, "--rounds", str(options.rounds), "--threads", str(options.threads)]
        again: dict = {"rounds": options.rounds, "threads": options.threads, "torch": torch.__version__}
        again = {} if options.part == "start" else {**again, **runs(words)}
        again |= {} if options.part == "runs" else starts(words)
        result[dtype] = {**result.get(dtype, {}), **again}
        publish(options.write, "performance.md", "compile", tables(result), result)


if __name__ == "__main__":
    main()
