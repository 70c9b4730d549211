"""What `puredit tune` and `puredit export` make of their flags, without a model."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console

from pure.cli import commands, export, tune
from pure.cli.main import run
from pure.cli.screen import Screen
from pure.configs.tuned import TunedFor
from pure.engine.checkpoint import Checkpoint, look
from pure.engine.errors import Failure, Misuse
from pure.engine.tuning import TunedPlan, Tuning
from pure.engine.tuning.plan import ExpertPlan
from pure.notes import Note


def plan(computed: int, psnr: float) -> TunedPlan:
    made = TunedFor(steps=5, computed=computed, psnr=psnr, worst_psnr=psnr - 10, prompts=2)
    return TunedPlan(made_for=made, front=0, back=0, parts={"": ExpertPlan(mask=(1, 0, 1, 0, 1), table=())}, ratio=1.5)


TUNED = Tuning(plans=(plan(3, 50.04),), curve=(plan(2, 40.0), plan(4, 60.0), plan(3, 45.0)), seconds=7.0)


@pytest.fixture
def tuned(monkeypatch, tmp_path, capsys):
    """Tune with these flags; return the exit code, what the library was given, and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Checkpoint, "load", lambda self, waiting: self)
    given: list[Any] = []

    def call(*words: str, found: Any = TUNED) -> Any:
        def fake(*arguments: Any, **options: Any) -> Tuning:
            given.append((arguments, options))
            if isinstance(found, BaseException):
                raise found
            return found

        monkeypatch.setattr(tune, "tune", fake)
        code = run(["tune", *words])
        return code, *(given.pop() if given else ((), {})), capsys.readouterr()

    return call


def test_what_is_tuned_by_default(tuned, tmp_path):
    code, (checkpoint, prompts), options, shown = tuned("--budget", "3")
    assert code == 0 and (checkpoint.path, checkpoint.variant, checkpoint.precision) == (None, None, None)
    assert prompts == "emoji" and (options["fit"], options["held_out"], options["depth"]) == (12, 12, 3)
    assert (options["front"], options["back"], options["budget"]) == ((0,), (0,), ("3",))
    assert (options["refine"], options["negative_prompt"]) == ("gradient", None)
    assert options["recording"] == Path("plan.recording") and "images" not in options and "steps" not in options
    assert (tmp_path / "plan.yaml").read_text() == TUNED.plan.text
    table = [line.split() for line in shown.out.splitlines() if "x" in line.split("  ")[-1] or "1.50x" in line]
    assert table == [
        ["4", "5", "1.50x", "60.0", "50.0"],
        ["3", "5", "1.50x", "45.0", "35.0"],
        ["3", "5", "1.50x", "50.0", "40.0", "refined"],
        ["2", "5", "1.50x", "40.0", "30.0"],
    ]
    assert "on 2 held-out prompts" in shown.out and "note: tuned in 7 s" in shown.err


def test_prompts_of_another_checkpoint_are_those_of_its_task(tuned, monkeypatch):
    monkeypatch.setattr(tune, "checkpoint_of", lambda values: look(None))
    assert tuned("--budget", "3", "--model-path", "another")[1][1] is None
    assert tuned("--budget", "3", "--model-path", "another", "--prompts", "edits")[1][1] == "edits"


def test_every_flag_of_tuning_arrives(tuned, tmp_path):
    words = (
        *("--budget", "3", "2.5x", "--refine", "swaps", "--prompts", "images", "--fit", "4", "--held-out", "5"),
        *("--front", "1", "2", "--back", "3", "--depth", "2", "--recording", "kept", "--output", "mine.YML"),
        *("--negative-prompt", "", "--true-cfg-scale", "2", "--num-inference-steps", "9", "--height", "32"),
        *("--dit-precision", "bf16", "--log-level", "warning"),
    )
    code, (checkpoint, prompts), options, shown = tuned(*words)
    assert code == 0 and prompts == "images" and checkpoint.precision == "bf16"
    del options["observe"]
    assert options == {
        "budget": ("3", "2.5x"), "refine": "swaps", "fit": 4, "held_out": 5, "front": (1, 2), "back": (3,),
        "depth": 2, "recording": Path("kept"), "negative_prompt": "", "true_cfg_scale": 2.0, "steps": 9, "height": 32,
    }  # fmt: skip
    assert (shown.out, shown.err) == ("plan: mine.YML\n", ""), "only files are told"


def test_several_plans_have_several_files_and_the_refined_ones_are_drawn(tuned, tmp_path, monkeypatch):
    drawn: list[Any] = []
    monkeypatch.setattr(tune, "write_curve", lambda *arguments: drawn.append(arguments))
    both = Tuning(plans=(plan(3, 50.0), plan(2, 40.0)), curve=(), seconds=1.0)
    code, *_, shown = tuned("--budget", "3", "2", "--plot", "curve.png", found=both)
    assert code == 0 and drawn == [(Path("curve.png"), both.plans, ())]
    assert shown.out.splitlines()[:3] == ["plan: plan-3.yaml", "plan: plan-2.yaml", "plot: curve.png"]
    assert all((tmp_path / name).is_file() for name in ("plan-3.yaml", "plan-2.yaml"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what was recorded is in plan.recording, and is not recorded again"),
        (ValueError("steps=0 is not possible"), 2, "error: steps=0 is not possible\n"),
        (TypeError("no such option"), 2, "error: no such option\n"),
    ],
)
def test_how_tuning_fails(tuned, error, code, said):
    found, *_, shown = tuned("--budget", "3", found=error)
    assert found == code and said in shown.err


