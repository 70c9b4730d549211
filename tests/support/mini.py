"""A pipeline in miniature around any transformer: its scheduler, its loop, and nothing else."""

from typing import Any

import diffusers
import torch

from pure.models.adapt.forward import forward_of
from tests.support.generic import FAMILIES, Family
from tests.support.generic_images import IMAGES
from tests.support.generic_videos import VIDEOS

EVERY = [*FAMILIES, *IMAGES, *VIDEOS]


class Mini:
    """Denoises what `call` gives as a diffusers pipeline would; returns the latents of all its outputs."""

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
        self.config: dict = {}

    @torch.no_grad()
    def __call__(self, call: dict, steps: int = 6, between: Any = None, rows: Any = None) -> list[torch.Tensor]:
        """Denoise; `between(step, arguments)` may change arguments, `rows(step)` says which samples are left."""
        forward = forward_of(self.transformer, call)
        self.scheduler.set_timesteps(steps)
        latents, found = call[forward.latents], []
        for index, time in enumerate(self.scheduler.timesteps):
            if rows is not None and (left := rows(index)) is not None:
                call, latents = (
                    {name: narrowed(value, len(latents), left) for name, value in call.items()},
                    latents[left],
                )
            now = call[forward.timestep] * time / 1000
            arguments = {**call, forward.latents: latents, forward.timestep: now.to(call[forward.timestep])}
            if between is not None:
                arguments = between(index, arguments)
            answer = self.transformer(**arguments, return_dict=False)
            found = [answer] if isinstance(answer, torch.Tensor) else answer
            latents = _moved(latents, found[0])
            self.scheduler.step(torch.zeros(1), time, torch.zeros(1))  # so that it counts
        return [torch.stack(each) if isinstance(each, list) else each for each in found]


def narrowed(value: Any, batch: int, left: list[int]) -> Any:
    """What is left of an argument when only some samples are."""
    if isinstance(value, torch.Tensor) and value.ndim and len(value) == batch:
        return value[left]
    return value


def _moved(latents: Any, prediction: Any) -> Any:
    if isinstance(latents, list):
        return [0.9 * x + 0.1 * y for x, y in zip(latents, prediction, strict=True)]
    if latents.shape != prediction.shape:  # a model that predicts variances, too
        prediction = prediction.flatten(1).mean(1).view(-1, *(1 for _ in latents.shape[1:]))
    return 0.9 * latents + 0.1 * prediction


def mini(family: Family, batch: int = 1) -> tuple[Mini, dict]:
    """A pipeline around a family's transformer, and the arguments of one call."""
    return Mini(family.build()), family.example(batch)


__all__ = ["EVERY", "Mini", "mini"]
