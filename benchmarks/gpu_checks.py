"""What tests on a CPU cannot see: kernels of attention, quantised products, NCCL and the commands on a GPU.

    python -m benchmarks.gpu_checks            # prints the table
    python -m benchmarks.gpu_checks --write    # and puts it into docs/performance.md

Every row compares two ways to the same numbers, which differ by rounding, and says how far apart they may be. Nothing
is downloaded: the numbers are random, or those of the checkpoint in the package. A check that fails is a row, too, and
the command then ends with 1.

Shapes: B samples, N tokens, H heads, C width of a head.
"""

import functools
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F

import pure
from benchmarks.command import medians, need_cuda, parser, publish
from benchmarks.gpu_commands import commands
from benchmarks.gpu_rows import Check, decibels, distance, tried
from benchmarks.table import markdown
from pure.attention import attend, parts_of
from pure.distributed import Sizes, context_parallel, make_mesh, tensor_parallel
from pure.distributed import run as launch
from pure.distributed.collectives import add, exchange, gather, wait
from pure.models import Generation, Pipeline, embedded, load_pipeline
from pure.partial import KERNELS, attend_in_part, merge
from pure.transforms import compiled, dbcache, scm, taylorseer
from pure.transforms.attention.kernels import kernel_of
from pure.transforms.attention.machine import working
from pure.transforms.attention.names import BACKENDS
from pure.transforms.quantize.kinds import KINDS, unfit, unsupported

PROMPT, STEPS = "a red apple on a blue background", 12
REAL = (1, 4608, 24, 128)  # B, N, H, C of FLUX.1 at 1024 x 1024
SMALL = (2, 77, 4, 64)  # a number of tokens that no kernel likes
PLANS: dict[str, pure.Transform] = {
    "no cache": pure.identity,
    "threshold": dbcache(front=1, threshold=0.2, warmup=2),
    "threshold + TaylorSeer": pure.compose(dbcache(front=1, threshold=0.2, warmup=2), taylorseer(order=1)),
    "static fast": pure.compose(dbcache(front=1), scm(preset="fast", policy="static")),
}
BOUND = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of attention: a few roundings of the type
ROUNDED = {"float8": 6e-2, "int8": 2e-2, "int4": 2e-1}  # of a product: half a step of the type, over its typical value
SAME = 50.0  # decibels of a picture that rounding in fp32 keeps


