"""Divide the tokens of each step among several devices: the same picture, decided alike on every rank.

    python examples/many_gpus.py --ulysses 2 --ring 1

On a machine without GPUs the ranks are processes on the CPU.
"""

import argparse

import torch

import pure
from pure.distributed import Sizes, context_parallel, make_mesh
from pure.distributed import run as launch
from pure.models import embedded, load_pipeline
from pure.transforms import dbcache, taylorseer


def make(sizes: Sizes, model_path: str, device: str) -> list[bool]:
    """Make a picture on this rank's share of the tokens; every rank has all of it at the end."""
    mesh = make_mesh(sizes, device=device)
    pipeline = load_pipeline(model_path, device=device)
    request = pipeline.request("a red apple on a blue background", steps=12)
    cached = pure.compose(dbcache(front=1, warmup=2), taylorseer(order=1))
    parallel = pure.compose(cached, context_parallel(mesh))(pipeline.denoiser)
    conditioning, noise, steps = pipeline.encode(request), pipeline.noise(request, seed=42), pipeline.schedule(request)
    with torch.no_grad():
        done = pure.sample(parallel, pipeline.params, conditioning, noise, steps, pipeline.solver)
    if torch.distributed.get_rank() == 0:
        pipeline.decode(pipeline.finished(done.latents, request), request)[0].save("many_gpus.png")
    return [info.computed[0] for info in done.infos]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One picture on several devices.")
    parser.add_argument("--model-path", default=str(embedded()))
    parser.add_argument("--ulysses", type=int, default=2, help="ranks that exchange tokens for heads")
    parser.add_argument("--ring", type=int, default=1, help="ranks among which keys and values go around")
    options = parser.parse_args()
    wanted = Sizes(ulysses=options.ulysses, ring=options.ring)
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    computed = launch(make, options.ulysses * options.ring, wanted, options.model_path, kind, device=kind)
    print("computed:", "".join(".#"[each] for each in computed), "saved many_gpus.png")
