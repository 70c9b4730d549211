"""FLUX.1: load, cache, quantise, compile, warm up, time, save.

    python examples/flux.py --model-path FOLDER_OF_FLUX.1-dev --size 1024

Without a folder it runs the small checkpoint in the package, which is a FLUX, too.
"""

import argparse
import time

import attrs
import torch

import pure
from pure.models import embedded, load_pipeline
from pure.transforms import Quantization, compiled, dbcache, quantize, taylorseer

parser = argparse.ArgumentParser(description="FLUX.1, cached, quantised and compiled.")
parser.add_argument("--model-path", default=embedded())
parser.add_argument("--prompt", default="a red apple on a blue background")
parser.add_argument("--size", type=int, help="pixels on a side; by default the checkpoint's")
parser.add_argument("--steps", type=int, default=28)
parser.add_argument("--backend", default="inductor", help="of torch.compile")
parser.add_argument("--output", default="flux.png")
options = parser.parse_args()

# Load. Parameters are a plain dict of tensors, the denoiser is a function of them.
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
pipeline = load_pipeline(options.model_path, dtype=dtype, device=device)
request = pipeline.request(options.prompt, steps=options.steps, height=options.size, width=options.size)

# Quantise: a function from parameters to parameters.
smaller = quantize(pipeline.params, pipeline.denoiser, Quantization(kind="int8_weight_only"))
pipeline = attrs.evolve(pipeline, params=smaller)

# Cache and compile: functions from denoisers to denoisers. The first block says whether the others must run.
fast = pure.compose(dbcache(front=1, threshold=0.24, warmup=4), taylorseer(order=1), compiled(backend=options.backend))


def run(transform: pure.Transform) -> tuple[pure.Run, float]:
    """Return a run of the request, and the seconds it took."""
    denoiser, guided = pipeline.guide(transform(pipeline.denoiser), request)
    conditioning, noise, steps = pipeline.encode(guided), pipeline.noise(guided, seed=42), pipeline.schedule(guided)
    began = time.perf_counter()
    with torch.no_grad():
        done = pure.sample(denoiser, pipeline.params, conditioning, noise, steps, pipeline.solver)
    done.latents.sum().item()  # waits for the device
    return done, time.perf_counter() - began


# Warm up: compilation happens in the first run only; another mask, threshold or prompt compiles nothing again.
plain, plain_seconds = run(pure.identity)
_, first_seconds = run(fast)
done, seconds = run(fast)

computed = sum(info.computed[0] for info in done.infos)
print(f"every step: {plain_seconds:.2f} s; first time: {first_seconds:.2f} s; then: {seconds:.2f} s")
print(f"computed {computed} of {len(done.infos)} steps: {''.join('.#'[info.computed[0]] for info in done.infos)}")

pipeline.decode(pipeline.finished(done.latents, request), request)[0].save(options.output)
print("saved", options.output)
