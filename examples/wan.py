"""Wan 2.2: two experts that share a schedule, each with a cache of its own, quantised, compiled.

python examples/wan.py --model-path FOLDER_OF_WAN2.2-T2V-A14B
"""

import argparse
import time

import attrs
import torch

import pure
from pure.experts import transformed
from pure.models import load_pipeline
from pure.transforms import Quantization, compiled, dbcache, quantize, taylorseer

parser = argparse.ArgumentParser(description="Wan 2.2, both experts cached, quantised and compiled.")
parser.add_argument("--model-path", required=True)
parser.add_argument("--prompt", default="a red apple rolls over a table")
parser.add_argument("--height", type=int, default=480)
parser.add_argument("--width", type=int, default=832)
parser.add_argument("--frames", type=int, default=81)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--backend", default="inductor", help="of torch.compile")
parser.add_argument("--output", default="wan.png")
options = parser.parse_args()

# Load: `pipeline.denoiser` are two experts, `pipeline.params` a dict of two dicts.
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
pipeline = load_pipeline(options.model_path, dtype=dtype, device=device)

# Quantise both.
smaller = quantize(pipeline.params, pipeline.denoiser, Quantization(kind="int8_weight_only"))
pipeline = attrs.evolve(pipeline, params=smaller)

# A transform of experts transforms each; a mapping has one for each. The expert for much noise draws the
# composition, so it computes more of its few steps.
common = (taylorseer(order=1), compiled(backend=options.backend))
fast = {
    "high": pure.compose(dbcache(front=1, threshold=0.1, warmup=4), *common),
    "low": pure.compose(dbcache(front=1, threshold=0.2, warmup=2), *common),
}
denoiser = transformed(pipeline.denoiser, fast)

request = pipeline.request(
    options.prompt, steps=options.steps, height=options.height, width=options.width, frames=options.frames
)
denoiser, request = pipeline.guide(denoiser, request)
conditioning, noise, steps = pipeline.encode(request), pipeline.noise(request, seed=42), pipeline.schedule(request)


def run() -> tuple[pure.Run, float]:
    """Return a run, and the seconds it took."""
    began = time.perf_counter()
    with torch.no_grad():
        done = pure.sample(denoiser, pipeline.params, conditioning, noise, steps, pipeline.solver)
    done.latents.sum().item()  # waits for the device
    return done, time.perf_counter() - began


# Warm up, then time.
_, first = run()
done, seconds = run()
print(f"first time, with compilation: {first:.2f} s; then {seconds:.2f} s")
for name in fast:
    own = [info for info, step in zip(done.infos, steps, strict=True) if step.expert == name]
    print(f"{name:>5}: {''.join('.#'[info.computed[0]] for info in own)}")

pipeline.decode(pipeline.finished(done.latents, request), request)[0].save(options.output)
print("saved", options.output)
