"""Law 13: on many ranks it is what it is on one, and all ranks decide alike."""

from pure.distributed import Sizes
from pure.testing import rows
from pure.testing.situation import Situation
from pure.tree import signature
from tests.support import ranks
from tests.support.sharded import Way, difference, report, same_reports, shard

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


# Every option of the transforms that divide, and axes of different sizes above 1.
WAYS: dict[str, Way] = {
    "ring 3, ulysses 2": Way(sizes=Sizes(ring=3, ulysses=2)),
    "ring 2, ulysses 3": Way(sizes=Sizes(ring=2, ulysses=3)),
    "groups of ulysses": Way(sizes=Sizes(dp=2, ulysses=2)),  # both groups are given the same samples
    "allgather": Way(sizes=Sizes(ring=4), options={"rotate": "allgather"}),
    "allgather and ulysses": Way(sizes=Sizes(ring=2, ulysses=2), options={"rotate": "allgather"}),
    "ring without fp32": Way(sizes=Sizes(ring=4), options={"fp32": False}),
    "overlap": Way(sizes=Sizes(ulysses=4), options={"overlap": True}),
    "overlap and ring": Way(sizes=Sizes(ring=2, ulysses=2), options={"overlap": True, "rotate": "allgather"}),
    "parameters": Way(sizes=Sizes(tp=2), parameters=True),
    "parameters and ring": Way(sizes=Sizes(tp=2, ring=2), parameters=True),
    "parameters and ulysses": Way(sizes=Sizes(tp=2, ulysses=2), parameters=True),
    # Four numbers of 3 bits to a product of attention, in every block of every step.
    "float8": Way(sizes=Sizes(ulysses=2), options={"float8": True}, error=0.2),
    "float8, overlap and ring": Way(
        sizes=Sizes(ring=2, ulysses=2), options={"float8": True, "overlap": True}, error=0.2
    ),
}


# And the branches of guidance on ranks of their own.
GUIDED: dict[str, Way] = {
    "cfg": Way(sizes=Sizes(cfg=2)),
    "ulysses": Way(sizes=Sizes(cfg=2, ulysses=2)),
    "ring": Way(sizes=Sizes(cfg=2, ring=2)),
    "parameters": Way(sizes=Sizes(cfg=2, tp=2), parameters=True),
    "ring, ulysses": Way(sizes=Sizes(cfg=2, ring=2, ulysses=2)),
}


def every_way_is_one_process(situation: Situation, way: Way, first: float = 2e-6, later: float = 2e-5) -> None:
    """Law 13: as `sharded_is_unsharded`, of one way to divide; with numbers of 8 bits only near it."""
    alone = situation.trace()
    reports = ranks.run(_divided, way.sizes.total, situation, way)
    assert all(same_reports(reports[0], each) for each in reports), "ranks differ"
    for (prediction, decisions), expected in zip(reports[0], alone, strict=True):
        if way.error is None and not rows._agree(situation, decisions, expected):
            break
        apart, limit = difference(prediction, expected.prediction), later if expected.step.index else first
        assert apart <= (limit if way.error is None else way.error), f"{apart:.1e} apart, {decisions}"


def _divided(situation: Situation, way: Way) -> list:
    return report(shard(situation, way.sizes, way.parameters, **way.options))


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
