"""Z-Image: many prompts as one batch, in which each sample decides for itself, quantised, compiled.

python examples/z_image.py --model-path FOLDER_OF_Z_IMAGE_TURBO
"""

import argparse
import time

import attrs
import torch

import pure
from pure.models import load_pipeline
from pure.transforms import Quantization, compiled, dbcache, quantize

PROMPTS = ("a red apple on a blue background", "a lighthouse in the fog", "a bowl of noodles, seen from above")

parser = argparse.ArgumentParser(description="Z-Image, a batch of prompts, cached, quantised and compiled.")
parser.add_argument("--model-path", required=True)
parser.add_argument("--size", type=int, default=1024, help="pixels on a side")
parser.add_argument("--steps", type=int, default=9)
parser.add_argument("--backend", default="inductor", help="of torch.compile")
parser.add_argument("--output", default="z_image_{}.png")
options = parser.parse_args()

# Load and quantise.
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
pipeline = load_pipeline(options.model_path, dtype=dtype, device=device)
smaller = quantize(pipeline.params, pipeline.denoiser, Quantization(kind="int8_weight_only"))
pipeline = attrs.evolve(pipeline, params=smaller)

# Few steps leave little to skip: a short warm-up, and no two skips in a row.
fast = pure.compose(dbcache(front=1, threshold=0.3, warmup=2, max_continuous=1), compiled(backend=options.backend))

# One seed a sample: each picture is the one that its prompt and seed give alone.
request = pipeline.request(PROMPTS, steps=options.steps, height=options.size, width=options.size)
denoiser, request = pipeline.guide(fast(pipeline.denoiser), request)
conditioning, steps = pipeline.encode(request), pipeline.schedule(request)
noise = pipeline.noise(request, seed=range(len(PROMPTS)))


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
print(f"first time, with compilation: {first:.2f} s; then {seconds:.2f} s for {len(PROMPTS)} pictures")
pictures = pipeline.decode(pipeline.finished(done.latents, request), request)
rows = len(done.infos[0].computed) // len(PROMPTS)  # two where the checkpoint is guided
for number, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
    picture.save(options.output.format(number))
    print(f"{''.join('.#'[info.computed[number * rows]] for info in done.infos)}  {prompt}")
