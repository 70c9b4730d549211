"""A tuned plan is never a silent no-op: every branch of a family skips what the mask says, with both solvers."""

from pathlib import Path

import pytest

from benchmarks import reach
from benchmarks.skips import load, pipelines

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "quality.md").read_text()
MADE = dict(pipelines())


@pytest.mark.parametrize("name", ("FLUX.1", "FLUX.2-dev", "Z-Image", "Wan t2v-2.2", "HunyuanVideo replace"))
def test_every_branch_follows_a_tuned_plan(name: str, tmp_path: Path) -> None:
    save, options = MADE[name]
    found = list(reach.rows(name, load(save, tmp_path / "model"), options))
    assert {solver for _, _, solver, _ in found} == set(reach.SOLVERS)
    assert all(line in DOCUMENT for line in reach.table(found).splitlines()[2:])


def test_the_table_has_every_pipeline() -> None:
    assert all(f"\n| {name} | " in DOCUMENT for name in MADE)
