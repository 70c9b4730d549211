"""Making batches on order: what every process of a group does at once, and rank 0's hand on it.

`generate` and `serve` have samples made through a `Hand`. In one process that calls the `Maker` of this process; of
several, each has a `Maker` that carries out the same orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pure.engine import denoising
from pure.engine.caching import Caching
from pure.engine.denoising import Denoising
from pure.engine.engine import Engine, Order, Recipe
from pure.engine.errors import EngineError
from pure.engine.lines import Line, make_lines
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.experts import mixes
from pure.loop import Observer
from pure.models import NotFiniteError
from pure.models.pipeline import AnyDenoiser

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Hand", "Maker", "make_hands", "take_orders"]

REMEMBERED = 16
"""Denoisers and recipes that are kept, so that an equal one of the next request compiles nothing again."""

ORDINARY = (ValueError, TypeError, NotFiniteError, EngineError)
"""Errors of samples: every process of a group meets them alike, and goes on."""


@attrs.frozen(kw_only=True, eq=False)
class Written:
    """A recipe on its way to another process, which has a denoiser of its own.

    Attributes:
        key: of the recipe; equal ones are made once.
        order: what it was made of, with `caching`.
        cached: whether it has its cache.
    """

    key: str
    order: Order
    caching: Caching
    cached: bool


class Maker:
    """Makes one batch at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run: Denoising | None = None
        self.denoisers: list[AnyDenoiser] = []
        self._recipes: dict[tuple[str, bool], Recipe] = {}

    def known(self, recipe: Recipe) -> Recipe:
        """Return the recipe with an equal denoiser that was used before, which may be compiled; else remember its."""
        for known in self.denoisers:
            if known == recipe.denoiser:
                return attrs.evolve(recipe, denoiser=known)
        self.denoisers = [*self.denoisers[1 - REMEMBERED :], recipe.denoiser]
        return recipe

    def read(self, recipe: Recipe | Written) -> Recipe:
        """Return a recipe that may come from another process."""
        if isinstance(recipe, Recipe):
            return self._forgetful(self.known(recipe))
        key = recipe.key, recipe.cached
        if key not in self._recipes:
            made = self.engine.recipe(recipe.order, recipe.caching)
            kept = [*self._recipes.items()][1 - REMEMBERED :]
            self._recipes = {**dict(kept), key: made if recipe.cached else made.uncached}
        return self._forgetful(self.known(self._recipes[key]))

    def _forgetful(self, recipe: Recipe) -> Recipe:
        """Return a recipe that has encoded no picture yet, where processes encode together: each as often as others."""
        if not self.engine.together:
            return recipe
        return attrs.evolve(recipe, request=attrs.evolve(recipe.request, memo={}))

    # ------------------------------------------------------------------ orders

    def start(self, recipe: Recipe | Written, samples: Sequence[Sample]) -> bool:
        """Begin a batch; return whether others can join it.

        Raises:
            ValueError: a prompt cannot be read, or the prompts cannot be in one batch.
        """
        self.run = None
        self.run = denoising.begin(self.engine, self.read(recipe), samples)
        return mixes(self.run.batch.denoiser)

    def admit(self, samples: Sequence[Sample]) -> None:
        """Let samples of the same recipe join.

        Raises:
            ValueError: see `start`; the batch is as it was.
        """
        run = self._current
        self.run = denoising.join(run, denoising.begin(self.engine, run.recipe, samples))

    def step(self) -> tuple[int, ...]:
        """Take one step; return the rows of the samples that took their last one."""
        self.run, _ = denoising.step(self._current)
        return tuple(self.run.batch.done)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop the samples of all other rows."""
        self.run = denoising.keep(self._current, rows) if rows else None

    def finish(self, row: int, share: int = 1) -> Result:
        """Decode one sample; see `denoising.result`.

        Raises:
            NotFiniteError: its latents or pixels are not finite.
        """
        return denoising.result(self.engine, self._current, row, share)

    def denoise(self, recipe: Recipe | Written, samples: Sequence[Sample], observe: Observer | None = None) -> None:
        """Take all steps of a batch.

        Raises:
            ValueError: see `start`.
        """
        self.run = None
        self.run = denoising.denoise(self.engine, self.read(recipe), samples, observe)

    def warm_up(self, recipe: Recipe | Written, prompt: str, count: int) -> None:
        """Take the first steps of a sample, and forget it."""
        denoising.warm_up(self.engine, self.read(recipe), prompt, count)

    @property
    def _current(self) -> Denoising:
        assert self.run is not None, "no batch was begun"
        return self.run


class Hand:
    """Has one group of processes make batches: this one, this one and others, or others only.

    Its methods are those of `Maker`, and raise what they raise.

    Attributes:
        lost: why the processes of the group do not work together any more; None as long as they do.
    """

    def __init__(self, maker: Maker, line: Line | None = None) -> None:
        self.maker, self._line = maker, line
        self.lost: Exception | None = None

    def start(self, key: str, recipe: Recipe, samples: Sequence[Sample]) -> bool:
        """See `Maker.start`; `key` tells recipes from each other."""
        return self._do("start", key, recipe, _bare(samples))

    def admit(self, samples: Sequence[Sample]) -> None:
        """See `Maker.admit`."""
        self._do("admit", None, _bare(samples))

    def step(self) -> tuple[int, ...]:
        """See `Maker.step`."""
        return self._do("step", None)

    def keep(self, rows: Sequence[int]) -> None:
        """See `Maker.keep`."""
        self._do("keep", None, tuple(rows))

    def finish(self, sample: Sample, row: int, share: int = 1) -> Result:
        """See `Maker.finish`; the result is that of `sample`."""
        return attrs.evolve(self._do("finish", None, row, share), sample=sample)

    def denoise(self, key: str, recipe: Recipe, samples: Sequence[Sample], observe: Observer | None = None) -> None:
        """See `Maker.denoise`; steps of other processes are not observed."""
        self._do("denoise", key, recipe, _bare(samples), observe=observe)

    def warm_up(self, key: str, recipe: Recipe, prompt: str, count: int) -> None:
        """See `Maker.warm_up`."""
        self._do("warm_up", key, recipe, prompt, count)

    @property
    def remote(self) -> bool:
        """Whether other processes do it all."""
        return self._line is not None and self._line.remote

    def dismiss(self) -> None:
        """Let the other processes of the group go."""
        if self._line is not None:
            self._line.tell(None)

    def _do(self, name: str, key: str | None, *args: Any, **local: Any) -> Any:
        if self._line is None:
            return getattr(self.maker, name)(*args, **local)
        try:
            self._line.tell((name, tuple(_written(key, each) for each in args)))
            if not self._line.remote:
                return getattr(self.maker, name)(*args, **local)
            value = self._line.listen()
        except ORDINARY:
            raise
        except Exception as error:
            self.lost = error
            raise
        if isinstance(value, Exception):
            raise value
        return value


def _bare(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return samples without what only rank 0 knows of them."""
    return tuple(Sample(prompt=sample.prompt, seed=sample.seed) for sample in samples)


def _written(key: str | None, value: Any) -> Any:
    if not isinstance(value, Recipe):
        return value
    cached = value.denoiser is not value.plain
    return Written(key=key or "", order=value.order, caching=value.caching, cached=cached)


def make_hands(engine: Engine, mesh: DeviceMesh | None) -> tuple[Hand, ...]:
    """Return rank 0's hands, one on each group of processes along the axis `dp`; its own group first.

    The other ranks call `take_orders` meanwhile.
    """
    maker = Maker(engine)
    return (Hand(maker),) if mesh is None else tuple(Hand(maker, line) for line in make_lines(mesh))


def take_orders(engine: Engine, mesh: DeviceMesh) -> None:
    """Carry out the orders of rank 0 until it lets this process go: what all ranks but 0 do."""
    maker, lines = Maker(engine), make_lines(mesh)
    line = lines[mesh.get_local_rank("dp")]
    while (order := line.hear()) is not None:
        name, args = order
        value: Any = None
        try:
            # Decoding is the work of one process, unless all share it.
            if name != "finish" or line.leading or engine.together:
                value = getattr(maker, name)(*args)
        except ORDINARY as error:
            value = error
        if line.leading:
            line.answer(value)
