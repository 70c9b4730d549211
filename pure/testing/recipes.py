"""What the laws try: transforms of every kind that fit a model and a number of steps, drawn."""

import functools
import itertools
from collections.abc import Callable

from hypothesis import strategies as st

import pure
from pure import Transform
from pure.testing.situation import Model
from pure.transforms import (
    adams,
    attention,
    budget,
    calibrated,
    compiled,
    dbcache,
    dbprune,
    dmd,
    easycache,
    foca,
    fora,
    guided,
    hermite,
    magcache,
    newton,
    scm,
    seacache,
    speca,
    taylorseer,
    teacache,
)

Strategy = st.SearchStrategy[Transform]
Recipe = Callable[[Model, int], Strategy]

# hypothesis begins with the first of every list: begin where something is skipped.
KERNELS = ("flex", "_native_math", "_native_flash")  # of those that run on a CPU; all others run native
THRESHOLDS = st.sampled_from((0.5, 0.05, 0.1, 0.2, 0.3, 0.9))


def _dbcache(model: Model, count: int, **drawn: st.SearchStrategy) -> Strategy:
    size = len(model.first.blocks)
    spans = st.sampled_from([(f, b) for f, b in itertools.product(range(1, size + 1), range(size)) if f + b <= size])
    drawn = {"threshold": THRESHOLDS, "warmup": st.integers(0, 2), **drawn}
    return spans.flatmap(lambda span: st.builds(functools.partial(dbcache, front=span[0], back=span[1]), **drawn))


def plain(model: Model, count: int) -> Strategy:
    """Nothing."""
    return st.just(pure.identity)


def basic(model: Model, count: int) -> Strategy:
    """DBCache with any span and threshold."""
    return _dbcache(model, count)


def warmup(model: Model, count: int) -> Strategy:
    """DBCache that warms up, at every n-th step or all."""
    return _dbcache(model, count, warmup=st.integers(1, count), warmup_interval=st.integers(1, 3))


def limits(model: Model, count: int) -> Strategy:
    """DBCache with limits of skipped steps."""
    return _dbcache(
        model,
        count,
        threshold=st.sampled_from((0.5, 0.9, 1.0)),
        max_cached=st.none() | st.integers(1, 4),
        max_continuous=st.none() | st.integers(1, 3),
    )


def accumulated(model: Model, count: int) -> Strategy:
    """DBCache with a limit of accepted changes."""
    numbers = {
        "threshold": st.sampled_from((0.5, 0.9, 1.0)),
        "max_accumulated": st.sampled_from((0.1, 0.4, 1.0)),
        "max_continuous": st.none(),
    }
    return _dbcache(model, count, **numbers)


def probe(model: Model, count: int) -> Strategy:
    """DBCache that measures a part of the tokens and features."""
    return _dbcache(model, count, importance=st.sampled_from((0.0, 0.1, 0.3)), downsample=st.integers(1, 3))


def always(model: Model, count: int) -> Strategy:
    """Skip without measuring; no block needs to run for that."""
    backs = st.integers(0, len(model.first.blocks))
    return st.builds(functools.partial(dbcache, front=0, threshold=1.0), back=backs, warmup=st.integers(0, 2))


