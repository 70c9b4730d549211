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


def composed(*recipes: Recipe) -> Recipe:
    """Return the recipe of several ones composed, in their order."""

    def recipe(model: Model, count: int) -> Strategy:
        return st.builds(pure.compose, *(each(model, count) for each in recipes))

    return recipe


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


def dynamic(model: Model, count: int) -> Strategy:
    """A dynamic mask."""
    return st.builds(scm, mask=masks(count))


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


ON, ALL_OR_SOME = st.sampled_from(("residual", "hidden")), st.sampled_from((None, "all", ("image",)))


def predicted(kind: Callable[..., Transform], **drawn: st.SearchStrategy) -> Recipe:
    """Return the recipe of a predictor of any order over a cache or a mask."""

    def recipe(model: Model, count: int) -> Strategy:
        skipping = _dbcache(model, count, threshold=st.sampled_from((0.9, 0.3, 1.0))) | static(model, count)
        made = st.builds(kind, **{"order": st.integers(0, 3), "on": ON, "streams": ALL_OR_SOME, **drawn})
        return st.builds(pure.compose, skipping, made)

    return recipe


def several_slopes(model: Model, count: int) -> Strategy:
    """The method of Adams, or FoCa, over a cache."""
    choices = {"on": st.sampled_from(("residual", "hidden")), "streams": st.sampled_from((None, "all"))}
    made = st.builds(adams, order=st.integers(0, 3), **choices) | st.builds(foca, **choices)
    return st.builds(pure.compose, _dbcache(model, count, threshold=st.just(0.9)) | static(model, count), made)


