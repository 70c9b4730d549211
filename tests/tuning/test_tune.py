"""`pure.tune` from end to end on the checkpoint in the package, in few steps."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import pure
from pure.configs import build, configure, load_text, resolve
from pure.configs.tuned import TunedFor
from pure.engine.errors import Misuse
from pure.engine.tuned import fingerprint, misfits
from pure.engine.tuning import keeping, tune, tuning
from pure.engine.tuning.bench import make_bench
from pure.engine.tuning.budget import Budget, read_budget
from pure.engine.tuning.prompts import BUILT_IN, read
from pure.engine.tuning.reaching import begun, psnr, refined
from pure.engine.tuning.refining import quality
from pure.engine.tuning.rerun import TunedSpan
from pure.models import Pipeline, embedded, load_pipeline

SMALL: dict[str, Any] = {"steps": 6, "fit": 2, "held_out": 2, "points": 0}


@pytest.fixture(scope="module")
def emoji() -> Pipeline:
    return load_pipeline(embedded())


@pytest.fixture(scope="module")
def bench(emoji: Pipeline) -> Any:
    return make_bench(emoji, read("emoji", 4), 2, TunedSpan(), {"steps": 6})


def test_refinement_never_makes_a_plan_worse(bench: Any) -> None:
    start = begun(bench, 3)
    assert start is not None
    found = [refined(start, how, None) for how in ("none", "swaps", "gradient")]
    assert found[0] is start
    assert start.quality <= found[1].quality <= found[2].quality
    assert found[2].quality > start.quality + 1, "the weights of three skipped steps bring more than 1 dB"
    for one in found:
        assert one.quality == quality(bench.fit, one.entries, one.weights)
        assert sum(one.entries) == 3 and one.entries[0] == 1
        assert all(float(row.sum()) == pytest.approx(1.0, abs=1e-9) for row in one.weights.values())


def test_more_computed_steps_come_nearer(bench: Any) -> None:
    near = [float(psnr(bench.check, one.entries, one.weights).mean()) for n in (2, 4, 5) if (one := begun(bench, n))]
    assert near[0] < near[1] < near[2]


def test_a_tuned_plan_is_read_back_whole(emoji: Pipeline, tmp_path: Path) -> None:
    seen: list[str] = []
    found = tune(
        emoji,
        "emoji",
        budget=[3, "1.5x"],
        refine="none",
        observe=lambda *w: seen.append(w[0]),
        **{**SMALL, "points": 2},
    )
    assert found.plan.made_for.computed == 3
    assert found.plans[1].ratio is not None and found.plans[1].ratio >= 1.5
    assert {"recording", "check"} <= set(seen)
    plan = found.plan
    plan.save(tmp_path / "plan.yaml")
    effective = configure(file=tmp_path / "plan.yaml")
    assert effective.tuned == plan.made_for and not effective.notes
    assert build(effective)(emoji.denoiser) == plan.transform(emoji.denoiser)  # type: ignore[operator]
    made = plan.made_for
    assert (made.model, made.steps, made.height, made.frames) == (fingerprint(emoji), 6, 64, 1)
    assert made.psnr is not None and made.worst_psnr is not None and 20 < made.worst_psnr <= made.psnr
    computed = [one.made_for.computed or 0 for one in found.curve]
    assert computed == sorted(set(computed)) and 3 not in computed and len(computed) >= 1


def test_a_floor_of_the_quality_is_kept_with_few_steps(emoji: Pipeline) -> None:
    found = tune(emoji, "emoji", budget="30dB", refine="swaps", **SMALL)
    assert found.plan.made_for.computed is not None and found.plan.made_for.computed < 5
    with pytest.raises(Misuse, match=r"no plan comes as near as 100dB; the nearest one has \d"):
        tune(emoji, "emoji", budget="100dB", refine="none", **SMALL)


def test_front_blocks_are_kept_where_they_help(emoji: Pipeline) -> None:
    found = tune(emoji, "emoji", budget=4, refine="none", front=(1, 2), **SMALL)
    assert found.plan.front in (1, 2) and found.plan.back == 0
    assert "Fn_compute_blocks: " + str(found.plan.front) in found.plan.text


def test_a_recording_is_made_once(emoji: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pause(what: str, done: int, total: int) -> None:
        if done > 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("pure.engine.tuning.bench.batch_size", lambda *_: 1)
    with pytest.raises(KeyboardInterrupt):
        tune(emoji, "emoji", budget=2, refine="none", recording=tmp_path, observe=pause, **{**SMALL, "steps": 4})
    assert len(list(tmp_path.iterdir())) == 1, "what was finished is kept"
    first = tune(emoji, "emoji", budget=2, refine="none", recording=tmp_path, **{**SMALL, "steps": 4})
    assert len(list(tmp_path.iterdir())) == 4
    cut = min(tmp_path.iterdir())
    cut.write_bytes(cut.read_bytes()[:100])
    ran: list[int] = []
    record = keeping.record
    monkeypatch.setattr(keeping, "record", lambda *args: ran.append(1) or record(*args))
    again = tune(emoji, "emoji", budget=2, refine="none", recording=tmp_path, **{**SMALL, "steps": 4})
    assert len(ran) == 1, "only the file that was cut short"
    assert again.plan.text == first.plan.text
    tune(emoji, "emoji", budget=2, refine="none", recording=tmp_path, **{**SMALL, "steps": 3})
    assert len(ran) == 5, "other steps are another recording"


def test_weights_tell_checkpoints_apart_in_any_type(emoji: Pipeline) -> None:
    assert fingerprint(emoji) == fingerprint(load_pipeline(embedded(), dtype=torch.bfloat16))
    name = next(iter(emoji.params))
    other = attrs.evolve(emoji, params={**emoji.params, name: emoji.params[name] + 1})
    assert fingerprint(other) != fingerprint(emoji)


HERE = TunedFor(model="a", steps=28, height=64, width=64, frames=1, guidance=None, solver="Euler, 1.0 to 0.1")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (HERE, None),
        (TunedFor(steps=28), None),
        (TunedFor(model="b"), "tuned for other weights;"),
        (TunedFor(height=32, width=64, frames=1), "tuned for 64 x 32 pixels, not 64 x 64;"),
        (TunedFor(height=64, width=64, frames=9), "tuned for 64 x 64 x 9 frames pixels, not 64 x 64;"),
        (TunedFor(guidance=4.0), r"tuned for guidance 4.0, not none;"),
        (TunedFor(solver="UniPC, 1.0 to 0.1"), "the solver UniPC, 1.0 to 0.1, not Euler, 1.0 to 0.1;"),
        (TunedFor(steps=50), "tuned for 50 steps, not 28;"),
    ],
)
def test_a_run_that_differs_from_the_plan_is_told_what_holds(plan: TunedFor, words: str | None) -> None:
    notes = misfits(plan, HERE)
    assert len(notes) == (words is not None)
    if words is not None:
        assert words in notes[0].text and "the same steps are computed with the same weights" in notes[0].text


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        (11, "steps", 11),
        ("11", "steps", 11),
        ("2.5x", "ratio", 2.5),
        ("50dB", "quality", 50),
        (" 40.5 db", "quality", 40.5),
    ],
)
def test_budgets(given: Any, kind: str, value: float) -> None:
    assert read_budget(given, 28) == Budget(kind, value)
    assert read_budget(str(Budget(kind, value)), 28) == Budget(kind, value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "a whole number of 1 to 27"),
        (28, "a whole number of 1 to 27"),
        ("1.5", "a whole number of 1 to 27"),
        ("1x", "above 1x and at most 28x"),
        ("0dB", "above 0 and at most 100 dB"),
        ("fast", "is no number of computed steps"),
        (True, "is no number of computed steps"),
        (None, "is no number of computed steps"),
        ("-3", "is no number of computed steps"),
    ],
)
def test_wrong_budgets(given: Any, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        read_budget(given, 28)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refine": "all"}, "refine='all': choose one of none, swaps, gradient"),
        ({"fit": 0}, "fit=0: a whole number of 1 to 1000 prompts"),
        ({"fit": 1001}, "fit=1001: a whole number of 1 to 1000 prompts"),
        ({"held_out": True}, "held_out=True"),
        ({"depth": 9}, "depth=9: a whole number of 1 to 8"),
        ({"front": 12}, r"front=\[12\]: whole numbers of 0 to 11, the denoiser has 12 blocks"),
        ({"front": 6, "back": 6}, "leave none of the 12 blocks to skip"),
        ({"fit": 60, "held_out": 40}, "100 different prompts are needed and the built-in list 'emoji' has 97"),
        ({"prompts": "nowhere.txt"}, "prompts nowhere.txt cannot be read: No such file"),
        ({"prompts": ["a", "a", "a", "a"]}, "4 different prompts are needed and the sequence has 1"),
        ({"prompts": lambda count: 3}, "a sequence of texts, got 3 from the function"),
        ({"steps": 300}, "plans are tuned for at most 200 steps, not 300"),
        ({"steps": 1, "budget": 1}, "a run of 1 step has none to skip, so there is nothing to tune; take more steps"),
        ({"budget": "60x"}, "above 1x and at most 6x"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    emoji: Pipeline, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "make_bench", lambda *_: pytest.fail("it ran"))
    given = {"prompts": "emoji", "budget": 4, **SMALL, **changes}
    with pytest.raises(Misuse, match=message):
        tune(emoji, **given)


def test_weights_are_refined_in_fp32_only() -> None:
    half = load_pipeline(embedded(), dtype=torch.bfloat16)
    with pytest.raises(Misuse, match=r"refine='gradient' needs a pipeline in fp32, this one is in torch.bfloat16"):
        tune(half, "emoji", budget=4, **SMALL)


def test_prompts_come_from_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# mine\na cat\n\n\\#1 dog\na cat\n", encoding="utf-8")
    assert read(file, 2) == read(str(file), 2) == read(["a cat", "#1 dog"], 2) == ("a cat", "#1 dog")
    assert read(lambda count: [f"{n}" for n in range(count)], 3) == ("0", "1", "2")
    for name in BUILT_IN:
        assert len(read(name, 16)) == 16, name


def test_it_is_a_public_name() -> None:
    assert pure.tune is tune
    assert load_text("tuned: {steps: 3}\ncache_config: {Fn_compute_blocks: 1}").settings["tuned"].value.steps == 3
    assert resolve().tuned is None
