"""No default is a no-op: every kind of pipeline skips, with the library's defaults and with every preset."""

import pytest

from benchmarks.skips import load, pipelines, plans, skipped

MADE = dict(pipelines())


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_something_is_skipped(name, tmp_path):
    save, options = MADE[name]
    pipeline = load(save, tmp_path / "model")
    chosen = {plan: transform for plan, transform in plans().items() if plan in ("dbcache()", "slow", "ultra")}
    counts = {plan: sum(skipped(pipeline, transform, options).values()) for plan, transform in chosen.items()}
    assert 0 < counts["slow"] < counts["ultra"] and counts["dbcache()"] > 0
