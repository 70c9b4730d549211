"""What a shell shows before anything runs: help, version, completion, and flags that do not exist."""

import ast
import json
import os
import subprocess
import sys

import pytest

import pure
from pure.cli.commands import COMMANDS
from pure.cli.main import run
from pure.cli.spelling import ELSEWHERE
from tests.structure.source import ROOT, syntax

HEAVY = ("torch", "numpy", "diffusers", "transformers", "PIL", "safetensors")
LIGHT = [
    "--help",
    "--version",
    "-V",
    "generate --help",
    "serve --help",
    "config --help",
    "export --help",
    "models -h",
    "genrate",
]


def command(*words: str, **environ: str) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    code = (
        "import json, sys; from pure.cli.main import run\n"
        "try: code = run(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "print('MODULES', json.dumps(sorted(sys.modules)), code)"
    )
    found = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=found, capture_output=True, text=True, timeout=120, check=True
    )


@pytest.mark.parametrize("words", [*LIGHT, "generate --promt x", "generate --steps 4"])
def test_what_runs_nothing_imports_nothing_heavy(words):
    done = command(*words.split())
    last = done.stdout.splitlines()[-1]
    modules = {name.split(".")[0] for name in json.loads(last.removeprefix("MODULES").rpartition("]")[0] + "]")}
    assert "pure" in modules and not modules & set(HEAVY), modules & set(HEAVY)


def test_completion_imports_nothing_heavy():
    done = command(_PUREDIT_COMPLETE="bash_complete", COMP_WORDS="puredit generate --see", COMP_CWORD="2")
    assert "plain,--seed" in done.stdout and not done.stderr
    assert not any(f'"{name}"' in done.stdout for name in HEAVY)


def test_public_names_of_the_core_have_one_home():
    tree = syntax(ROOT / "pure" / "__init__.py")
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"pure.{module}" for name, module in pure._HOME.items()}
    assert sorted(typed) == sorted(pure.__all__) and set(pure.__all__) <= set(dir(pure))
    with pytest.raises(AttributeError, match="'pure' has no attribute 'nothing'"):
        _ = pure.nothing  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def shown(capfd, monkeypatch):
    """Return what a command prints, at a width."""

    def call(*words: str, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        capfd.readouterr()
        assert run(list(words)) == 0
        return capfd.readouterr().out

    return call


@pytest.mark.parametrize("name", ["generate", "serve", "config", "models"])
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_is_readable_at_any_width(shown, name, columns):
    text, _, examples = shown(name, "--help", columns=columns).partition("\nExamples:\n")
    assert "\\b" not in text and "\b" not in text
    long = [line for line in text.splitlines() if len(line) > columns]
    assert all(line.lstrip().startswith("-") for line in long), long  # names of flags are not broken
    (found,) = [each for each in COMMANDS if each.name == name]
    assert examples.splitlines() == [f"  {example}" for example in found.examples]  # pyright: ignore


def test_a_wide_help_says_beside_a_name_what_a_narrow_one_says_below_it(shown):
    """Beside it in one column; names that reach into that have it below, in the same column."""
    said = "Denoising steps."
    (wide,) = [line for line in shown("generate", "--help").splitlines() if said in line]
    (narrow,) = [line for line in shown("generate", "--help", columns=60).splitlines() if said in line]
    assert 30 < wide.index(said) < 40 and narrow.index(said) < 8 and narrow.strip().startswith(said)
    columns = {len(line) - len(line.lstrip()) for line in shown("generate", "--help").splitlines()}
    assert max(columns) == wide.index(said), "what goes on in a second line stands below the first"


def test_version(shown):
    assert shown("-V") == shown("--version") == f"puredit, version {pure.__version__}\n"


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "pure", "--version"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"puredit, version {pure.__version__}\n"


def test_names_of_other_programs_lead_to_flags_that_exist():
    flags = {name for each in COMMANDS for param in each.params for name in (*param.opts, "--version")}
    assert set(ELSEWHERE.values()) <= flags and not set(ELSEWHERE) & {"--help", "--prompt", "--seed"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--steps", "--num-inference-steps"),
        ("--cfg-scale", "--guidance-scale"),
        ("--model", "--model-path"),
        ("--output", "--output-path"),
        ("-p", "--prompt"),
        ("--num_steps", "--num-inference-steps"),
        ("--sp-size", "--sp-degree"),
    ],
)
def test_a_flag_of_another_program(capfd, typed, meant):
    assert run(["generate", typed, "4", "--prompt", "a"]) == 2
    assert f"there is no flag {typed}; did you mean {meant}?" in capfd.readouterr().err


def test_all_unknown_flags_are_told_at_once(capfd):
    assert run(["generate", "--promt", "a", "b", "--steps", "4", "--sed=1"]) == 2
    err = capfd.readouterr().err
    assert err.splitlines() == [
        "error: there is no flag --promt; did you mean --prompt?",
        "there is no flag --steps; did you mean --num-inference-steps?",
        "there is no flag --sed; did you mean --seed?",
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("gen", ["plain,generate"]),
        ("generate --num-inf", ["plain,--num-inference-steps"]),
        ("generate --backend s", ["plain,sglang"]),
        ("generate --compare ", ["plain,true", "plain,false"]),
        ("generate --model-path ", ["dir,"]),
        ("generate --image-path pic", ["file,pic"]),
        (
            "generate --cache-dit-config cache_scm",
            ["plain,cache_scm.yaml", "plain,cache_scm_cfg.yaml", "file,cache_scm"],
        ),
        ("generate --nothing x --se", ["plain,--seed"]),
        ("serve --log-level w", ["plain,warning"]),
    ],
)
def test_completion(typed, expected):
    words = f"puredit {typed}"
    place = len(words.split()) - (not words.endswith(" "))
    done = command(_PUREDIT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(place))
    found = [line for line in done.stdout.splitlines() if not line.startswith("MODULES")]
    assert (found[: len(expected)] if typed.endswith("--se") else found) == expected
    assert not done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell):
    done = command(_PUREDIT_COMPLETE=f"{shell}_source")
    assert "_PUREDIT_COMPLETE" in done.stdout and not done.stderr


@pytest.mark.parametrize("words", [["config", "--reference"], ["models", "--json"]])
def test_a_broken_pipe_is_no_success(words):
    """Whoever reads the output goes away before it comes."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pure", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_flag_like_no_other_gets_no_guess(capfd):
    assert run(["generate", "--nonsense", "3", "--upscaling"]) == 2
    assert capfd.readouterr().err.splitlines() == [
        "error: there is no flag --nonsense; --help lists the flags",
        "there is no flag --upscaling; --help lists the flags",
    ]


def test_a_stream_that_the_shell_has_closed_is_written_to_nothing():
    code = "import sys; from pure.cli.main import main; sys.argv[1:] = ['generate', '--promt']; main()"
    for closed, said in ((">&-", True), ("2>&-", False)):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], capture_output=True, text=True
        )
        assert done.returncode == 2 and ("did you mean --prompt?" in done.stderr) == said and not done.stdout
    code = "import sys; from pure.cli.main import _open_streams; _open_streams(); print(sys.stdout.isatty())"
    assert subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code]).returncode == 0
