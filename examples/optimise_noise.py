"""Find starting noise whose picture has a wanted colour, by gradient through the whole cached run.

    python examples/optimise_noise.py --colour 0.9 0.6 0.2 --output noise.png

The prompt stays; only the noise moves. `checkpoint=True` holds the memory of one step instead of all.
"""

import argparse

import torch

import pure
from pure.models import embedded, load_pipeline
from pure.transforms import dbcache, scm, taylorseer


def main() -> None:
    parser = argparse.ArgumentParser(description="Optimise the starting noise of a cached run.")
    parser.add_argument("--prompt", default="a red apple")
    parser.add_argument("--colour", type=float, nargs=3, default=(0.9, 0.6, 0.2), metavar=("R", "G", "B"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", default="noise.png")
    options = parser.parse_args()

    pipeline = load_pipeline(embedded())
    request = pipeline.request(options.prompt, steps=options.steps)
    conditioning, steps = pipeline.encode(request), pipeline.schedule(request)
    mask = tuple(int(index % 2 == 0) for index in range(options.steps))  # every other step is filled in
    cached = pure.compose(dbcache(front=1), scm(mask=mask, policy="static"), taylorseer(order=1))(pipeline.denoiser)
    wanted = torch.tensor(options.colour).view(1, 3, 1, 1)

    start = pipeline.noise(request, seed=7)
    moved = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=0.05)
    noise = start
    for number in range(options.rounds):
        noise = moved * start.norm() / moved.norm()  # noise has this length; the model knows no other
        run = pure.sample(cached, pipeline.params, conditioning, noise, steps, pipeline.solver, checkpoint=True)
        pixels = pipeline.pixels(pipeline.finished(run.latents, request), request)
        loss = (pixels.mean((2, 3), keepdim=True) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if number % 5 == 0 or number == options.rounds - 1:
            print(f"round {number}: mean colour {pixels.detach().mean((0, 2, 3)).tolist()}, error {loss.item():.4f}")
    run = pure.sample(cached, pipeline.params, conditioning, noise.detach(), steps, pipeline.solver)
    pipeline.decode(pipeline.finished(run.latents, request), request)[0].save(options.output)
    print("saved", options.output)


if __name__ == "__main__":
    main()
