"""The benchmark of quality measures what it says: metrics on known answers, equal effort, pictures of their own."""

import json
import math
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality import measure, search, tables
from benchmarks.quality.samples import TEST_SEEDS, TUNED, held_out_pairs, tuning_prompts

ROOT = Path(__file__).resolve().parent.parent


def grey(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 16, 16).contiguous()


def test_psnr_and_ssim_have_known_values() -> None:
    ones, others = grey(0.2, 0.5, 0.25), grey(0.3, 0.5, 0.75)
    assert measure.psnr(ones, others) == pytest.approx([20.0, measure.CLOSEST, 20 * math.log10(2)], rel=1e-5)
    # Of two flat pictures only the means differ: (2ab + C) / (a^2 + b^2 + C) with C = 0.01^2.
    flat = [(2 * a * b + 1e-4) / (a * a + b * b + 1e-4) for a, b in ((0.2, 0.3), (0.5, 0.5), (0.25, 0.75))]
    assert measure.ssim(ones, others) == pytest.approx(flat, rel=1e-5)


def test_a_difference_does_not_wrap_around() -> None:
    """In bytes 10 - 12 is 254."""
    assert measure.psnr(grey(10 / 255), grey(12 / 255)) == pytest.approx([20 * math.log10(255 / 2)], rel=1e-4)


def test_the_worst_tenth_and_the_interval_of_a_mean() -> None:
    values = [float(value) for value in range(40)]
    assert measure.worst_tenth(values) == 1.5 and measure.worst_tenth([3.0, 1.0]) == 1.0
    low, high = measure.interval(values, [str(value) for value in range(40)])
    half = 1.96 * (40 / math.sqrt(12)) / math.sqrt(40)  # of the mean of 40 values that are spread evenly
    assert (low, high) == pytest.approx((19.5 - half, 19.5 + half), abs=0.5)
    # The seeds of a prompt are no prompts of their own: twice the same pictures say nothing new.
    twice = measure.interval(values * 2, [str(value) for value in range(40)] * 2)
    assert twice == pytest.approx((low, high), abs=1e-9)


def test_prompts_are_checked_that_nothing_was_tuned_with() -> None:
    held_out = [pair.prompt for pair in held_out_pairs(64)]
    assert len(set(held_out)) == 64 and not set(held_out) & set(TUNED)
    assert set(tuning_prompts(8)) <= set(TUNED) and len(TEST_SEEDS) == 2
    with pytest.raises(ValueError, match="choose 1 to 98"):
        held_out_pairs(99)


def contestant(**knobs: tuple) -> Any:
    return types.SimpleNamespace(name="one", knobs=knobs, first=[{"threshold": 3, "kind": "b"}])


def test_every_contestant_has_as_many_trials_which_are_run_once(tmp_path: Path) -> None:
    judged = []

    def judge(setting: search.Setting) -> tuple[float, float, float]:
        judged.append(dict(setting))
        return 30.0 + setting["threshold"] * (setting["kind"] == "b"), 20.0, 20.0 - setting["threshold"]

    method = contestant(threshold=tuple(range(40)), kind=("a", "b"))
    trials = search.search(method, 20, judge, tmp_path)
    assert len(trials) == len(judged) == 20 and judged[0] == method.first[0]
    assert len({json.dumps(setting) for setting in judged}) == 20
    again = search.search(method, 20, judge, tmp_path)
    assert again == trials and len(judged) == 20
    for most in search.BUDGETS:
        found = search.best(trials, most)
        assert found is not None and found.computed <= most
        assert found.psnr == max(trial.psnr for trial in trials if trial.computed <= most)


def test_the_second_half_of_the_trials_looks_around_the_best_ones(tmp_path: Path) -> None:
    method = contestant(threshold=tuple(range(5000)), kind=("b",))
    trials = search.search(method, 40, lambda setting: (-abs(setting["threshold"] - 2500), 20.0, 8.0), tmp_path)
    tried = [trial.setting["threshold"] for trial in trials]
    best = [min(tried[:at], key=lambda value: abs(value - 2500)) for at in range(20, 40)]
    assert all(abs(one - near) <= 3 for one, near in zip(tried[20:], best, strict=True))


def test_nothing_fits_a_budget_that_is_too_small() -> None:
    trial = search.Trial(setting={}, psnr=1.0, converged=2.0, computed=9.0)
    assert search.best([trial], 8) is None and search.best([trial], 9) is trial
    assert search.best([trial], 5.0, cost=lambda one: one.computed / 2) is trial


def test_a_picture_that_is_not_finite_is_the_worst_one() -> None:
    assert measure.psnr(grey(float("nan")), grey(0.5)) == [0.0] and measure.ssim(grey(float("nan")), grey(0.5)) == [0.0]


def test_the_document_has_the_tables_of_the_numbers() -> None:
    numbers = json.loads((ROOT / "benchmarks" / "quality.json").read_text())
    assert numbers["size"]["prompts"] >= 64 and numbers["size"]["trials"] >= 40
    assert tables.tables(numbers) in (ROOT / "docs" / "quality.md").read_text()
    assert all(difference < 1e-3 for difference in numbers["apart"].values())
