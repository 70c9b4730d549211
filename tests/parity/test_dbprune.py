"""DBPrune: the same blocks and the same latents as cache-dit 1.5.3; and where it counts its limit otherwise."""

import pytest

from tests.parity.pruned import PRUNED, Pruned

TOLERANCE = 1e-5


@pytest.mark.parametrize("case", [case for case in PRUNED if case.max_cached is None], ids=lambda case: case.name)
def test_same_as_peer(case: Pruned, ours, peer) -> None:
    mine, theirs = ours(case), peer[case.name]
    assert mine.skipped == theirs.skipped and mine.skipped[0]
    assert (mine.latents - theirs.latents).abs().max() <= TOLERANCE


def test_its_limit_counts_a_step_with_its_first_block(ours, peer) -> None:
    """So that of the last step that may be skipped it skips one block only."""
    (case,) = [case for case in PRUNED if case.max_cached is not None]
    mine, pruned = ours(case), peer.reports[case.name]["pruned"]
    assert mine.skipped == peer[case.name].skipped
    last = max(mine.skipped[0])
    assert len(mine.skipped[0]) == case.max_cached and pruned[last] == 1 < pruned[last - 1]
