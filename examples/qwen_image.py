"""Qwen-Image: classifier-free guidance, a cache for both branches, quantised, compiled.

python examples/qwen_image.py --model-path FOLDER_OF_QWEN_IMAGE
"""

import argparse
import time

import attrs
import torch

import pure
from pure.models import load_pipeline
from pure.transforms import Quantization, compiled, dbcache, quantize, scm, taylorseer

parser = argparse.ArgumentParser(description="Qwen-Image with guidance, cached, quantised and compiled.")
parser.add_argument("--model-path", required=True)
parser.add_argument("--prompt", default="a shop window with the words 'pure functions'")
parser.add_argument("--negative-prompt", default=" ")
parser.add_argument("--size", type=int, default=1328, help="pixels on a side")
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--backend", default="inductor", help="of torch.compile")
parser.add_argument("--output", default="qwen_image.png")
options = parser.parse_args()

# Load and quantise.
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
pipeline = load_pipeline(options.model_path, dtype=dtype, device=device)
smaller = quantize(pipeline.params, pipeline.denoiser, Quantization(kind="int8_weight_only"))
pipeline = attrs.evolve(pipeline, params=smaller)

# A fixed mask decides without measuring, for both branches of guidance alike: nothing waits for the device.
fast = pure.compose(
    dbcache(front=1, back=0, warmup=4, max_continuous=None),
    scm(preset="medium", policy="static"),
    taylorseer(order=1),
    compiled(backend=options.backend),
)

# The request carries sizes and guidance; negative prompts and scale come together.
request = pipeline.request(
    options.prompt,
    options.negative_prompt,
    steps=options.steps,
    height=options.size,
    width=options.size,
    true_cfg_scale=4.0,
)
denoiser, request = pipeline.guide(fast(pipeline.denoiser), request)
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
for branch, name in enumerate(("conditional", "unconditional")):
    print(f"{name:>13}: {''.join('.#'[info.computed[branch]] for info in done.infos)}")

pipeline.decode(pipeline.finished(done.latents, request), request)[0].save(options.output)
print("saved", options.output)
