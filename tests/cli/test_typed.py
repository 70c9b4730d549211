"""What is typed: numbers as they are written, sizes that can be, names that a disk takes, files of flags, typos."""

import errno
import re
from pathlib import Path

import pytest

from pure.cli.options import FLAGS
from pure.cli.spelling import unknown
from tests.support.forked import command

LONG = "a" * 5000
NAMES = sorted({name for flag in FLAGS for name in flag.opts if name.startswith("--")})


@pytest.mark.parametrize("typed", ["1_0", " 1", "1 ", "\uff11\uff12", "\xb2", "0x10", "1e3", "1.0", "", "--", "\u096f"])
@pytest.mark.parametrize("flag", ["--seed", "--height", "--num-inference-steps", "--batch-size"])
def test_whole_numbers_are_digits(puredit, unloaded, flag, typed):
    code, out, err = puredit("generate", "--prompt", "a", f"{flag}={typed}")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: Invalid value for '{flag}': {typed!r} is not a whole number")


@pytest.mark.parametrize("typed", ["1_0.5", " 1", "\uff11", "nan", "inf", "1e400", "9" * 400, "0x1p3", ""])
def test_numbers_are_finite_and_written_in_digits(puredit, unloaded, typed):
    code, _, err = puredit("generate", "--prompt", "a", f"--guidance-scale={typed}")
    assert code == 2 and "is not a finite number of at least 0 and at most 1000" in err and len(err) < 250


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--height", "100000"), "'100000' is not a whole number from 1 to 16384"),
        (("--width", "9" * 5000), "is not a whole number from 1 to 16384"),
        (("--height", "7"), "--height 7 is not a positive multiple of 4 pixels; the nearest size is 8"),
        (("--width", "31"), "--width 31 is not a positive multiple of 4 pixels; the nearest size is 32"),
        (
            ("--warmup-mode", "request", "--warmup-resolutions", "32x31"),
            "--warmup-resolutions: height 31 is not a positive multiple of 4 pixels; the nearest size is 32",
        ),
        (("--height", "16000", "--width", "16000"), "16000 x 16000 pixels are latents of 64,000,000 numbers"),
        (("--batch-size", "1000000000"), "is not a whole number from 1 to 1024"),
        (("--num-inference-steps", "1000000000"), "is not a whole number from 1 to 10000"),
        (("--num-frames", "1000000000"), "is not a whole number from 1 to 10000"),
        (("--max-sequence-length", "100000"), "--max-sequence-length 100000: this model reads at most 512 tokens"),
        (("--num-gpus", "1000000000"), "is not a whole number from 1 to 256"),
        (("--warmup-mode", "request", "--warmup-resolutions", "100000x64"), "each side at most 16384"),
        (("--warmup-mode", "request", "--warmup-resolutions", "\uff16\uff14x64"), "write WIDTHxHEIGHT, like 64x64"),
        (("--warmup-mode", "request", "--warmup-resolutions", "9" * 5000 + "x1"), "write WIDTHxHEIGHT, like 64x64"),
        (("--warmup-mode", "request", "--warmup-steps", "1000000000"), "is not a whole number from 1 to 10000"),
    ],
)
def test_sizes_are_refused_before_loading(puredit, unloaded, tmp_path, words, message):
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert (code, out) == (2, "") and message in err and len(err) < 300
    assert not list(tmp_path.iterdir())