def masks(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Masks of `count` entries, the first of which computes."""
    return st.lists(st.integers(0, 1), min_size=count - 1, max_size=count - 1).map(lambda rest: (1, *rest))


def static(model: Model, count: int) -> Strategy:
    """A static mask."""
    return st.builds(functools.partial(scm, policy="static"), mask=masks(count))


def every(model: Model, count: int) -> Strategy:
    """FORA."""
    return st.builds(fora, interval=st.integers(2, 4), warmup=st.integers(0, 2))


POLYNOMIAL = (2.0, 0.5, 0.01)  # of TeaCache
# Sizes of no round ratio, whose sums are far from the thresholds below.
RATIOS = (1.0, 1.037, 0.961, 0.983, 0.919, 1.013, 0.941)


def by_sizes(model: Model, count: int) -> Strategy:
    """MagCache, alone and with the span of DBCache."""
    numbers = {"threshold": st.sampled_from((0.0501, 0.1501, 0.5003)), "max_skip": st.integers(1, 3)}
    made = st.builds(functools.partial(magcache, ratios=RATIOS), retention=st.sampled_from((0.0, 0.3)), **numbers)
    return made | st.builds(pure.compose, made, _dbcache(model, count))


def every_over_dbcache(model: Model, count: int) -> Strategy:
    """FORA with the span of DBCache and TaylorSeer."""
    return st.builds(pure.compose, every(model, count), _dbcache(model, count), taylor_only())


def static_over_dbcache(model: Model, count: int) -> Strategy:
    """A static mask with the span of DBCache."""
    return st.builds(pure.compose, _dbcache(model, count), static(model, count))


def dynamic(model: Model, count: int) -> Strategy:
    """A dynamic mask over DBCache."""
    return st.builds(pure.compose, st.builds(scm, mask=masks(count)), _dbcache(model, count))


def preset(model: Model, count: int) -> Strategy:
    """A preset mask over DBCache."""
    names = st.sampled_from(("slow", "medium", "fast", "ultra"))
    made = st.builds(scm, preset=names, policy=st.sampled_from(("static", "dynamic")))
    return st.builds(pure.compose, _dbcache(model, count), made)


def bins(model: Model, count: int) -> Strategy:
    """A mask of bins over DBCache."""
    lengths = st.lists(st.integers(1, 3), min_size=1, max_size=3)
    made = st.builds(scm, compute_bins=lengths, cache_bins=lengths, policy=st.sampled_from(("static", "dynamic")))
    return st.builds(pure.compose, _dbcache(model, count), made)


def taylor(on: str, least: int = 0) -> Recipe:
    """Return the recipe of TaylorSeer over a cache, for what `on` names."""

    def recipe(model: Model, count: int) -> Strategy:
        made = st.builds(
            functools.partial(taylorseer, on=on),
            order=st.integers(least, 3),
            streams=st.sampled_from((None, "all", ("image",))),
        )
        skipping = _dbcache(model, count, threshold=st.sampled_from((0.3, 0.9, 1.0)))
        return st.builds(pure.compose, skipping | static(model, count), made)

    return recipe


def polynomial(model: Model, count: int) -> Strategy:
    """Newton's polynomial over a cache."""
    streams = st.sampled_from((None, "all"))
    made = st.builds(newton, order=st.integers(0, 3), on=st.sampled_from(("residual", "hidden")), streams=streams)
    return st.builds(pure.compose, _dbcache(model, count, threshold=st.just(0.9)) | static(model, count), made)


def scaled(model: Model, count: int) -> Strategy:
    """Hermite polynomials over a cache."""
    choices = {"on": st.sampled_from(("residual", "hidden")), "streams": st.sampled_from((None, "all"))}
    made = st.builds(hermite, order=st.integers(0, 3), scale=st.sampled_from((0.5, 0.75, 1.0)), **choices)
    return st.builds(pure.compose, _dbcache(model, count, threshold=st.just(0.9)) | static(model, count), made)


def several_slopes(model: Model, count: int) -> Strategy:
    """The method of Adams, or FoCa, over a cache."""
    choices = {"on": st.sampled_from(("residual", "hidden")), "streams": st.sampled_from((None, "all"))}
    made = st.builds(adams, order=st.integers(0, 3), **choices) | st.builds(foca, **choices)
    return st.builds(pure.compose, _dbcache(model, count, threshold=st.just(0.9)) | static(model, count), made)


def modes(model: Model, count: int) -> Strategy:
    """Dynamic mode decomposition over a mask that computes its first steps, or over a cache."""
    choices = {"on": st.sampled_from(("residual", "hidden")), "streams": st.sampled_from((None, "all"))}
    made = st.builds(
        dmd, history=st.integers(4, 6), rank=st.integers(0, 2), ridge=st.sampled_from((1e-8, 1e-3)), **choices
    )
    late = st.just(scm(mask=((1, 1, 1, 1, 0, 0) * count)[:count], policy="static"))
    return st.builds(pure.compose, late | _dbcache(model, count, warmup=st.just(4), threshold=st.just(0.9)), made)


def tables(mask: tuple[int, ...]) -> st.SearchStrategy[tuple]:
    """Rows for some skipped steps of a mask, of 1 to 3 computed steps each."""
    computed = [[j for j in range(i - 1, -1, -1) if mask[j]][:3] for i in range(len(mask))]
    skips = [(i, past) for i, past in enumerate(computed) if not mask[i] and past]
    rest = st.lists(st.floats(-1, 1).map(lambda w: round(w, 3)), min_size=2, max_size=2)

    def row(skip: tuple[int, list[int]]) -> st.SearchStrategy[tuple]:
        target, past = skip
        lengths = st.integers(1, len(past))
        return st.builds(lambda n, w: (past[:n], target, (1 - sum(w[: n - 1]), *w[: n - 1])), lengths, rest)

    return st.tuples(*map(row, skips)).flatmap(lambda rows: st.just(rows) | st.just(rows[::2]))


def from_table(model: Model, count: int) -> Strategy:
    """A mask with weights of its own; or a cache that meets some of their histories."""

    def of(mask: tuple[int, ...]) -> Strategy:
        choices = {"on": st.sampled_from(("residual", "hidden")), "streams": st.sampled_from((None, "all"))}
        made = st.builds(calibrated, table=tables(mask), order=st.integers(0, 2), **choices)
        skipping = st.just(scm(mask=mask, policy="static")) | _dbcache(model, count, threshold=st.just(0.9))
        return st.builds(pure.compose, skipping, made)

    return masks(count).flatmap(of)


def guide(interval: bool) -> Strategy:
    """Guidance, of all steps or of some."""
    scales = st.sampled_from((0.0, 1.0, 2.5))
    if not interval:
        return st.builds(guided, scale=scales)
    ends = st.sampled_from(((0.0, 0.5), (0.3, 0.8), (0.5, 1.0)))
    return st.builds(lambda scale, ends: guided(scale=scale, start=ends[0], stop=ends[1]), scales, ends)


def guided_plain(model: Model, count: int) -> Strategy:
    """Guidance alone."""
    return guide(interval=True) | guide(interval=False)


def guided_dbcache(model: Model, count: int) -> Strategy:
    """Guidance of all steps over DBCache."""
    follow = st.sampled_from(("own", "conditional"))
    return st.builds(pure.compose, guide(interval=False), _dbcache(model, count, follow=follow))


def guided_interval(model: Model, count: int) -> Strategy:
    """Guidance of some steps over DBCache and TaylorSeer."""
    return st.builds(pure.compose, _dbcache(model, count), guide(interval=True), taylor_only())


def guided_options(model: Model, count: int) -> Strategy:
    """Norms that are kept, and an end at a noise level."""
    keep = st.sampled_from((("token", 1.0), ("sample", 1.0), ("sample", 0.5), ("none", 1.0)))
    ends = st.sampled_from(((0.0, 1.0, 0.4), (0.3, 1.0, 0.2), (0.0, 0.8, 0.0), (0.0, 1.0, 0.0)))

    def of(keep, ends):
        (normalize, cap), (start, stop, lowest) = keep, ends
        return guided(scale=2.5, start=start, stop=stop, lowest_sigma=lowest, normalize=normalize, cap=cap)

    return st.builds(pure.compose, st.builds(of, keep, ends), _dbcache(model, count))


def modulated_input(model: Model, count: int) -> Strategy:
    """TeaCache, for families that say what their first block reads."""
    thresholds, masked = st.sampled_from((0.2, 0.05, 0.5)), st.builds(scm, mask=masks(count))
    made = st.builds(functools.partial(teacache, polynomial=POLYNOMIAL), threshold=thresholds)
    return made | st.builds(pure.compose, made, taylor_only(), masked)


def foreseen(model: Model, count: int) -> Strategy:
    """EasyCache, alone and with a predictor."""
    made = st.builds(easycache, threshold=st.sampled_from((0.5, 0.2, 1.0)), warmup=st.integers(0, 3))
    return made | st.builds(pure.compose, made, taylor_only())


def spent(model: Model, count: int) -> Strategy:
    """A budget, alone and with a mask."""
    limits = st.sampled_from((0.5, 0.1, 0.0, 0.9))
    made = st.builds(budget, early=limits, late=st.sampled_from((0.4, 0.9)), warmup=st.integers(0, 2))
    return made | st.builds(pure.compose, made, dynamic_mask(count))


def verified(model: Model, count: int) -> Strategy:
    """SpeCa, alone, with a predictor and with a mask."""
    limits = {"threshold": st.sampled_from((0.05, 0.5, 0.0)), "decay": st.sampled_from((0.3, 1.0))}
    drafts = {"least": st.integers(0, 2), "most": st.integers(1, 4), "floor": st.sampled_from((0.0, 0.1))}
    made = st.builds(speca, warmup=st.integers(0, 3), **limits, **drafts)
    return made | st.builds(pure.compose, made, taylor_only(), dynamic_mask(count))


def pruned(model: Model, count: int) -> Strategy:
    """DBPrune, alone, with a predictor and under guidance."""
    size = len(model.first.blocks)
    numbers = {"threshold": st.sampled_from((0.2, 0.05, 0.9, 1.0)), "warmup": st.integers(0, 2)}
    limits = {"max_cached": st.none() | st.integers(1, 4), "max_continuous": st.none() | st.integers(1, 3)}
    kept = st.sampled_from(((), (size - 1,)))
    made = st.builds(
        dbprune, front=st.integers(0, size - 2), keep=kept, downsample=st.integers(1, 2), **numbers, **limits
    )
    return made | st.builds(pure.compose, made, taylor_only()) | st.builds(pure.compose, made, guide(interval=True))


def filtered(model: Model, count: int) -> Strategy:
    """SeaCache, for models whose latents are a grid."""
    numbers = {"threshold": st.sampled_from((0.9, 0.3, 2.0)), "power": st.sampled_from((3.0, 1.0))}
    made = st.builds(seacache, max_continuous=st.none() | st.integers(1, 2), ending=st.integers(0, 2), **numbers)
    return made | st.builds(pure.compose, made, st.just(newton(order=1)))


def compiled_steps(model: Model, count: int) -> Strategy:
    """Pieces that dynamo traced; what a backend makes of them is its own affair."""
    regional = st.booleans()
    made = st.builds(functools.partial(compiled, backend="eager"), regional=regional)
    return st.builds(pure.compose, _dbcache(model, count), taylor_only(), made)


def taylor_only() -> Strategy:
    """TaylorSeer of any order."""
    return st.builds(taylorseer, order=st.integers(0, 3), on=st.sampled_from(("residual", "hidden")))


def everything(model: Model, count: int) -> Strategy:
    """Guidance, DBCache with all its settings, a mask and TaylorSeer."""
    numbers = {
        "warmup_interval": st.integers(1, 2),
        "max_cached": st.none() | st.integers(2, 5),
        "max_accumulated": st.none() | st.sampled_from((0.5, 2.0)),
        "downsample": st.integers(1, 2),
        "follow": st.sampled_from(("own", "conditional")),
    }
    skipping = _dbcache(model, count, **numbers)
    return st.builds(pure.compose, guide(interval=True), skipping, dynamic_mask(count), taylor_only())


def attending(name: str) -> Recipe:
    """Everything, and a kernel of attention."""

    def recipe(model: Model, count: int) -> Strategy:
        return st.builds(pure.compose, everything(model, count), st.just(attention(name)))

    return recipe


def dynamic_mask(count: int) -> Strategy:
    """A dynamic mask."""
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
    "fora": every,
    "fora-dbcache": every_over_dbcache,
    "magcache": by_sizes,
    "scm-static-dbcache": static_over_dbcache,
    "scm-dynamic": dynamic,
    "scm-preset": preset,
    "scm-bins": bins,
    "taylorseer-residual": taylor("residual"),
    "taylorseer-hidden": taylor("hidden"),
    "newton": polynomial,
    "hermite": scaled,
    "adams-foca": several_slopes,
    "dmd": modes,
    "calibrated": from_table,
    "guided": guided_plain,
    "guided-dbcache": guided_dbcache,
    "guided-interval": guided_interval,
    "guided-options": guided_options,
    "teacache": modulated_input,
    "seacache": filtered,
    "easycache": foreseen,
    "budget": spent,
    "speca": verified,
    "dbprune": pruned,
    "compiled": compiled_steps,
    "everything": everything,
    **{f"attention-{name}": attending(name) for name in KERNELS},
}