@pytest.mark.parametrize("flag", ["--output", "--plot", "--recording"])
def test_files_of_a_plan_are_checked_before_anything_is_loaded(tuned, tmp_path, flag):
    (tmp_path / "file").touch()
    name = {"--output": "file/a.yaml", "--plot": "file/a.png", "--recording": "file/a"}[flag]
    code, given, _, shown = tuned("--budget", "3", flag, name)
    assert code == 1 and not given and f"{flag}" in shown.err


def test_progress_is_told_now_and_then_where_there_is_no_terminal(monkeypatch):
    clock = iter([0.0, 0.0, 5.0, 21.0, 30.0, 42.0])
    monkeypatch.setattr("pure.cli.tune.time.monotonic", lambda: next(clock))
    said = io.StringIO()
    console = rich.console.Console(file=said, width=80)
    with tune._Watch(Screen(console, console)) as watch:
        for done in range(1, 5):
            watch.see("recording", done, 9)
    assert said.getvalue() == "note: recording 2 of 9, 21 s\nnote: recording 4 of 9, 42 s\n"


def test_a_line_on_a_terminal_ends_with_the_work():
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80)
    with tune._Watch(Screen(console, console)) as watch:
        watch.see("recording", 1, 9)
        assert watch.live is not None and watch.live._live.is_started
    assert not watch.live._live.is_started
    with tune._Watch(Screen(console, console, quiet=True)) as watch:
        assert watch.live is None


# ------------------------------------------------------------------------------ export


def flags(*words: str) -> dict[str, Any]:
    return commands.export.make_context("export", list(words)).params


def test_files_of_an_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = export._files(flags("--output", "run.pt2"))
    assert (found.package, found.weights, found.decoder) == (Path("run.pt2"), None, None)
    assert (found.layout, found.inputs, found.start) == tuple(
        map(Path, ("run.json", "run.safetensors", "run-start.safetensors"))
    )
    found = export._files(flags("--output", "run.pt2", "--weights", "beside", "--decoder", "--start", "a.safetensors"))
    assert (found.weights, found.decoder) == (Path("run-weights.safetensors"), Path("run-decoder.pt2"))
    assert found.start == Path("a.safetensors")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["run.PT2"], Misuse, "--output run.PT2: a package is a .pt2 file"),
        (
            ["run.pt2", "--start", "./run.safetensors"],
            Misuse,
            "the inputs of --output and --start are one file, run",
        ),
        (["run.pt2", "--weights", "beside", "--weights-file", "w.pt"], Misuse, "--weights-file w.pt: let the name end"),
        (["run.pt2", "--start", "file/a.safetensors"], Failure, "cannot write"),
        (["folder.pt2"], Failure, "cannot write --output folder.pt2: it is a folder"),
        (["run.pt2", "--decoder"], Failure, "cannot write --decoder run-decoder.pt2: it is a folder"),
    ],
)
def test_files_that_an_export_cannot_have(tmp_path, monkeypatch, words, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for name in ("folder.pt2", "run-decoder.pt2"):
        (tmp_path / name).mkdir()
    with pytest.raises(error, match=message):
        export._files(flags("--output", *words))


@pytest.fixture
def exported(monkeypatch, tmp_path, capsys):
    """Export with these flags; return the exit code, what was done with what, and what was printed."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Any:
        done: list[Any] = []

        def recipe(order: Any, caching: Any) -> Any:
            done.append(("order", order.negative_prompt, dict(order.options), caching.effective.facts.steps))
            return SimpleNamespace(notes=(Note("a cut prompt"), Note("by default", "note")))

        monkeypatch.setattr(export, "open_engine", lambda *_: SimpleNamespace(recipe=recipe))
        monkeypatch.setattr(export, "prepare", lambda engine, recipe, prompt, seed: done.append((prompt, seed)))
        monkeypatch.setattr(export, "check_start", lambda found, files: done.append("checked"))
        monkeypatch.setattr(
            export, "write", lambda found, files: done.append("written") or (files.package, files.start)
        )
        monkeypatch.setattr(export, "write_start", lambda found, files: done.append("start") or files.start)
        return run(["export", "--output", "run.pt2", *words]), done, capsys.readouterr()

    return call


def test_every_flag_of_an_export_arrives(exported):
    words = ("--prompt", "a pear", "--seed", "7", "--steps", "9", "--negative-prompt", "", "--height", "32")
    code, done, shown = exported(*words)
    assert code == 0
    assert done == [("order", "", {"steps": 9, "height": 32}, 9), ("a pear", 7), "written"]
    assert shown.out.split() == ["run.pt2", "run-start.safetensors"]
    assert shown.err.splitlines()[:2] == ["warning: a cut prompt", "note: by default"]
    code, done, shown = exported("--only-start")
    assert (code, done[1:]) == (0, [("", 42), "checked", "start"]) and shown.out.split() == ["run-start.safetensors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "a \udcff"], "holds what is no character"),
        (["--height", "16000", "--width", "16000"], "16000 x 16000 pixels are latents of"),
    ],
)
def test_what_an_export_refuses_before_anything_is_loaded(exported, words, message):
    code, done, shown = exported(*words)
    assert code == 2 and not done and message in shown.err