def test_what_is_refused_late_leaves_no_folder(puredit, tmp_path):
    words = ("--cache-dit-params", '{"Fn_compute_blocks": 7}', "--output-path", "new/folder")
    code, _, err = puredit("generate", "--prompt", "a", *words)
    assert code == 2 and "the denoiser has 6" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output-file-name", LONG), "cannot write --output-file-name outputs/aaa"),
        (("--output-path", LONG), "cannot write into --output-path aaa"),
        (("--output-file-path", f"{LONG}.png"), "cannot write --output-file-path aaa"),
        (("--perf-dump-path", LONG), "cannot write --perf-dump-path aaa"),
        (("--plot", f"{LONG}.png"), "cannot write --plot aaa"),
        (("--config", f"{LONG}.yaml"), "(5005 characters) cannot be read: File name too long"),
        (("--prompt-file-path", LONG), "(5000 characters) cannot be read: File name too long"),
        (("--cache-dit-config", "9" * 5000), "(5000 characters): found File name too long; allowed: a readable YAML"),
    ],
)
def test_a_name_of_thousands_of_characters_is_not_repeated(puredit, unloaded, tmp_path, words, message):
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert code in (1, 2) and out == "" and message in err and "OSError" not in err and len(err) < 500
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "seed: 1\nheight: 32\nseed: 2\n", "a.yaml:3:1: seed: found the key for the second time"),
        ("a.json", '{"seed": 1, "seed": 2}', "a.json:1:13: seed: found the key for the second time"),
        ("a.yaml", "seed: 1\n---\nseed: 2\n", "a.yaml:2:1: found an error: expected a single document"),
        ("a.json", '{"seed": ' + "9" * 5000 + "}", "a.json: found a number of more than 4300 digits"),
        ("a.json", '{"guidance_scale": Infinity}', "the number inf is not a finite number"),
        ("a.json", "[" * 100_000, "values nested too deeply"),
        ("a.yaml", "? [a, b]\n: 3\n", "there is no setting"),
        ("a.yaml", "no_save_output: maybe\n", "'maybe' is not a valid boolean"),
        ("a.yaml", "seed: [1, [2]]\n", "seed holds [2]; write a text in quotes, a number, true or false"),
        ("a.yaml", "prompt: no\n", "a.yaml: prompt holds false; if it is text, put it in quotes"),
        ("a.yaml", "prompt: [cat, 1.50]\n", "a.yaml: prompt holds the number 1.5; if it is text, put it in quotes"),
        ("a.json", '{"output_file_name": 3}', "output_file_name holds the number 3; if it is text, put it in quotes"),
        ("a.yaml", "prompt: 2024-01-01\n", "write a text in quotes, a number, true or false"),
        ("a.yaml", "prompt: a cat: red\n", "put a text with a colon in it in quotes"),
        (
            "a.yaml",
            "seed: 1_0\n",
            "a.yaml:1:7: found 1_0, which YAML reads as 10; allowed: a YAML document; write 10 if",
        ),
    ],
)
def test_a_file_of_flags_says_everything_once(puredit, unloaded, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    code, out, err = puredit("generate", "--prompt", "a", "--config", name)
    assert (code, out) == (2, "") and message in err and len(err) < 400


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--output-file-path", "a.png", "--plot", "./a.png"),
            "--plot and --output-file-path are one file, a.png; give another name",
        ),
        (
            ("--output-file-path", "out/a.png", "--perf-dump-path", "out/../out/a.png"),
            "--perf-dump-path and --output-file",
        ),
        (
            ("--output-path", "", "--plot", "a.png", "--perf-dump-path", "a.png"),
            "--perf-dump-path and --plot are one file",
        ),
        (("--cache-dit-config", "c.yaml", "--perf-dump-path", "c.yaml"), "--perf-dump-path and --cache-dit-config are"),
        (
            ("--prompt-file-path", "p.txt", "--perf-dump-path", "link"),
            "--perf-dump-path and --prompt-file-path are one",
        ),
        (("--config", "f.yaml", "--perf-dump-path", "f.yaml"), "--perf-dump-path and --config are one file"),
        (("--output-path", "a\0b"), "--output-path holds the character NUL; leave it out"),
        (("--config", "nul.yaml"), "--perf-dump-path holds the character NUL; leave it out"),
    ],
)
def test_no_file_replaces_another_and_nothing_is_set_in_vain(puredit, unloaded, tmp_path, words, message):
    files = {"c.yaml": "cache_config: {Fn_compute_blocks: 1}", "p.txt": "a cat", "f.yaml": "seed: 3"}
    files["nul.yaml"] = 'perf_dump_path: "a\\0b"'
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to("p.txt")
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert (code, out) == (2, "") and message in err
    assert {each.name for each in tmp_path.iterdir()} == {*files, "link"}
    assert all((tmp_path / name).read_text() == text for name, text in files.items())