def numbers(shape: tuple[int, ...], seed: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Return random numbers."""
    return pure.gaussian(shape, seed).to(device, dtype)


def attention(device: str, shape: tuple[int, ...] = REAL) -> Iterator[Check]:
    """Compare every backend that runs here with torch's plain formula in fp32, and time it in bf16.

    sage multiplies in 8 bits and has a bound of its own.
    """
    half = torch.bfloat16
    q, k, v = (numbers(shape, seed, device, half) for seed in range(3))
    reference = kernel_of("_native_math")(q.float(), k.float(), v.float())
    names = working(device, half)
    for name in names:
        bound = 6e-2 if "sage" in name else BOUND[half]
        yield tried("attention, bf16", name, bound, lambda name=name: distance(kernel_of(name)(q, k, v), reference))
    calls = {name: functools.partial(kernel_of(name), q, k, v) for name in names}
    for name, each in medians(calls, 10).items():
        yield Check("attention, milliseconds", name, each * 1e3, None)


def masks(device: str, shape: tuple[int, ...] = SMALL) -> Iterator[Check]:
    """Compare every backend that takes masks where some keys take no part; a sample without any key gets zeros."""
    seen = torch.rand(shape[0], 1, 1, shape[1], generator=torch.Generator().manual_seed(0)) > 0.4
    seen[-1] = False
    for dtype, bound in BOUND.items():
        q, k, v = (numbers(shape, seed, device, dtype) for seed in range(3))
        reference = kernel_of("_native_math")(q.float(), k.float(), v.float(), seen.to(device))
        for name in working(device, dtype):
            if BACKENDS[name].masks == "none" or (name == "_native_flash" and device == "cuda"):
                continue
            kind, made = f"attention with a mask, {str(dtype)[6:]}", functools.partial(kernel_of(name), q, k, v)
            shown = functools.cache(lambda made=made: made(seen.to(device)))
            yield tried(kind, name, bound, lambda f=shown, r=reference: distance(f()[:-1], r[:-1]))
            yield tried("attention to no key, largest", name, 1e-30, lambda f=shown: float(f()[-1].abs().max()))


def halves(device: str, shape: tuple[int, ...] = SMALL) -> Iterator[Check]:
    """Compare attention to two parts of the keys, put together, with attention to all, as a ring does it."""
    cut = shape[1] // 3
    for dtype, bound in BOUND.items():
        q, k, v = (numbers(shape, seed, device, dtype) for seed in range(3))
        reference = attend(q.float(), k.float(), v.float())
        kernels: dict[str, Callable] = {
            f"torch's {name}": functools.partial(attend_in_part, kernel=name)
            for name in KERNELS
            if not (name == "flash" and device == "cuda" and dtype == torch.float32)
            and not (name == "efficient" and device == "cpu")
        }
        kernels |= {name: parts for name in working(device, dtype) if (parts := parts_of(kernel_of(name))) is not None}
        for name, parts in kernels.items():
            made = functools.partial(_together, parts, q, k, v, cut)
            kind = f"attention in two parts, {str(dtype)[6:]}"
            yield tried(kind, name, bound, lambda made=made, r=reference: distance(made(), r))


def _together(parts: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cut: int) -> torch.Tensor:
    """Return attention (B, N, H, C), taken to the keys before and from `cut` on."""
    first, second = (parts(q, k[:, each], v[:, each], None) for each in (slice(cut), slice(cut, None)))
    return merge(first, second)[0].transpose(1, 2)


def quantised(device: str, rows: int = 4608, inputs: int = 3072, outputs: int = 12288) -> Iterator[Check]:
    """Compare every kind of weights with those in bf16: the product, and its time over that in bf16."""
    x, plain = numbers((rows, inputs), 0, device, torch.bfloat16), numbers((outputs, inputs), 1, device, torch.bfloat16)
    weights = {"": plain}
    for name, kind in KINDS.items():
        why = unsupported(name, torch.device(device)) or unfit(name, plain)
        if why:
            yield Check("quantised product", name, why, None)
            continue
        bound = next(bound for word, bound in ROUNDED.items() if name.startswith(word))
        weight = kind.make(plain)
        made = functools.partial(F.linear, x, weight)
        check = tried("quantised product", name, bound, lambda made=made: distance(made(), F.linear(x, plain)))
        weights |= {name: weight} if check.good else {}
        yield check
    times = medians({name: functools.partial(F.linear, x, weight) for name, weight in weights.items()}, 10)
    for name in weights:
        if name:
            yield Check("quantised product, time over bf16", name, times[name] / times[""], None)


def pictures(device: str) -> Iterator[Check]:
    """Compare pictures in fp32 with those of the processor: decisions alike, pixels but for rounding.

    Diffusers' own pipeline under `accelerate` is one of them. A step waits for the device only to read a change.
    """
    here, there = load_pipeline(embedded()), load_pipeline(embedded(), device=device)
    for name, plan in PLANS.items():
        expected, made = _picture(here, plan), _picture(there, plan)
        yield Check("picture, decisions", name, _decisions(made) == _decisions(expected), True)
        yield Check("picture, decibels", name, decibels(made.pixels.cpu(), expected.pixels), SAME)
        theirs = functools.partial(_accelerated, device, plan)
        kind = "picture of diffusers' pipeline, decibels"
        yield tried(kind, name, SAME, lambda f=theirs, made=made: decibels(f(), made.pixels.cpu()))
        if device == "cuda":
            most = float("threshold" in name)
            yield Check("waits a step, at most", name, _waits(there, plan), most, most=True)


def compilation(device: str, backend: str = "inductor") -> Iterator[Check]:
    """Compare pictures of compiled blocks in fp32 with those of the same blocks as they are."""
    pipeline = load_pipeline(embedded(), device=device)
    for name in ("no cache", "threshold + TaylorSeer"):
        made = _picture(pipeline, PLANS[name])
        fast = functools.cache(
            lambda name=name: _picture(pipeline, pure.compose(PLANS[name], compiled(backend=backend)))
        )
        yield tried("compiled, decisions", name, True, lambda f=fast, made=made: _decisions(f()) == _decisions(made))
        yield tried("compiled, decibels", name, SAME, lambda f=fast, made=made: decibels(f().pixels, made.pixels))


def _picture(pipeline: Pipeline, plan: pure.Transform) -> Generation:
    return pipeline.generate(PROMPT, steps=STEPS, transform=plan, seed=1)


def _decisions(made: Generation) -> list[tuple[bool, ...]]:
    return [info.computed for info in made.infos]


def _accelerated(device: str, plan: pure.Transform) -> torch.Tensor:
    """Return the picture (B, 3, H, W) of diffusers' pipeline on the same noise."""
    from diffusers import DiffusionPipeline

    pipe: Any = DiffusionPipeline.from_pretrained(embedded()).to(device)
    pipe.set_progress_bar_config(disable=True)
    own = load_pipeline(embedded(), device=device)
    request = own.request(PROMPT, steps=STEPS)
    noise = own.noise(request, 1)
    with pure.accelerate(pipe, plan):
        made = pipe(
            PROMPT,
            num_inference_steps=STEPS,
            latents=noise,
            height=request.height,
            width=request.width,
            max_sequence_length=request.max_sequence_length,
            guidance_scale=request.guidance_scale,
            output_type="pt",
        )
    return made.images.float().cpu()


def _waits(pipeline: Pipeline, plan: pure.Transform) -> float:
    """Return how often a run waits for the device in a step, from the second on."""
    request = pipeline.request(PROMPT, steps=STEPS)
    denoiser = plan(pipeline.denoiser)
    bound, counts = denoiser.bind(pipeline.params), []
    conditioning, noise, steps = pipeline.encode(request), pipeline.noise(request, 1), pipeline.schedule(request)
    with torch.no_grad(), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        state = denoiser.init(bound, conditioning, noise, steps)
        carry = pipeline.solver.init(noise)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in pure.unroll(denoiser, bound, state, carry, steps, pipeline.solver):
                counts.append(sum("synchroniz" in str(each.message) for each in found))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return (counts[-1] - counts[0]) / (len(counts) - 1)


def ranks(device: str) -> Iterator[Check]:
    """Compare the latents of as many ranks as there are GPUs, at most 4, with those of one; one GPU calls NCCL, too."""
    count = min(torch.cuda.device_count(), 4) if device == "cuda" else 2
    library = "NCCL" if device == "cuda" else "gloo"
    for name, value in launch(on_ranks, count, device, device=device).items():
        yield Check(f"{library}, ranks: {count}", name, value, 1e-4)


def on_ranks(device: str) -> dict[str, float]:
    """Return, on every rank, how far its latents are from those of one process, by the mode."""
    count = torch.distributed.get_world_size()
    group: Any = torch.distributed.group.WORLD
    x = torch.ones(2 * count, 3, device=device)
    sent = wait(exchange(x, [2] * count, [2] * count, group))
    summed, whole = wait(add(x, group)), wait(gather(x, group))
    wrong = (sent - 1).abs().max() + (summed - count).abs().max() + (whole - 1).abs().max()
    found = {"collectives": float(wrong) + abs(len(whole) - 2 * count * count)}
    pipeline = load_pipeline(embedded(), device=device)
    request = pipeline.request(PROMPT, steps=STEPS)
    given = pipeline.encode(request), pipeline.noise(request, 1), pipeline.schedule(request), pipeline.solver

    def latents(plan: pure.Transform, params: Any) -> torch.Tensor:
        with torch.no_grad():
            return pure.sample(plan(pipeline.denoiser), params, *given).latents

    plan = PLANS["threshold"]
    expected = latents(plan, pipeline.params)
    for name in ("ring", "ulysses", "tp"):
        mesh = make_mesh(Sizes(**{name: count}), device=device)
        if name == "tp":
            made = latents(plan, tensor_parallel(pipeline.params, pipeline.denoiser, mesh))
        else:
            made = latents(pure.compose(plan, context_parallel(mesh)), pipeline.params)
        found[name] = distance(made, expected)
    return found


PARTS: dict[str, Callable[[str], Iterator[Check]]] = {
    "attention": attention,
    "masks": masks,
    "halves": halves,
    "quantised": quantised,
    "pictures": pictures,
    "compilation": compilation,
    "ranks": ranks,
    "commands": commands,
}


def collect(parts: Sequence[str], device: str) -> list[Check]:
    """Return the rows of some parts; what stops a part is a row, too."""
    found = []
    for part in parts:
        try:
            for check in PARTS[part](device):
                print(*check.row, sep=" | ", flush=True)
                found.append(check)
        except Exception as error:
            traceback.print_exc()
            found.append(Check(part, type(error).__name__, " ".join(str(error).split())[:200], True))
    return found


def table(result: dict) -> str:
    """Return the report as Markdown."""
    rows = [Check(**each).row for each in result["checks"]]
    head = ("what", "of", "found", "bound: kept")
    return f"{result['device']}, torch {result['torch']}.\n\n" + markdown(head, rows)


def main() -> None:
    """Run the checks."""
    words = parser(__name__, "performance.md")
    words.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which checks (default all)")
    words.add_argument("--out", type=Path, help="write the rows as JSON")
    options, about = words.parse_args(), need_cuda(words)
    found = collect(options.parts, "cuda")
    result = {**about, "checks": [attrs.asdict(each) for each in found]}
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    publish(options.write, "performance.md", "gpu-checks", table(result), result)
    sys.exit(not all(each.good for each in found))


if __name__ == "__main__":
    main()
