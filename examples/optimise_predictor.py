"""Learn what a predictor puts in place of skipped steps, by gradient through the whole run.

    python examples/optimise_predictor.py --rounds 30

The weights of the last two computed residuals, a pair for each skipped step, begin as TaylorSeer's and are improved
until the final latents are those of the run that skips nothing. Prints the error of both on a prompt that was not seen.
"""

import argparse
from collections.abc import Sequence

import attrs
import torch

import pure
from pure.models import embedded, load_pipeline
from pure.transforms import dbcache, scm, taylorseer

MASK = (1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1)
SEEN, UNSEEN = ("a red apple", "fox on a white background", "a yellow star"), "a blue fish"


@attrs.frozen(eq=False)
class Learned(pure.Transform):
    """A predictor with a row of weights for every step, (steps, 2), that may have a gradient."""

    table: torch.Tensor
    history: int = 2
    on: str = "residual"
    streams: None = None

    def weights(self, times: Sequence[int], target: int, first: int) -> torch.Tensor:
        return self.table[target]

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, plan=denoiser.plan.set(predictor=self))


def beginning() -> torch.Tensor:
    """Return TaylorSeer's weights for every step of the mask, (steps, 2)."""
    computed, rows = [0], []
    for index, entry in enumerate(MASK):
        times = (*reversed(computed), -1)[:2]
        rows.append(taylorseer(order=1).weights(times, index, 0) if index else (1.0, 0.0))
        computed += [index] if entry and index else []
    return torch.tensor(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn the weights of a predictor.")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()

    pipeline, skipping = load_pipeline(embedded()), pure.compose(dbcache(front=1), scm(mask=MASK, policy="static"))
    request = pipeline.request([*SEEN, UNSEEN], steps=len(MASK))
    noise, steps = pipeline.noise(request, seed=range(len(request.prompts))), pipeline.schedule(request)
    conditioning = pipeline.encode(request)

    def error(predictor: pure.Transform) -> torch.Tensor:
        denoiser = pure.compose(skipping, predictor)(pipeline.denoiser)
        run = pure.sample(denoiser, pipeline.params, conditioning, noise, steps, pipeline.solver)
        return (run.latents - exact).square().flatten(1).mean(1)

    exact = pure.sample(pipeline.denoiser, pipeline.params, conditioning, noise, steps, pipeline.solver).latents
    table = beginning().requires_grad_()
    optimiser = torch.optim.Adam([table], lr=0.02)
    for number in range(options.rounds):
        loss = error(Learned(table))[:-1].log().mean()  # the log: no prompt outweighs the others
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if number % 10 == 0:
            print(f"round {number}: log error {loss.item():.3f}")
    with torch.no_grad():
        before, after = error(taylorseer(order=1))[-1], error(Learned(table))[-1]
    print(f"{UNSEEN!r}, error of the final latents: TaylorSeer {before:.2e}, learned {after:.2e}")


if __name__ == "__main__":
    main()