def test_a_flag_that_another_leaves_without_effect_is_said(puredit, tmp_path):
    words = ("--warmup-steps", "3", "--no-save-output", "--output-file-name", "a.png", "--num-inference-steps", "1")
    code, _, err = puredit("generate", "--prompt", "a", *words)
    assert code == 0 and not list(tmp_path.iterdir())
    assert "--warmup-steps 3 has no effect: add --warmup-mode request" in err
    assert "--output-file-name has no effect: nothing is saved" in err


def test_a_file_of_flags_can_say_that_nothing_is_saved(puredit, tmp_path):
    (tmp_path / "flags.yaml").write_text("no_save_output: true\nnum_inference_steps: 1\nmax_sequence_length: 8\n")
    code, out, err = puredit("generate", "--prompt", "a", "--config", "flags.yaml")
    assert code == 0 and ".png" not in out, err
    assert [path.name for path in tmp_path.iterdir()] == ["flags.yaml"]


def swapped(name: str) -> str:
    """A flag with two neighbouring letters in the other order: the first two of its longest word that differ."""
    start = name.index(max(name.lstrip("-").split("-"), key=len))
    at = next(i for i in range(start + 1, len(name) - 1) if name[i] != name[i + 1])
    return name[:at] + name[at + 1] + name[at] + name[at + 2 :]


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) > 5])
def test_every_flag_is_guessed_from_a_typo(name):
    found = re.search(r"did you mean (\S+)\?", unknown(swapped(name), NAMES))
    assert found is not None and (found[1] == name or found[1].split("-")[2] == name.split("-")[2]), found


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--stesp", "--num-inference-steps"),
        ("--modle", "--model-path"),
        ("--quiet", "--log-level"),
        ("--ouput", "--output-path"),
    ],
)
def test_what_other_programs_call_a_flag_is_guessed_from_a_typo_too(typed, meant):
    assert unknown(typed, NAMES) == f"there is no flag {typed}; did you mean {meant}?"


def test_a_dash_and_a_letter_are_no_prompt(puredit, unloaded):
    code, _, err = puredit("generate", "--prompt", "a", "-q")
    assert code == 2 and err == "error: there is no flag -q; did you mean --log-level?\n"


@pytest.mark.parametrize("level", ["warning", "error"])
def test_warnings_are_shown_at_every_level(puredit, level):
    words = ("--num-inference-steps", "1", "--max-sequence-length", "8", "--enable-cache-dit", "--log-level", level)
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert code == 0 and out.endswith(".png\n") and out.count("\n") == 1
    assert err.startswith("warning: nothing will be skipped: a run of 1 step") and "note: " not in err


def test_a_full_disk_leaves_what_is_finished(puredit, tmp_path, monkeypatch):
    """Whatever file is the one that does not fit any more, it is named, and the files before it are there."""
    from pure.engine import writing

    written, real = [], writing.os.replace

    def replace(old, new):
        if len(written) == room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(str(new))
        real(old, new)

    monkeypatch.setattr(writing.os, "replace", replace)
    words = ("--num-inference-steps", "2", "--max-sequence-length", "8", "--output-file-name", "a.png")
    words = (*words, "--plot", "plot.png", "--perf-dump-path", "perf.json")
    for room, name in enumerate(("a.png", "a-without-cache.png", "plot.png", "perf.json")):
        written.clear()
        code, out, err = puredit(
            "generate", "--prompt", "a", *words, "--plot", "plot.png", "--perf-dump-path", "perf.json"
        )
        assert code == 1 and f"{name}: No space left on device; free some space or choose another folder" in err
        assert len(written) == room and all((tmp_path / path).is_file() for path in written)
        assert all(path in out for path in written if "plot" not in path)
        assert not list(tmp_path.rglob("*.tmp"))


def test_an_output_that_is_full_is_named(checkpoint, tmp_path):
    words = ("--num-inference-steps", "1", "--max-sequence-length", "8", "--output-path", str(tmp_path))
    words = ("generate", "--model-path", str(checkpoint), "--prompt", "a", *words)
    with command(words, tmp_path, out=Path("/dev/full")) as process:
        assert process.wait() == 1
    assert "error: cannot write to standard output: No space left on device" in process.err.read_text()
    assert len(list(tmp_path.glob("*.png"))) == 1
