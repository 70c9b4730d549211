r"""Classifier-free guidance: two named branches of one batch.

$$v = v_- + s\,(v_+ - v_-)$$

Rows 2i and 2i+1 of a guided batch are the conditional and the unconditional branch of
sample i, so that states of guided requests are joined and split like any others. Outside
the guidance interval only the conditional rows run, and of the others nothing changes.

Reference: Ho and Salimans, arXiv:2207.12598, equation 6; the interval: Kynkaanniemi et
al., arXiv:2404.07724.
"""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from pure.checks import choice, number
from pure.notes import Note
from pure.step import Step
from pure.tree import join, map_samples, state

CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"
NORMALIZE = ("none", "token", "sample")
LARGEST_SCALE = 1000.0
"""Largest scale of guidance: far beyond any that gives a picture, and far from overflow."""


@attrs.frozen(kw_only=True)
class Guidance:
    """Guidance `scale`, applied at steps in [start, stop) as fractions of the schedule.

    Attributes:
        scale: s above, -1000 to 1000; 1 is the conditional prediction.
        start: fraction of the schedule at which guidance begins, 0 to 1.
        stop: fraction at which it ends, above `start`.
        lowest_sigma: noise level, 0 to 1, below which guidance has ended (1 - c for Z-Image's `cfg_truncation` c).
        normalize: "none"; "token" gives every token of the guided prediction the norm it has in
            the conditional one (Qwen-Image); "sample" shrinks a sample whose norm exceeds `cap`
            times that of the conditional one (Z-Image's `cfg_normalization`).
        cap: of "sample": how many times that norm is allowed, above 0.

    Raises:
        ValueError: a value is out of range.
    """

    scale: float = attrs.field(validator=number(-math.inf, "the scale", most=LARGEST_SCALE))
    start: float = attrs.field(default=0.0, validator=number(0.0, "the start of the interval", most=1.0))
    stop: float = attrs.field(default=1.0, validator=number(0.0, "the end of the interval", most=1.0))
    lowest_sigma: float = attrs.field(default=0.0, validator=number(0.0, "the lowest noise level", most=1.0))
    normalize: str = attrs.field(default="none", validator=choice(*NORMALIZE))
    cap: float = attrs.field(default=1.0, validator=number(0.0, "the cap", above=True))

    def __attrs_post_init__(self) -> None:
        if self.start >= self.stop:
            interval = f"{type(self).__name__}(start={self.start}, stop={self.stop})"
            raise ValueError(f"{interval}: the interval must start before it ends")

    @property
    def always(self) -> bool:
        """Whether every step is guided."""
        return self.start <= 0 and self.stop >= 1 and self.lowest_sigma <= 0

    def active(self, step: Step) -> bool:
        """Whether this step is guided.

        Raises:
            ValueError: some samples of the batch stand inside the interval and others outside.
        """
        indices = step.index if isinstance(step.index, tuple) else (step.index,)
        counts = step.count if isinstance(step.count, tuple) else (step.count,) * len(indices)
        inside = {self.start <= index / count < self.stop for index, count in zip(indices, counts, strict=True)}
        if self.lowest_sigma > 0 and inside == {True}:
            inside = self._noisy(step)
        if len(inside) > 1:
            raise ValueError(
                f"samples at steps {indices} of {counts} stand on both sides of the guidance interval "
                f"[{self.start}, {self.stop}), noise level at least {self.lowest_sigma}; step them in separate batches"
            )
        return inside.pop()

    def _noisy(self, step: Step) -> set[bool]:
        """Whether the noise levels of the samples are high enough."""
        if step.sigma is None:
            raise ValueError("guidance that ends at a noise level needs steps with sigma; take them from a solver")
        return {level >= self.lowest_sigma for level in step.sigma.reshape(-1).tolist()}


@state
class Branches:
    """Conditioning of both branches, B samples each and built alike."""

    conditional: Any
    unconditional: Any


