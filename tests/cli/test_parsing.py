"""The grammar of the flags."""

import json

import click
import pytest

from pure.cli.options import FLAGS
from pure.cli.parsing import read_defaults, rewrite
from pure.cli.values import Json, boolean, number, whole
from pure.engine.errors import Misuse

KNOWN = {name: flag for flag in FLAGS for name in flag.opts}


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--prompt", "a cat"], ["--prompt=a cat"]),
        (["--prompt", "a", "b", "--seed", "1", "2"], ["--prompt=a", "--prompt=b", "--seed=1", "--seed=2"]),
        (["--prompt=a", "--prompt", "b"], ["--prompt=a", "--prompt=b"]),
        (["--prompt", "-- a dash", "-x"], ["--prompt=-- a dash", "--prompt=-x"]),
        (["--prompt=--seed"], ["--prompt=--seed"]),
        (["--warmup", "--seed", "1"], ["--warmup=true", "--seed=1"]),
        (["--warmup", "FALSE", "--seed", "1"], ["--warmup=FALSE", "--seed=1"]),
        (["--warmup=false"], ["--warmup=false"]),
        (["--seed", "1", "--compare"], ["--seed=1", "--compare=true"]),
        (["--no-save-output", "--seed", "1"], ["--no-save-output", "--seed=1"]),
        (["--negative-prompt", ""], ["--negative-prompt="]),
        (["--seed", "-1"], ["--seed=-1"]),
        ([], []),
    ],
)
def test_words_become_flags_with_values(typed, read):
    assert rewrite(typed, KNOWN) == read


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--promt", "a"], r"there is no flag --promt; did you mean --prompt\?"),
        (["--prompt-file", "a"], r"no flag --prompt-file; did you mean --prompt-file-path\?"),
        (["--num_inference_steps", "4"], r"written with dashes: --num-inference-steps"),
        (["--xyzzy"], r"no flag --xyzzy; --help lists the flags"),
        (["-s", "4"], r"there is no flag -s"),
        (["apple"], r"unexpected word 'apple'; a value with spaces goes in quotes"),
        (["--height", "64", "64"], r"unexpected word '64' after --height"),
        (
            ["--output-path", "--seed", "1"],
            r"--output-path needs a value; if '--seed' is the value, write",
        ),
        (["--prompt"], r"--prompt needs a value"),
        (["--no-save-output=true"], r"--no-save-output takes no value"),
    ],
)
def test_wrong_words_are_named(typed, message):
    with pytest.raises(Misuse, match=message):
        rewrite(typed, KNOWN)


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (boolean(), "True", True),
        (boolean(), False, False),
        (whole(1), "28", 28),
        (whole(0), 0, 0),
        (number(), "3.5", 3.5),
        (number(), 4, 4.0),
        (Json(), '{"a": [1]}', {"a": [1]}),
        (Json(), {"a": 1}, {"a": 1}),
    ],
)
def test_values_are_converted(kind, given, value):
    converted = kind.convert(given, None, None)
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (boolean(), "maybe", "'maybe' is not true or false"),
        (whole(1), "0", "'0' is not a whole number of at least 1"),
        (whole(1), 3.7, "3.7 is not a whole number"),
        (whole(1), True, "True is not a whole number"),
        (whole(0), str(2**70), "at most"),
        (number(), "nan", "'nan' is not a finite number of at least 0"),
        (number(), "inf", "'inf' is not a finite number"),
        (number(), True, "True is not a finite number"),
        (Json(), "{a: 1}", "is not JSON"),
        (Json(), "[1]", "a JSON object"),
    ],
)
def test_wrong_values_are_named(kind, given, message):
    with pytest.raises(click.BadParameter, match=message):
        kind.convert(given, None, None)


def test_a_file_of_flags(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("prompt: a cat\nseed: [1, 2]\nnum_outputs: 2\nheight:\n")
    assert read_defaults(file, KNOWN) == {"prompt": ["a cat"], "seed": [1, 2], "num_outputs_per_prompt": 2}
    file.write_text("")
    assert read_defaults(file, KNOWN) == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "sed: 3", r"a.yaml: there is no setting 'sed'; did you mean 'seed'\?"),
        ("a.yaml", "num-outputs: 3", r"no setting 'num-outputs'; did you mean 'num_outputs"),
        ("a.json", "[1]", "a.json holds list"),
        ("a.json", "{", "cannot be understood"),
        ("a.yaml", "a: [", "cannot be understood"),
        ("a.yaml", "a: &x [*x]", "cannot be understood:\n.*an alias of a value that contains it"),
        ("a.toml", "", "a file ending in .json, .yaml or .yml is wanted"),
        ("a.yaml", "config: b.yaml", "there is no setting 'config'"),
        ("a.yaml", "help: true", "there is no setting 'help'"),
    ],
)
def test_wrong_files_of_flags(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(Misuse, match=message):
        read_defaults(file, KNOWN)


def test_a_missing_file_of_flags(tmp_path):
    with pytest.raises(Misuse, match="cannot be read: No such file"):
        read_defaults(tmp_path / "a.yaml", KNOWN)


@pytest.mark.parametrize(("key", "value"), [("image_path", [None]), ("prompt", [{}]), ("seed", [[1]]), ("height", [1])])
def test_what_a_file_cannot_give_a_flag(puredit, tmp_path, key, value):
    (tmp_path / "flags.json").write_text(json.dumps({key: value}))
    code, _, err = puredit("generate", "--prompt", "a", "--config", "flags.json")
    assert code == 2 and f"flags.json: {key} holds" in err and "write a text in quotes, a number, true or false" in err
