"""The same decisions, the same measured changes and the same latents as cache-dit 1.5.3."""

import pytest

from tests.parity.cases import CASES, Case

TOLERANCE = 1e-5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_as_peer(case: Case, ours, peer) -> None:
    mine, theirs = ours(case), peer[case.name]
    rows = theirs_by_row(case, theirs.skipped)
    assert mine.skipped == rows
    for changes, expected in zip(mine.changes, theirs_by_row(case, theirs.changes), strict=True):
        # It writes -1 where its threshold needs no measurement; we then measure nothing.
        assert changes == pytest.approx({step: d for step, d in expected.items() if d >= 0}, rel=TOLERANCE)
        assert margin(case, changes) > 10 * TOLERANCE, "a change is next to the threshold; choose another"
    assert (mine.latents - theirs.latents).abs().max() <= TOLERANCE


def theirs_by_row(case: Case, branches: tuple) -> tuple:
    """Its one decision per branch, as the rows of our batch have it."""
    return branches if case.scale is not None else branches[:1] * case.batch


def margin(case: Case, changes: dict[int, float]) -> float:
    """How far the closest change is from the threshold."""
    return min((abs(change - case.threshold) for change in changes.values()), default=1.0)
