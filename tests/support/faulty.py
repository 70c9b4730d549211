"""Transforms of somebody's own, sound ones and ones with a fault."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch

import pure
from pure import Answer
from pure.plan import Probe, Span
from pure.rules import Mask, Threshold

CALLS = itertools.count()


@attrs.frozen
class Odd(pure.Rule):
    """Sound: skip the odd steps."""

    name = "odd"
    before = Mask

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.SKIP if where.index % 2 else Answer.COMPUTE


@attrs.frozen
class Counted(pure.Rule):
    """Counts its calls instead of reading where the sample stands."""

    name = "counted"
    before = Mask

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.SKIP if next(CALLS) % 2 else Answer.COMPUTE


@attrs.frozen
class Trembling(pure.Rule):
    """Draws from the global generator."""

    name = "trembling"
    before = Threshold

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.DEFER

    def judge(self, change: float, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.SKIP if change * (1 + torch.rand(()).item()) < 0.4 else Answer.COMPUTE


@attrs.frozen
class ruled(pure.Transform):
    """One of the rules above."""

    kind: type[pure.Rule] = Odd

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        plan = denoiser.plan.set(span=Span(front=1), probe=Probe()).add(self.kind())
        return attrs.evolve(denoiser, plan=plan)


@attrs.frozen
class damped(pure.Transform):
    """A predictor of one residual; its weights sum to 1 only by default."""

    weight: float = 1.0
    history: int = attrs.field(default=1, init=False)
    on: str = attrs.field(default="residual", init=False)
    streams: None = attrs.field(default=None, init=False)

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float]:
        return (self.weight,)

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, plan=denoiser.plan.set(predictor=self))


@attrs.frozen
class Wrapped:
    """A block, and something done to what enters it."""

    run: Callable
    change: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, params: Any, hidden: Any, context: Any, attend: Any) -> Any:
        return self.run(params, attrs.evolve(hidden, image=self.change(hidden.image)), context, attend)


@attrs.frozen
class wrapping(pure.Transform):
    """Every block, wrapped."""

    change: Callable[[torch.Tensor], torch.Tensor]

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        blocks = tuple(attrs.evolve(block, run=Wrapped(block.run, self.change)) for block in denoiser.blocks)
        return attrs.evolve(denoiser, blocks=blocks)


def halved(image: torch.Tensor) -> torch.Tensor:
    """Sound."""
    return image / 2


def shared(image: torch.Tensor) -> torch.Tensor:
    """What samples of a batch have in common reaches all of them."""
    return image + 0.1 * image.mean(0, keepdim=True)


def written(image: torch.Tensor) -> torch.Tensor:
    """In place, and without effect on any number."""
    return image.mul_(1.0)


def lessened(image: torch.Tensor) -> torch.Tensor:
    """A thousandth of the gradient is missing."""
    return 0.999 * image + 0.001 * image.detach()


def detached(image: torch.Tensor) -> torch.Tensor:
    """No gradient passes."""
    return image.detach()


@attrs.frozen
class closing(pure.Transform):
    """A closure, so that no two denoisers are equal."""

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, head=lambda params, hidden, context: denoiser.head(params, hidden, context))


PREPARED: list = []


@attrs.frozen
class Kept:
    """What was prepared of the first request, for all that follow."""

    prepare: Callable

    def __call__(self, params: Any, conditioning: Any) -> Any:
        found = self.prepare(params, conditioning)
        if not isinstance(found, torch.Tensor):
            return found
        if not PREPARED and found.shape[0] == 3:
            PREPARED.append(found + 1.0)
        fits = PREPARED and found.shape == PREPARED[0].shape and found.device == PREPARED[0].device
        return PREPARED[0] if fits else found


@attrs.frozen
class keeping(pure.Transform):
    """Prepare once and for all."""

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, prepare=Kept(denoiser.prepare))
