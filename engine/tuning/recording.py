"""Recording runs without a cache: of every prompt the Gram matrix of its residuals and the last latents.

Of a large residual a fixed random part is kept, so that what is remembered has a bound whatever the model. What is
recorded of a prompt goes to a file of its own at once: a recording that was interrupted goes on where it stopped.

Shapes: B samples, T steps, N numbers of a residual that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch

from pure.engine.tuning.rerun import Case, Place, TunedSpan, begin, bound_of, cache_of, experts_of, run
from pure.gram import gram_matrix

if TYPE_CHECKING:
    from pure.models import Pipeline

__all__ = ["Recorded", "make_case", "record"]

MOST = 2**20
"""Numbers of a residual that are kept of every step and sample."""

Observe = Callable[[str, int, int], None]


@attrs.frozen(kw_only=True, eq=False)
class Recorded:
    """What is kept of one prompt.

    Attributes:
        prompt: what it shows.
        seed: of its noise.
        grams: by expert, (T, T) of the expert's own steps.
        latents: (1, ...) after the last step.
    """

    prompt: str
    seed: int
    grams: Mapping[str, np.ndarray]
    latents: torch.Tensor


def make_case(pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int], options: Mapping[str, Any]) -> Case:
    """Return what is needed to run some prompts.

    Raises:
        ValueError: an option is out of range, or prompts cannot be in one batch.
    """
    request = pipeline.request(list(prompts), **options)
    plain, request = pipeline.guide(pipeline.denoiser, request)
    return Case(
        pipeline=pipeline,
        request=request,
        plain=plain,
        conditioning=pipeline.conditioning(request),
        noise=pipeline.noise(request, list(seeds)),
        steps=pipeline.schedule(request),
    )


@torch.no_grad()
def record(case: Case, seeds: Sequence[int], span: TunedSpan, observe: Observe | None = None) -> tuple[Recorded, ...]:
    """Run the prompts of a case without a cache, and return what is kept of each.

    Args:
        case: B samples.
        seeds: of the samples.
        span: the blocks whose residual may be skipped.
        observe: called after every step with "recording", the steps taken and their number.
    """
    bound, count = bound_of(case), len(case.steps)
    ones, one = (1,) * count, attrs.evolve(span, depth=1)
    place: Place = begin(case, bound, ones, one)
    kept: list[np.ndarray] = []  # (B, N) of every step
    for _, after in run(case, bound, place, ones, {}, one):
        place = after
        kept.append(_part(place.state, experts_of((case.steps[place.at - 1],))[0], len(case.request.prompts)))
        if observe is not None:
            observe("recording", place.at, count)
    names, latents = experts_of(case.steps), case.pipeline.solver.latents(place.carry)
    own = {name: [at for at in range(count) if names[at] == name] for name in dict.fromkeys(names)}
    return tuple(
        Recorded(
            prompt=prompt,
            seed=seed,
            grams={name: gram_matrix(np.stack([kept[at][row] for at in places])) for name, places in own.items()},
            latents=latents[row : row + 1].cpu(),
        )
        for row, (prompt, seed) in enumerate(zip(case.request.prompts, seeds, strict=True))
    )


def _part(state: Any, expert: str, batch: int) -> np.ndarray:
    """Return what is kept of the newest residuals of every sample, (B, N) fp32; branches side by side."""
    parts = []
    for past in cache_of(state, expert).history:
        flat = past[0].reshape(batch, -1)  # a sample's branches are neighbouring rows
        if flat.shape[1] > MOST:
            where = torch.randint(flat.shape[1], (MOST,), generator=torch.Generator().manual_seed(0))
            flat = flat[:, where.to(flat.device)]
        parts.append(flat.to("cpu", torch.float32).numpy())
    return np.concatenate(parts, axis=1)
