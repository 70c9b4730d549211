"""The benchmarks run what they say they compare; how long it takes is no test."""

import functools
from pathlib import Path

import attrs
import pytest
import torch

from benchmarks import command, compile, flux, gpu, gpu_checks, gpu_rows, graphs, overhead, peer

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


@pytest.mark.parametrize("name", ["static", "measured"])
def test_cache_dit_computes_the_steps_that_we_compute(name: str) -> None:
    made = gpu.build("cpu", side=4, text=5, **TINY)
    masked = name == "static"
    theirs = compile.cached_by_peer(made, False, masked)
    ours = compile.ours(made, False, masked)
    for _ in range(2):  # the second run begins anew
        ends = [compile.last(entry.run) for entry in (theirs, ours)]
        assert theirs.computed is not None and ours.computed is not None
        assert theirs.computed() == ours.computed() and 4 < sum(ours.computed()) < flux.STEPS
        assert torch.allclose(*(each.float() for each in ends), atol=1e-2, rtol=1e-2)


def test_everything_of_the_gpu_benchmark_runs_without_one() -> None:
    made = gpu.build("cpu", side=2, text=3, **TINY)
    result = gpu.report(made, 1, {"device": "this processor", "torch": torch.__version__}, backend="eager")
    assert {"cache-dit, static ultra, compiled", "static ultra, compiled, CUDA graphs"} < result["seconds"].keys()
    assert "this processor" in gpu.table(result)


def test_a_run_of_recorded_steps_is_the_loop() -> None:
    made = gpu.build("cpu", side=2, text=3, **TINY)
    replayed, loop = graphs.Graphed(made, flux.ULTRA), made.ours(flux.ULTRA)
    assert torch.allclose(compile.last(replayed).float(), compile.last(loop).float(), atol=1e-2, rtol=1e-2)
    assert replayed.computed == loop.computed and sum(loop.computed) == 8


@pytest.mark.slow
def test_everything_of_the_benchmark_of_compilation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "BACKEND", "eager")
    made = gpu.build("cpu", side=4, text=5, **TINY)
    found = compile.compare(made, rounds=1, seed=0)
    cached = [name for name in compile.ENTRIES if "diffusers" not in name]
    assert found["computed"] == {name: 10 if "threshold" in name else 8 for name in cached}
    found["seconds"] = {name: overhead.typical(laps) for name, laps in found["seconds"].items()}
    found["start"] = {name: [compile.start(made, name)] * 2 for name in compile.STARTED}
    table = compile.tables({"float32": {"torch": "2", "threads": 1, "rounds": 1, **found}})
    assert table.startswith("In float32; torch 2, threads: 1, shuffled rounds: 1.")
    assert table.count("| puredit, compiled | ") == 3


def test_settings_of_torch_are_put_back() -> None:
    from torch._inductor import config

    before = config.get_config_copy()
    with peer.recommended(True):
        assert config.epilogue_fusion is False
    assert config.get_config_copy() == before


def test_the_checks_of_a_gpu_run_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "working", lambda *_: ("native", "_native_math"))
    parts = {
        "attention": functools.partial(gpu_checks.attention, shape=(1, 9, 2, 8)),
        "masks": functools.partial(gpu_checks.masks, shape=(2, 9, 2, 8)),
        "halves": functools.partial(gpu_checks.halves, shape=(1, 9, 2, 8)),
        "quantised": functools.partial(gpu_checks.quantised, rows=4, inputs=128, outputs=128),
    }
    monkeypatch.setattr(gpu_checks, "PARTS", {**parts, "broken": lambda _: 1 / 0})
    found = gpu_checks.collect([*parts, "broken"], "cpu")
    assert all(each.good for each in found[:-1]) and not found[-1].good
    assert {each.kind for each in found} >= {"attention, bf16", "attention to no key, largest", "quantised product"}
    table = gpu_checks.table({"device": "none", "torch": "2", "checks": [attrs.asdict(each) for each in found]})
    assert "| broken | ZeroDivisionError | division by zero | equal: NO |" in table


def test_a_check_says_whether_it_holds() -> None:
    assert gpu_rows.Check("", "", 0.1, 0.2).good and not gpu_rows.Check("", "", 0.3, 0.2).good
    assert gpu_rows.Check("", "", 60.0, 50).good and not gpu_rows.Check("", "", 40.0, 50).good
    assert gpu_rows.Check("", "", 1.0, 1.0, most=True).good and not gpu_rows.Check("", "", 1.1, 1.0, most=True).good
    assert not gpu_rows.Check("", "", "exit code 2", 50).good and gpu_rows.Check("", "", "not tried", None).good
    half = torch.full((4,), 0.5)
    assert gpu_rows.decibels(half, half + 0.1) == pytest.approx(20, abs=1e-4) and gpu_rows.decibels(half, half) == 200
    assert gpu_rows.distance(half * 1.1, half) == pytest.approx(0.1, rel=1e-5)