def rows(guidance: Guidance | None, conditioning: Any) -> tuple[Any, bool]:
    """Return the conditioning of every row, and whether each sample has two.

    Where guidance and negative conditioning do not come together the request runs without
    guidance; `notes` say so.
    """
    if not isinstance(conditioning, Branches):
        return conditioning, False
    if guidance is None:
        return conditioning.conditional, False
    return _interleave(join(conditioning.conditional, conditioning.unconditional)), True


def notes(guidance: Guidance | None, negative: bool, steps: Sequence[Step] | int) -> tuple[Note, ...]:
    """Return what has no effect: guidance without negative conditioning, that without guidance, an empty interval.

    Args:
        guidance: of the run.
        negative: whether there is negative conditioning.
        steps: the schedule of the run, or its length, at least 1.
    """
    if guidance is None:
        text = "the negative conditioning has no effect: the denoiser is not guided(...)"
        return (Note(text),) if negative else ()
    if not negative:
        text = f"guided(scale={guidance.scale}) has no negative conditioning and runs without guidance"
        return (Note(f"{text}; give a negative prompt ('' will do)"),)
    if _reaches(guidance, steps):
        return ()
    count = steps if isinstance(steps, int) else len(steps)
    lowest = f" at a noise level of at least {guidance.lowest_sigma}" if guidance.lowest_sigma > 0 else ""
    where = f"[{guidance.start}, {guidance.stop}) of the schedule{lowest}"
    text = f"guided(scale={guidance.scale}) has no effect: none of {count} steps is in {where}"
    return (Note(f"{text}; widen the interval, or take more steps"),)


def _reaches(guidance: Guidance, steps: Sequence[Step] | int) -> bool:
    """Whether any step is guided; where noise levels are not known, they are taken to be high enough."""
    if isinstance(steps, int):
        return any(guidance.start <= index / steps < guidance.stop for index in range(steps))
    unknown = any(step.sigma is None for step in steps)
    interval = attrs.evolve(guidance, lowest_sigma=0.0) if unknown else guidance
    return guidance.always or any(interval.active(step) for step in steps)


def _interleave(tree: Any) -> Any:
    """Reorder rows c0 c1 .. u0 u1 .. to c0 u0 c1 u1 .."""

    def shuffle(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)

    return map_samples(shuffle, tree)


def doubled(latents: torch.Tensor) -> torch.Tensor:
    """Give both branches of every sample its latents: (B, ...) to (2B, ...)."""
    return latents.repeat_interleave(2, dim=0)


def both(step: Step, batch: int) -> Step:
    """Say where each of 2B rows stands, branches named; `batch` is B."""

    def twice(value: Any) -> Any:
        return tuple(entry for entry in value for _ in range(2)) if isinstance(value, tuple) else value

    def stacked(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return tensor if tensor is None or tensor.ndim == 0 else doubled(tensor)

    return attrs.evolve(
        step,
        index=twice(step.index),
        count=twice(step.count),
        expert=twice(step.expert),
        timestep=stacked(step.timestep),
        sigma=stacked(step.sigma),
        sigma_next=stacked(step.sigma_next),
        branch=(CONDITIONAL, UNCONDITIONAL) * batch,
    )


def conditional(batch: int) -> torch.Tensor:
    """Return the indices of the conditional rows."""
    return torch.arange(0, 2 * batch, 2)


def combine(guidance: Guidance, prediction: torch.Tensor) -> torch.Tensor:
    """Combine the predictions of both branches (2B, ...) into the guided one (B, ...)."""
    positive, negative = prediction[0::2], prediction[1::2]
    guided = negative + guidance.scale * (positive - negative)
    if guidance.normalize == "token":
        return guided * (positive.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    if guidance.normalize == "sample":
        whole = tuple(range(1, guided.ndim))
        limit = guidance.cap * torch.linalg.vector_norm(positive, dim=whole, keepdim=True)
        norm = torch.linalg.vector_norm(guided, dim=whole, keepdim=True)
        return torch.where(norm > limit, guided * (limit / norm), guided)
    return guided
