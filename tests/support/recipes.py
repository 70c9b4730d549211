"""What hypothesis draws: transforms of every kind, that fit a model and a number of steps."""

import functools
import itertools
from collections.abc import Callable

from hypothesis import strategies as st

import pure
from pure import Transform
from pure.transforms import dbcache, guided, scm, taylorseer
from tests.support.situation import Model

Strategy = st.SearchStrategy[Transform]
Recipe = Callable[[Model, int], Strategy]

# hypothesis begins with the first of every list: begin where something is skipped.
THRESHOLDS = st.sampled_from((0.5, 0.05, 0.1, 0.2, 0.3, 0.9))


def _dbcache(model: Model, count: int, **drawn: st.SearchStrategy) -> Strategy:
    size = len(model.first.blocks)
    spans = st.sampled_from([(f, b) for f, b in itertools.product(range(1, size + 1), range(size)) if f + b <= size])
    drawn = {"threshold": THRESHOLDS, "warmup": st.integers(0, 2), **drawn}
    return spans.flatmap(lambda span: st.builds(functools.partial(dbcache, front=span[0], back=span[1]), **drawn))


def plain(model: Model, count: int) -> Strategy:
    return st.just(pure.identity)


def basic(model: Model, count: int) -> Strategy:
    return _dbcache(model, count)


def warmup(model: Model, count: int) -> Strategy:
    return _dbcache(model, count, warmup=st.integers(1, count), warmup_interval=st.integers(1, 3))


def limits(model: Model, count: int) -> Strategy:
    return _dbcache(
        model,
        count,
        threshold=st.sampled_from((0.5, 0.9, 1.0)),
        max_cached=st.none() | st.integers(1, 4),
        max_continuous=st.none() | st.integers(1, 3),
    )


def accumulated(model: Model, count: int) -> Strategy:
    numbers = {
        "threshold": st.sampled_from((0.5, 0.9, 1.0)),
        "max_accumulated": st.sampled_from((0.1, 0.4, 1.0)),
        "max_continuous": st.none(),
    }
    return _dbcache(model, count, **numbers)


def probe(model: Model, count: int) -> Strategy:
    return _dbcache(model, count, importance=st.sampled_from((0.0, 0.1, 0.3)), downsample=st.integers(1, 3))


def always(model: Model, count: int) -> Strategy:
    """Skip without measuring; no block needs to run for that."""
    backs = st.integers(0, len(model.first.blocks))
    return st.builds(functools.partial(dbcache, front=0, threshold=1.0), back=backs, warmup=st.integers(0, 2))


def masks(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 1), min_size=count - 1, max_size=count - 1).map(lambda rest: (1, *rest))


def static(model: Model, count: int) -> Strategy:
    return st.builds(functools.partial(scm, policy="static"), mask=masks(count))


def static_over_dbcache(model: Model, count: int) -> Strategy:
    return st.builds(pure.compose, _dbcache(model, count), static(model, count))


def dynamic(model: Model, count: int) -> Strategy:
    return st.builds(pure.compose, st.builds(scm, mask=masks(count)), _dbcache(model, count))


def preset(model: Model, count: int) -> Strategy:
    names = st.sampled_from(("slow", "medium", "fast", "ultra"))
    made = st.builds(scm, preset=names, policy=st.sampled_from(("static", "dynamic")))
    return st.builds(pure.compose, _dbcache(model, count), made)


def bins(model: Model, count: int) -> Strategy:
    lengths = st.lists(st.integers(1, 3), min_size=1, max_size=3)
    made = st.builds(scm, compute_bins=lengths, cache_bins=lengths, policy=st.sampled_from(("static", "dynamic")))
    return st.builds(pure.compose, _dbcache(model, count), made)


def taylor(on: str, least: int = 0) -> Recipe:
    def recipe(model: Model, count: int) -> Strategy:
        made = st.builds(
            functools.partial(taylorseer, on=on),
            order=st.integers(least, 3),
            streams=st.sampled_from((None, "all", ("image",))),
        )
        skipping = _dbcache(model, count, threshold=st.sampled_from((0.3, 0.9, 1.0)))
        return st.builds(pure.compose, skipping | static(model, count), made)

    return recipe


def guide(interval: bool) -> Strategy:
    scales = st.sampled_from((0.0, 1.0, 2.5))
    if not interval:
        return st.builds(guided, scale=scales)
    ends = st.sampled_from(((0.0, 0.5), (0.3, 0.8), (0.5, 1.0)))
    return st.builds(lambda scale, ends: guided(scale=scale, start=ends[0], stop=ends[1]), scales, ends)


def guided_plain(model: Model, count: int) -> Strategy:
    return guide(interval=True) | guide(interval=False)


def guided_dbcache(model: Model, count: int) -> Strategy:
    follow = st.sampled_from(("own", "conditional"))
    return st.builds(pure.compose, guide(interval=False), _dbcache(model, count, follow=follow))


def guided_interval(model: Model, count: int) -> Strategy:
    return st.builds(pure.compose, _dbcache(model, count), guide(interval=True), taylor_only())


def taylor_only() -> Strategy:
    return st.builds(taylorseer, order=st.integers(0, 3), on=st.sampled_from(("residual", "hidden")))


def everything(model: Model, count: int) -> Strategy:
    numbers = {
        "warmup_interval": st.integers(1, 2),
        "max_cached": st.none() | st.integers(2, 5),
        "max_accumulated": st.none() | st.sampled_from((0.5, 2.0)),
        "downsample": st.integers(1, 2),
        "follow": st.sampled_from(("own", "conditional")),
    }
    skipping = _dbcache(model, count, **numbers)
    return st.builds(pure.compose, guide(interval=True), skipping, dynamic_mask(count), taylor_only())


def dynamic_mask(count: int) -> Strategy:
    return st.builds(scm, mask=masks(count))


RECIPES: dict[str, Recipe] = {
    "plain": plain,
    "dbcache": basic,
    "dbcache-warmup": warmup,
    "dbcache-limits": limits,
    "dbcache-accumulated": accumulated,
    "dbcache-probe": probe,
    "dbcache-always": always,
    "scm-static": static,
    "scm-static-dbcache": static_over_dbcache,
    "scm-dynamic": dynamic,
    "scm-preset": preset,
    "scm-bins": bins,
    "taylorseer-residual": taylor("residual"),
    "taylorseer-hidden": taylor("hidden"),
    "guided": guided_plain,
    "guided-dbcache": guided_dbcache,
    "guided-interval": guided_interval,
    "everything": everything,
}
