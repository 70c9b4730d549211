"""The benchmarks run what they say they compare; how long it takes is no test."""

from pathlib import Path

import pytest
import torch

from benchmarks import command, flux, gpu, overhead

TINY = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (8, 12, 12),
}


def test_both_libraries_take_the_same_trajectory() -> None:
    made = gpu.build("cpu", side=4, text=5, **TINY)
    ours, theirs = list(made.ours(gpu.plans()["plain"])()), list(made.diffusers())
    assert len(ours) == len(theirs) == flux.STEPS
    assert torch.equal(ours[0], theirs[0]) and ours[-1].isfinite().all()


def test_the_limit_counts_blocks() -> None:
    made = gpu.build("cpu", side=4, text=5, **TINY)
    assert gpu.limit(made, "static ultra, compiled") == pytest.approx(28 * 3 / (8 * 3 + 20))
    assert gpu.limit(made, "never skip") == 1


def test_contestants_go_on_side_by_side() -> None:
    made = gpu.build("cpu", side=2, text=2, **TINY)
    found = overhead.measure({"one": made.ours(flux.NEVER), "other": made.diffusers}, rounds=2, seed=0)
    assert {name: [len(laps) for laps in rounds] for name, rounds in found.items()} == {
        "one": [flux.STEPS] * 2,
        "other": [flux.STEPS] * 2,
    }
    assert overhead.typical([[1.0, 5.0], [3.0, 7.0], [2.0, 6.0]]) == 8


def test_every_run_has_a_median() -> None:
    calls: list[str] = []
    found = command.medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert sorted(calls) == ["a"] * 3 + ["b"] * 3 and found.keys() == {"a", "b"}


def test_a_table_goes_between_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("before\n<!-- a-b -->\nold\n<!-- /a-b -->\nafter\n")
    monkeypatch.setattr(command, "FOLDER", tmp_path / "benchmarks")
    command.publish(False, "page.md", "a-b", "new")
    assert "old" in page.read_text()
    command.publish(True, "page.md", "a-b", "new", {"x": 1})
    assert page.read_text() == "before\n<!-- a-b -->\nnew\n<!-- /a-b -->\nafter\n"
    assert (tmp_path / "benchmarks" / "a_b.json").read_text() == '{\n  "x": 1\n}\n'
    with pytest.raises(ValueError, match="no <!-- c -->"):
        command.publish(True, "page.md", "c", "new")
