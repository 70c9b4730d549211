"""`puredit tune`, and `--plan` in the other commands."""

from pathlib import Path

import pytest

from pure.cli.main import run

SMALL = ["--num-inference-steps", "5", "--fit", "1", "--held-out", "1", "--refine", "none"]


def test_a_plan_is_made_drawn_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, plot = tmp_path / "mine.yaml", tmp_path / "curve.png"
    assert run(["tune", "--budget", "3", "2", *SMALL, "--output", str(plan), "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    files = [tmp_path / "mine-3.yaml", tmp_path / "mine-2.yaml"]
    assert all(f"plan: {file}" in shown and file.is_file() for file in files)
    assert "refined" in shown and "worst tenth" in shown and plot.stat().st_size > 10_000
    assert len(list((tmp_path / "mine.recording").iterdir())) == 2
    prompt = ["--prompt", "a fox on a white background", "--num-inference-steps", "5"]
    assert run(["generate", *prompt, "--plan", str(files[0]), "--output-path", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "3 of 5" in shown.out and "warning" not in shown.err
    assert run(["generate", *prompt, "--width", "128", "--plan", str(files[0]), "--output-path", str(tmp_path)]) == 0
    assert "64 x 64 pixels, not 128 x 64;" in " ".join(capsys.readouterr().err.split())


def test_a_plan_is_a_file_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "--show", "--plan", "ultra"]) == 0
    shown = capsys.readouterr().out
    assert "ultra.yaml" in shown and "warning: " not in shown


def test_the_effective_configuration_says_what_its_plan_will_not_do(capsys: pytest.CaptureFixture[str]) -> None:
    for params, said in (
        (
            '{"cache_type": "EasyCache"}',
            "nothing will be skipped: easycache computes every one of 6 steps; use a ",
        ),
        ('{"Fn_compute_blocks": 12}', "no block is left to skip: the first 12 and the last 0 of 12 blocks always run"),
    ):
        assert run(["config", "--show", "--num-inference-steps", "6", "--cache-dit-params", params]) == 0
        assert f"warning: {said}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune"], "give --budget: computed steps such as 11, a time ratio"),
        (["tune", "--budget", "quick"], "the budget 'quick' is no number of computed steps"),
        (["tune", "--budget", "28"], "a whole number of 1 to 27"),
        (["tune", "--budget", "3", "--output", "plan.txt"], "--output plan.txt: a plan is YAML"),
        (["tune", "--budget", "3", "--plot", "plot.jpg"], "--plot plot.jpg: the plot is a PNG"),
        (["tune", "--budget", "3", "--prompts", "no.txt"], "prompts no.txt cannot be read"),
        (["tune", "--budget", "3", "--front", "12"], "whole numbers of 0 to 11, the denoiser has 12 blocks"),
        (["tune", "--budget", "3", "--fit", "100"], "112 different prompts are needed and the built-in list 'emoji'"),
        (["tune", "--budget", "3", "--true-cfg-scale", "3", "--model-path", "no-such-folder/x/y"], "no-such-folder"),
        (
            ["generate", "--prompt", "a", "--plan", "no.cache"],
            "--plan no.cache: it has no cache_config, which says",
        ),
        (["generate", "--prompt", "a", "--plan", "quick"], "--plan quick: there is no such file; plans of this"),
        (
            ["generate", "--prompt", "a", "--plan", "fast", "--cache-dit-config", "cache.yaml"],
            "give only one of the two",
        ),
        (["generate", "--prompt", "a", "--plan", "fast", "--num-inference-steps", "20"], "run 28 steps"),
    ],
)
def test_mistakes(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.cache").write_text("attention_backend: native")
    assert run(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("*.yaml"))
