"""What a law speaks of: one model, one transform, one batch, one number of steps; and ways to run it."""

import functools
import itertools
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar

import attrs
import torch

import pure
from pure import Branches, Denoiser, Experts, Inputs, Transform
from pure.composition import single_transforms
from pure.experts import denoisers_of, first_of, transformed
from pure.transforms import (
    attention,
    calibrated,
    compiled,
    dbcache,
    fora,
    guided,
    hermite,
    magcache,
    newton,
    scm,
    taylorseer,
)
from pure.tree import tensors_of

SOLVER = pure.FlowMatchEuler()
P = TypeVar("P")
Stepped = tuple[torch.Tensor, pure.States, pure.Info]
# Transformers compute a part of every step in fp32, so that numbers of size 1 are uncertain by 1e-7 and slopes over
# 2e-5 by 5e-3.
MIXED = (2e-5, 3e-2)
KNOWN = (attention, calibrated, compiled, dbcache, fora, guided, hermite, magcache, newton, scm, taylorseer)


@attrs.frozen(eq=False, kw_only=True)
class Model:
    """A denoiser with parameters, and the inputs that belong to seeds, one seed a sample.

    Attributes:
        name: what it is called in messages.
        denoiser: without a cache and without guidance.
        params: of it, under the names of the checkpoint; of experts a dict of such dicts.
        conditioning: returns what `prepare` takes, one row for each of the seeds.
        latents: returns starting noise (B, ...), one row for each of the seeds.
        solver: takes the steps.
        rounding: relative, what one rounding in another direction makes of a prediction; 0 for fp32.
        differences: width and largest relative error of the differences that derivatives are compared with, which
            are taken in float64; None where the model does not run in float64.
    """

    name: str
    denoiser: Denoiser | Experts
    params: Mapping[str, Any]
    conditioning: Callable[[tuple[int, ...]], Any]
    latents: Callable[[tuple[int, ...]], torch.Tensor]
    solver: pure.Solver[Any] = SOLVER
    rounding: float = 0.0
    differences: tuple[float, float] | None = MIXED

    def __repr__(self) -> str:
        return self.name

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints: not every parameter."""
        printer.text(self.name)

    @property
    def experts(self) -> int:
        """Number of experts; 1 where there are none."""
        return len(denoisers_of(self.denoiser))

    @property
    def first(self) -> Denoiser:
        """The denoiser, or the first of the experts."""
        return first_of(self.denoiser)


@attrs.frozen
class Entry:
    """One step of a run, with everything that went in and came out.

    Attributes:
        step: that was taken.
        carry: of the solver, before it.
        latents: before it.
        before: the state before it.
        prediction: of the denoiser.
        after: the state after it.
        info: what was computed and skipped.
    """

    step: pure.Step
    carry: Any
    latents: torch.Tensor
    before: Any
    prediction: torch.Tensor
    after: Any
    info: pure.Info


@attrs.frozen(kw_only=True, slots=False)
class Situation:
    """A run that a law can be tried on.

    Attributes:
        model: the denoiser with its inputs.
        transform: what is tried, `compose` of the parts.
        seeds: of the samples of the batch, each another.
        count: number of steps.
        seed: of choices that a law makes itself.
    """

    model: Model
    transform: Transform
    seeds: tuple[int, ...]
    count: int
    seed: int = 0

    @property
    def parts(self) -> tuple[Transform, ...]:
        """The single transforms of the recipe."""
        return single_transforms(self.transform)

    def part(self, kind: type[P]) -> P | None:
        """The transform of one kind, or None."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    @property
    def known(self) -> bool:
        """Whether the laws know all parts; of others they know only what holds for every transform."""
        return all(type(part) in KNOWN for part in self.parts)

    @property
    def guidance(self) -> guided | None:
        """The recipe's guidance, or None."""
        return self.part(guided)

    @property
    def dbcache(self) -> dbcache | None:
        """The recipe's DBCache, or None."""
        return self.part(dbcache)

    @property
    def scm(self) -> scm | None:
        """The recipe's mask, or None."""
        return self.part(scm)

    @property
    def fitting(self) -> fora | magcache | None:
        """What makes a static mask for any number of steps."""
        return self.part(fora) or self.part(magcache)

    @property
    def static(self) -> bool:
        """Whether a mask skips without asking the other rules."""
        return self.fitting is not None or (self.scm is not None and self.scm.policy == "static")

    @property
    def predictor(self) -> taylorseer | calibrated | newton | hermite | None:
        """The recipe's predictor, or None."""
        return next((found for kind in (taylorseer, calibrated, newton, hermite) if (found := self.part(kind))), None)

    @functools.cached_property
    def denoiser(self) -> Denoiser | Experts:
        """The denoiser with the recipe."""
        return self.transform(self.model.denoiser)

    @property
    def single(self) -> Denoiser:
        """The denoiser, where there are no experts."""
        assert isinstance(self.denoiser, Denoiser)
        return self.denoiser

    @functools.cached_property
    def plain(self) -> Denoiser | Experts:
        """The denoiser with guidance and the kernel of attention, if any are chosen, and without a cache."""
        if self.known:
            return pure.compose(*filter(None, (self.guidance, self.part(attention))))(self.model.denoiser)
        return transformed(self.denoiser, lambda one: attrs.evolve(one, plan=pure.Plan()))

    @property
    def solver(self) -> pure.Solver[object]:
        """The model's solver."""
        return self.model.solver

    def slack(self, tolerance: float) -> float:
        """A tolerance for numbers of fp32, or what the narrower numbers of the model need."""
        return max(tolerance, self.model.rounding)

    @property
    def rows(self) -> int:
        """Rows of the state: samples, times branches."""
        return len(self.seeds) * (2 if self.guidance else 1)

    def random(self) -> random.Random:
        """Return a generator of choices that a law makes itself."""
        return random.Random(self.seed)

    def latents(self, seeds: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return the starting noise (B, ...), of one row for each seed."""
        return self.model.latents(self.seeds if seeds is None else seeds)

    def conditioning(self, seeds: tuple[int, ...] | None = None) -> object:
        """Return the conditioning of the samples, of both branches under guidance."""
        seeds = self.seeds if seeds is None else seeds
        positive = self.model.conditioning(seeds)
        if not self.guidance:
            return positive
        return Branches(conditional=positive, unconditional=self.model.conditioning(tuple(500 + s for s in seeds)))

    def schedule(self, count: int | None = None) -> tuple[pure.Step, ...]:
        """Return the steps; experts take equal shares of them, in their order."""
        steps = self.solver.schedule(self.count if count is None else count, tokens=16)
        if not isinstance(self.model.denoiser, Experts):
            return steps
        names = list(self.model.denoiser.denoisers)
        sizes = [len(steps) // len(names) + (place < len(steps) % len(names)) for place in range(len(names))]
        ends = list(itertools.accumulate(sizes))
        return tuple(
            attrs.evolve(step, expert=name, index=index, count=size)
            for name, size, end in zip(names, sizes, ends, strict=True)
            for index, step in enumerate(steps[end - size : end])
        )

    def start(self, denoiser: Any = None, seeds: tuple[int, ...] | None = None) -> pure.States:
        """Return the state before the first step."""
        denoiser = self.denoiser if denoiser is None else denoiser
        steps = self.schedule() if isinstance(denoiser, Experts) else self.count
        return denoiser.init(self.model.params, self.conditioning(seeds), self.latents(seeds), steps)

    def apply(self, state: Any, latents: torch.Tensor, step: pure.Step, denoiser: Any = None) -> Stepped:
        """Take one step."""
        denoiser = self.denoiser if denoiser is None else denoiser
        return denoiser.apply(self.model.params, state, Inputs(latents, step))

    def trace(self, denoiser: Any = None, seeds: tuple[int, ...] | None = None, steps: Any = None) -> list[Entry]:
        """Run all steps and keep everything."""
        state, carry, entries = self.start(denoiser, seeds), self.carry(seeds), []
        for step in self.schedule() if steps is None else steps:
            latents = self.solver.latents(carry)
            prediction, new, info = self.apply(state, latents, step, denoiser)
            entries.append(Entry(step, carry, latents, state, prediction, new, info))
            state, carry = new, self.solver.step(carry, prediction, step)
        return entries

    def carry(self, seeds: tuple[int, ...] | None = None) -> object:
        """Return what the solver begins with."""
        return self.solver.init(self.latents(seeds))

    def unroll(self, state: Any, carry: Any, steps: Any, denoiser: Any = None) -> Generator[pure.Frame, None, None]:
        """Run steps in the loop of the library."""
        return pure.unroll(denoiser or self.denoiser, self.model.params, state, carry, steps, self.solver)


def tensors(tree: Any) -> dict[str, torch.Tensor]:
    """The tensors of a tree by their paths; of quantised ones the parts."""
    return {name: part for path, leaf in tensors_of(tree).items() for name, part in _parts(path, leaf)}


def _parts(path: str, leaf: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    flatten = getattr(leaf, "__tensor_flatten__", None)
    if flatten is None:
        yield path, leaf
        return
    for name in flatten()[0]:
        part = getattr(leaf, name)
        # Nothing compares numbers of float8.
        yield f"{path}.{name}", part.view(torch.uint8) if part.dtype.itemsize == 1 else part


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same tensors, bit for bit."""
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[path], second[path]) for path in first)


def caches(state: Any) -> list[pure.Cache]:
    """The caches of a state, one per expert."""
    return [each.cache for each in state.values()] if isinstance(state, dict) else [state.cache]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Whether tensors agree relative to their size; NaN equals NaN."""
    scale = float(b.abs().nan_to_num().max()) + 1.0 if b.numel() else 1.0
    return torch.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True)
