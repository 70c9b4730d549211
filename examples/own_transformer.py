"""A transformer of one's own as a denoiser: trained for a minute on rings of points, then sampled with a cache.

    python examples/own_transformer.py --rounds 400

The same functions serve training and inference: a step is differentiable, and a run is made of steps.
"""

import argparse

import torch
import torch.nn.functional as F

import pure
from pure import Block, Denoiser
from pure.attention import attend
from pure.transforms import dbcache

WIDTH, POINTS, DEPTH = 32, 16, 4


@pure.state
class Hidden:
    """The only stream."""

    points: torch.Tensor  # (B, N, D)


def prepare(params, conditioning):
    """Embed the radius, once per request: (B,) to (B, D)."""
    return conditioning["radius"][:, None] * params["radius"]


def embed(params, prepared, latents, timestep):
    """Embed the points and the time."""
    time = torch.sin(timestep[:, None] * params["rates"]) + prepared
    return Hidden(points=latents @ params["in"]), time[:, None]


def block(params, hidden, context, attend):
    """Attend, then transform every point."""
    x = F.layer_norm(hidden.points, (WIDTH,)) + context
    q, k, v = (x @ params["qkv"]).unflatten(2, (3, 4, -1)).unbind(2)  # (B, N, heads, head width) each
    points = hidden.points + attend(q, k, v).flatten(2) @ params["out"]
    return Hidden(points=points + F.gelu((F.layer_norm(points, (WIDTH,)) + context) @ params["up"]) @ params["down"])


def head(params, hidden, context):
    """Read the velocity."""
    return hidden.points @ params["head"]


denoiser = Denoiser(
    prepare=prepare,
    embed=embed,
    blocks=tuple(Block(block, f"blocks.{i}.") for i in range(DEPTH)),
    head=head,
    attend=attend,
    probe=lambda hidden: hidden.points,
    streams=("points",),
)


def parameters() -> dict[str, torch.Tensor]:
    """Return random parameters under the names that the functions read."""
    shapes = {"radius": (WIDTH,), "rates": (WIDTH,), "in": (2, WIDTH), "head": (WIDTH, 2)}
    for i in range(DEPTH):
        shapes |= {f"blocks.{i}.qkv": (WIDTH, 3 * WIDTH), f"blocks.{i}.out": (WIDTH, WIDTH)}
        shapes |= {f"blocks.{i}.up": (WIDTH, 2 * WIDTH), f"blocks.{i}.down": (2 * WIDTH, WIDTH)}
    made = {name: pure.gaussian(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    return {name: leaf * (4.0 if name == "rates" else WIDTH**-0.5) for name, leaf in made.items()}


def ring(radius: torch.Tensor) -> torch.Tensor:
    """Return points on a ring of each radius, (B, N, 2)."""
    angles = torch.linspace(0, 2 * torch.pi, POINTS + 1)[:-1]
    return radius[:, None, None] * torch.stack([angles.cos(), angles.sin()], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small transformer, and sample it with a cache.")
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()

    torch.manual_seed(0)
    params = {name: leaf.requires_grad_() for name, leaf in parameters().items()}
    optimiser = torch.optim.Adam(params.values(), lr=3e-3)
    for number in range(options.rounds):
        radius, level = 0.5 + torch.rand(32), torch.rand(32)
        clean, noise = ring(radius), torch.randn(32, POINTS, 2)
        noisy = clean + level[:, None, None] * (noise - clean)
        state = denoiser.init(params, {"radius": radius}, noisy, 1)
        step = pure.Step(index=0, count=1, timestep=level)
        velocity, _, _ = denoiser.apply(params, state, pure.Inputs(noisy, step))
        loss = (velocity - (noise - clean)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if number % 100 == 0 or number == options.rounds - 1:
            print(f"round {number}: loss {loss.item():.3f}")

    solver, radius = pure.FlowMatchEuler(), torch.tensor([0.6, 1.2])
    steps = solver.schedule(24, tokens=POINTS)
    noise = pure.gaussian((2, POINTS, 2), [1, 2])
    values = {name: leaf.detach() for name, leaf in params.items()}
    for name, transform in {"every step": pure.identity, "cached": dbcache(front=1, threshold=0.2, warmup=3)}.items():
        run = pure.sample(transform(denoiser), values, {"radius": radius}, noise, steps, solver)
        found = run.latents.norm(dim=2).mean(1).tolist()
        computed = sum(sum(info.computed) for info in run.infos)
        print(f"{name}: radii {found[0]:.2f} and {found[1]:.2f}, wanted 0.60 and 1.20; computed {computed} of 48")


if __name__ == "__main__":
    main()
