"""Law 13: on many ranks it is what it is on one, and all ranks decide alike."""

from pure.distributed import Sizes
from pure.tree import signature
from tests.laws import rows
from tests.support import ranks
from tests.support.sharded import difference, report, same_reports, shard
from tests.support.situation import Situation

RANKS = 4
# On four ranks; the last two say the same twice, beside an axis that divides something else.
LAYOUTS = (
    Sizes(ulysses=4),
    Sizes(ring=4),
    Sizes(ring=2, ulysses=2),
    Sizes(ulysses=2, tp=2),
    Sizes(ring=2, tp=2),
)


def sharded_is_unsharded(situation: Situation, layouts: tuple[Sizes, ...] = LAYOUTS[:3]) -> None:
    """Law 13: predictions agree, decisions are those of one process, and have the same bits on every rank.

    Not bit for bit those of one process: products of fewer rows and sums in parts round otherwise. A
    trajectory feeds that back, and guidance and extrapolation multiply it.
    """
    run_alike(situation, layouts, first=2e-6, later=2e-5)


def run_alike(situation: Situation, layouts: tuple[Sizes, ...], first: float, later: float) -> None:
    """Compare a run on ranks with one in one process: the first step, and those that follow it."""
    alone = situation.trace()
    for layout, reports in zip(layouts, zip(*ranks.run(_reports, RANKS, situation, layouts), strict=True), strict=True):
        assert all(same_reports(reports[0], each) for each in reports), f"ranks differ under {layout}"
        trusted = True
        for (prediction, decisions), expected in zip(reports[0], alone, strict=True):
            trusted = trusted and rows._agree(situation, decisions, expected)
            if not trusted:  # a change fell so close to a limit that either decision is right
                break
            apart = difference(prediction, expected.prediction)
            limit = later if expected.step.index else first
            assert apart <= limit, f"{apart:.1e} apart under {layout}, {decisions}"


def _reports(situation: Situation, layouts: tuple[Sizes, ...]) -> list:
    return [report(shard(situation, layout)) for layout in layouts]


def laws_of_one_process_hold(situation: Situation, laws: tuple) -> None:
    """On every rank the laws that speak of one process hold too: purity, structure, reports."""
    ranks.run(_hold, RANKS, situation, laws)


def _hold(situation: Situation, laws: tuple) -> None:
    sharded = shard(situation, Sizes(ring=2, ulysses=2))
    for law in laws:
        law(sharded)
    first, *rest = [signature(entry.before) for entry in sharded.trace()]
    assert all(each == first for each in rest)
