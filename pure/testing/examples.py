"""What is tried every time: transforms of every recipe, chosen so that some steps are computed and some are skipped.

They skip late enough for every derivative to exist, and differently for each sample.
"""

import functools
from typing import Any

import pure
from pure import Transform
from pure.testing.recipes import POLYNOMIAL, RATIOS
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

# The first row fits the mask below, the second is longer than what TaylorSeer needs, the third fits nothing.
EXACT = (((3, 2, 1), 4, (1.6, -0.4, -0.2)), ((5, 3, 2, 1), 6, (1.3, 0.1, -0.3, -0.1)), ((9, 1), 10, (2.0, -1.0)))


def _some(**options: Any) -> Transform:
    return dbcache(**{"front": 1, "threshold": 0.5, "warmup": 1, **options})


def _entries(entries: str, count: int) -> tuple[int, ...]:
    return tuple(int(entry) for entry in (entries * (1 + count // len(entries)))[:count])


@functools.cache
def _examples(count: int) -> dict[str, list[Transform]]:
    late, alternating = _entries("11110100", count), _entries("10011010", count)
    often = _some(threshold=0.9, warmup=4, max_continuous=2)
    part = guided(scale=2.5, start=0.3, stop=0.8)
    return {
        "plain": [pure.identity],
        "dbcache": [_some(back=1), _some(front=2, threshold=0.4)],
        "dbcache-warmup": [_some(threshold=0.9, warmup=5, warmup_interval=2)],
        "dbcache-limits": [
            _some(threshold=0.9, max_cached=3, max_continuous=1),
            _some(threshold=1.0, max_cached=2, max_continuous=None),
        ],
        "dbcache-accumulated": [_some(threshold=0.9, max_accumulated=0.3, max_continuous=None)],
        "dbcache-probe": [_some(importance=0.1, downsample=2), _some(importance=0.3, back=1)],
        "dbcache-always": [_some(front=0, back=1, threshold=1.0, max_continuous=2)],
        "scm-static": [scm(mask=alternating, policy="static")],
        "fora": [fora(interval=2), fora(interval=3, warmup=2)],
        "fora-dbcache": [pure.compose(fora(interval=3, warmup=4), _some(back=1), taylorseer(order=1))],
        "magcache": [
            magcache(ratios=RATIOS, threshold=0.1501),
            pure.compose(magcache(ratios=RATIOS, threshold=0.5003, max_skip=2), _some(back=1)),
        ],
        "scm-static-dbcache": [pure.compose(_some(back=1), scm(mask=alternating, policy="static"))],
        "scm-dynamic": [pure.compose(scm(mask=_entries("11010010", count)), _some(threshold=0.9, warmup=2))],
        "scm-preset": [pure.compose(_some(), scm(preset="fast", policy="static"))],
        "scm-bins": [pure.compose(_some(), scm(compute_bins=[2, 1], cache_bins=[1, 2], policy="static"))],
        "taylorseer-residual": [
            pure.compose(scm(mask=late, policy="static"), taylorseer(order=2, streams="all")),
            pure.compose(often, taylorseer(order=1)),
        ],
        "taylorseer-hidden": [
            pure.compose(often, taylorseer(order=1, on="hidden", streams="all")),
            pure.compose(scm(mask=late, policy="static"), _some(back=1), taylorseer(order=3, on="hidden")),
        ],
        "newton": [
            pure.compose(scm(mask=late, policy="static"), newton(order=2, streams="all")),
            pure.compose(often, newton(order=1, on="hidden")),
        ],
        "hermite": [
            pure.compose(scm(mask=late, policy="static"), hermite(order=2, streams="all")),
            pure.compose(often, hermite(order=1, scale=0.75, on="hidden")),
        ],
        "adams-foca": [
            pure.compose(scm(mask=late, policy="static"), adams(order=2, streams="all")),
            pure.compose(often, foca(on="hidden", streams="all")),
            pure.compose(often, adams(order=3, on="hidden")),
        ],
        "dmd": [
            pure.compose(scm(mask=late, policy="static"), dmd(history=4, ridge=1e-6, streams="all")),
            pure.compose(often, dmd(rank=1, on="hidden")),
        ],
        "calibrated": [
            pure.compose(scm(mask=late, policy="static"), calibrated(table=EXACT, streams="all")),
            pure.compose(often, calibrated(table=EXACT, order=0, on="hidden")),
        ],
        "guided": [guided(scale=2.5), part],
        "guided-dbcache": [pure.compose(guided(scale=2.5), _some(follow=who)) for who in ("own", "conditional")],
        "guided-interval": [pure.compose(_some(back=1), part, taylorseer(order=1, on="hidden"))],
        "guided-options": [
            pure.compose(guided(scale=2.5, normalize="token", lowest_sigma=0.4), _some()),
            pure.compose(guided(scale=2.5, start=0.2, normalize="sample", cap=0.5), _some(back=1)),
        ],
        "easycache": [
            easycache(threshold=0.5, warmup=2),
            pure.compose(
                guided(scale=2.5), easycache(threshold=0.5, warmup=3, follow="conditional"), taylorseer(order=1)
            ),
        ],
        "budget": [
            budget(early=0.3, late=0.9, warmup=1),
            pure.compose(budget(late=0.9, front=2, back=1), newton(order=1)),
        ],
        "dbprune": [
            dbprune(threshold=0.2, warmup=1, back=1),
            pure.compose(
                dbprune(front=0, keep=(1,), threshold=0.5, max_continuous=2, importance=0.1), taylorseer(order=1)
            ),
            pure.compose(guided(scale=2.5), dbprune(threshold=0.3, max_cached=4, downsample=2, follow="conditional")),
        ],
        "speca": [
            speca(threshold=0.1, decay=0.5, floor=0.01, least=1, most=3, warmup=2),
            pure.compose(guided(scale=2.5), speca(threshold=0.2, back=2, warmup=4), taylorseer(order=1)),
        ],
        "seacache": [
            seacache(threshold=0.9, power=2.0, max_continuous=1),
            pure.compose(guided(scale=2.5), seacache(threshold=2.0, warmup=2, ending=2), newton(order=1)),
        ],
        "teacache": [
            teacache(threshold=0.2, polynomial=POLYNOMIAL, warmup=2),
            pure.compose(guided(scale=2.5), teacache(threshold=0.3, polynomial=POLYNOMIAL), taylorseer(order=1)),
        ],
        "compiled": [pure.compose(_some(back=1), taylorseer(order=1), compiled(backend="eager", regional=True))],
        "everything": [
            pure.compose(
                part,
                _some(threshold=0.9, max_cached=5, max_accumulated=2.0, max_continuous=2, follow="conditional"),
                scm(mask=_entries("11110010", count)),
                taylorseer(order=1, on="hidden"),
            )
        ],
    }


def examples(name: str, count: int) -> list[Transform]:
    """Return the transforms of a recipe that are tried every time, for a run of `count` steps."""
    if name.startswith("attention-"):
        kernel = attention(name.removeprefix("attention-"))
        return [pure.compose(each, kernel) for each in examples("everything", count)]
    return _examples(count)[name]
