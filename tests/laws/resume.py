"""Law 5 in another process: go on from a saved state of tiny FLUX. Called by tests/laws/test_process.py."""

import sys

import torch

import pure
from pure.testing.situation import Situation
from pure.transforms import dbcache, guided, taylorseer
from tests.support.flux import FLUX_DEV

RECIPE = pure.compose(
    dbcache(front=1, back=1, threshold=0.3, warmup=1),
    taylorseer(order=2, streams="all"),
    guided(scale=2.0, stop=0.8),
)
RUN = Situation(model=FLUX_DEV, transform=RECIPE, seeds=(1, 2), count=8)
STOP = 5


def rest(state: pure.States, latents: torch.Tensor) -> dict:
    """Run the remaining steps; return what is compared."""
    frames = list(RUN.unroll(state, latents, RUN.schedule()[STOP:]))
    assert all(isinstance(frame.info, pure.Info) for frame in frames)
    return {"state": frames[-1].state, "latents": [frame.latents for frame in frames]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    saved, answer = sys.argv[1:]
    pure.save_state(rest(*pure.load_state(saved, like=(RUN.start(), RUN.latents()))), answer)