def modes(model: Model, count: int) -> Strategy:
    """Dynamic mode decomposition over a mask that computes its first steps, or over a cache."""
    choices = {"on": st.sampled_from(("residual", "hidden")), "streams": st.sampled_from((None, "all"))}
    made = st.builds(
        dmd, history=st.integers(4, 6), rank=st.integers(0, 2), ridge=st.sampled_from((1e-8, 1e-6)), **choices
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
        made = st.builds(calibrated, table=tables(mask), order=st.integers(0, 2), on=ON, streams=ALL_OR_SOME)
        skipping = st.just(scm(mask=mask, policy="static")) | _dbcache(model, count, threshold=st.just(0.9))
        return st.builds(pure.compose, skipping, made)

    return masks(count).flatmap(of)


SCALES = st.sampled_from((0.0, 1.0, 2.5))


def guide(model: Model, count: int) -> Strategy:
    """Guidance of all steps."""
    return st.builds(guided, scale=SCALES)


def guide_some(model: Model, count: int) -> Strategy:
    """Guidance of some steps."""
    ends = st.sampled_from(((0.0, 0.5), (0.3, 0.8), (0.5, 1.0)))
    return st.builds(lambda scale, ends: guided(scale=scale, start=ends[0], stop=ends[1]), SCALES, ends)


def guided_plain(model: Model, count: int) -> Strategy:
    """Guidance alone."""
    return guide_some(model, count) | guide(model, count)


def guided_dbcache(model: Model, count: int) -> Strategy:
    """Guidance of all steps over DBCache."""
    follow = st.sampled_from(("own", "conditional"))
    return st.builds(pure.compose, guide(model, count), _dbcache(model, count, follow=follow))


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
    thresholds = st.sampled_from((0.2, 0.05, 0.5))
    made = st.builds(functools.partial(teacache, polynomial=POLYNOMIAL), threshold=thresholds)
    return made | st.builds(pure.compose, made, taylor(model, count), dynamic(model, count))


def foreseen(model: Model, count: int) -> Strategy:
    """EasyCache, alone and with a predictor."""
    made = st.builds(easycache, threshold=st.sampled_from((0.5, 0.2, 1.0)), warmup=st.integers(0, 3))
    return made | st.builds(pure.compose, made, taylor(model, count))


def spent(model: Model, count: int) -> Strategy:
    """A budget, alone and with a mask."""
    limits = st.sampled_from((0.5, 0.1, 0.0, 0.9))
    made = st.builds(budget, early=limits, late=st.sampled_from((0.4, 0.9)), warmup=st.integers(0, 2))
    return made | st.builds(pure.compose, made, dynamic(model, count))


def verified(model: Model, count: int) -> Strategy:
    """SpeCa, alone, with a predictor and with a mask."""
    limits = {"threshold": st.sampled_from((0.05, 0.5, 0.0)), "decay": st.sampled_from((0.3, 1.0))}
    drafts = {"least": st.integers(0, 2), "most": st.integers(1, 4), "floor": st.sampled_from((0.0, 0.1))}
    made = st.builds(speca, warmup=st.integers(0, 3), **limits, **drafts)
    return made | st.builds(pure.compose, made, taylor(model, count), dynamic(model, count))


def pruned(model: Model, count: int) -> Strategy:
    """DBPrune, alone, with a predictor and under guidance."""
    size = len(model.first.blocks)
    numbers = {"threshold": st.sampled_from((0.2, 0.05, 0.9, 1.0)), "warmup": st.integers(0, 2)}
    limits = {"max_cached": st.none() | st.integers(1, 4), "max_continuous": st.none() | st.integers(1, 3)}
    kept = st.sampled_from(((), (size - 1,)))
    made = st.builds(
        dbprune, front=st.integers(0, max(size - 2, 0)), keep=kept, downsample=st.integers(1, 2), **numbers, **limits
    )
    beside = taylor(model, count) | guide_some(model, count)
    return made | st.builds(pure.compose, made, beside)


def filtered(model: Model, count: int) -> Strategy:
    """SeaCache, for models whose latents are a grid."""
    numbers = {"threshold": st.sampled_from((0.9, 0.3, 2.0)), "power": st.sampled_from((3.0, 1.0))}
    made = st.builds(seacache, max_continuous=st.none() | st.integers(1, 2), ending=st.integers(0, 2), **numbers)
    return made | st.builds(pure.compose, made, st.just(newton(order=1)))


def compiled_steps(model: Model, count: int) -> Strategy:
    """Pieces that dynamo traced; what a backend makes of them is its own affair."""
    return st.builds(functools.partial(compiled, backend="eager"), regional=st.booleans())


def taylor(model: Model, count: int) -> Strategy:
    """TaylorSeer of any order."""
    return st.builds(taylorseer, order=st.integers(0, 3), on=ON)


def every_setting(model: Model, count: int) -> Strategy:
    """DBCache with all its settings."""
    numbers = {
        "warmup_interval": st.integers(1, 2),
        "max_cached": st.none() | st.integers(2, 5),
        "max_accumulated": st.none() | st.sampled_from((0.5, 2.0)),
        "downsample": st.integers(1, 2),
        "follow": st.sampled_from(("own", "conditional")),
    }
    return _dbcache(model, count, **numbers)


def attending(name: str) -> Recipe:
    """Return the recipe of a kernel of attention."""
    return lambda model, count: st.just(attention(name))


EVERYTHING = (guide_some, every_setting, dynamic, taylor)
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
    "fora-dbcache": composed(every, basic, taylor),
    "magcache": by_sizes,
    "scm-static-dbcache": composed(basic, static),
    "scm-dynamic": composed(dynamic, basic),
    "scm-preset": preset,
    "scm-bins": bins,
    "taylorseer-residual": predicted(taylorseer, on=st.just("residual")),
    "taylorseer-hidden": predicted(taylorseer, on=st.just("hidden")),
    "newton": predicted(newton),
    "hermite": predicted(hermite, scale=st.sampled_from((0.5, 0.75, 1.0))),
    "adams-foca": several_slopes,
    "dmd": modes,
    "calibrated": from_table,
    "guided": guided_plain,
    "guided-dbcache": guided_dbcache,
    "guided-interval": composed(basic, guide_some, taylor),
    "guided-options": guided_options,
    "teacache": modulated_input,
    "seacache": filtered,
    "easycache": foreseen,
    "budget": spent,
    "speca": verified,
    "dbprune": pruned,
    "compiled": composed(basic, taylor, compiled_steps),
    "everything": composed(*EVERYTHING),
    **{f"attention-{name}": composed(*EVERYTHING, attending(name)) for name in KERNELS},
}
