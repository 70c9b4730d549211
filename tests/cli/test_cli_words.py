"""What commands make of words, files of flags and names, without a model: each goes where it belongs or is refused."""

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from PIL import Image

from pure.cli import command as command_of
from pure.cli import commands
from pure.cli.naming import automatic, beside, plan, suffix_of
from pure.cli.options import FLAGS
from pure.cli.parsing import Formatter, read_defaults, rewrite
from pure.cli.refusals import refuse
from pure.cli.spelling import unknown
from pure.cli.values import Json, whole
from pure.engine.engine import Order
from pure.engine.errors import Failure, Misuse
from pure.engine.sample import Sample
from pure.engine.unsupported import Refusal
from pure.notes import Note

WHEN = datetime(2026, 11, 23)
KNOWN = {name: flag for flag in FLAGS for name in flag.opts}
NAMES = sorted(name for name in KNOWN if name.startswith("--"))


def values(*words: str, name: str = "generate") -> dict[str, Any]:
    """The flags of a command as parsed."""
    found: Any = getattr(commands, name)
    return found.make_context(name, list(words)).params


# ------------------------------------------------------------------------------ words


def test_what_is_no_flag_here_is_not_guessed():
    assert unknown("--model-id", ["--seed", "--height"]) == "there is no flag --model-id; --help lists the flags"
    assert unknown("-w", NAMES) == "there is no flag -w; --help lists the flags"
    assert unknown("--num_gpus", NAMES).endswith("flags are written with dashes: --num-gpus")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "1", "x"], r"'1'|unexpected word"),
        (["--height", "1", "x"], "unexpected word 'x' after --height; a value with spaces goes in quotes"),
        (["--height", "1", "--nothing=1", "x"], "unexpected word 'x'; a value"),
        (["x"], "unexpected word 'x'; a value with spaces"),
        (["--nothing", "1", "2", "--neither"], "there is no flag --nothing; .*\nthere is no flag --neither"),
        (["--height", "--width", "1"], "--height needs a value; if '--width' is the value, write --height=--width"),
        (["--height"], "--height needs a value$"),
        (["--no-save-output=1"], "--no-save-output takes no value, got '1'"),
    ],
)
def test_words_that_cannot_be_read(words, message):
    if words == ["--seed", "1", "x"]:
        assert rewrite(words, KNOWN) == ["--seed=1", "--seed=x"]
        return
    with pytest.raises(Misuse, match=message):
        rewrite(words, KNOWN)


def test_words_are_read_as_values_of_their_flags():
    words = ["--prompt", "a", "--b c", "-1", "--compare", "--height", "1", "--plot=a=b", "--debug", "false"]
    assert rewrite(words, KNOWN) == [
        "--prompt=a", "--prompt=--b c", "--prompt=-1", "--compare=true", "--height=1", "--plot=a=b", "--debug=false"
    ]  # fmt: skip


def test_a_file_of_flags_knows_all_but_help_and_itself(tmp_path):
    known = {**KNOWN, "--help": click.Option(["--help"])}
    for name in ("help", "config", "heigth", "height-"):
        (tmp_path / "a.yaml").write_text(f"{name}: 1\n")
        with pytest.raises(Misuse, match=f"there is no setting '{name}'"):
            read_defaults(tmp_path / "a.yaml", known)
    (tmp_path / "a.yaml").write_text("seed: 0\nwidth:\ncompare: false\nprompt: ''\n")
    assert read_defaults(tmp_path / "a.yaml", known) == {"seed": [0], "compare": False, "prompt": [""]}


def test_the_last_file_of_flags_counts(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(f"seed: {number}\n")
    paths = [str(tmp_path / f"{number}.yaml") for number in (1, 2)]
    assert values("--config", paths[0], "--config", paths[1])["seed"] == (2,)


def test_a_nul_is_found_in_every_text_of_a_flag():
    with pytest.raises(Misuse, match="--prompt holds the character NUL; leave it out"):
        values("--prompt", "a", "b\0")
    with pytest.raises(Misuse, match=r"--image-paths? holds the character NUL"):
        values("--image-path", "a", "b\0")


def test_what_a_shell_completes():
    def completed(name: str, typed: str) -> list[tuple[str, str]]:
        ctx: Any = click.Context(commands.COMMANDS[0])
        return [(each.value, each.type) for each in KNOWN[name].shell_complete(ctx, typed)]

    assert completed("--compare", "") == [("true", "plain"), ("false", "plain")]
    assert completed("--compare", "f") == [("false", "plain")]
    assert completed("--output-path", "a") == [("a", "dir")] and completed("--plot", "a") == [("a", "file")]
    packaged = [name for name, kind in completed("--cache-dit-config", "cac") if kind == "plain"]
    assert packaged == sorted(packaged) and packaged and all(name.startswith("cac") for name in packaged)
    for typed in ("/x", "a/*", "[", "**"):
        assert completed("--cache-dit-config", typed) == [(typed, "file")]
    assert not completed("--height", "")


def test_a_value_of_sixty_characters_is_repeated_and_a_longer_one_is_cut():
    for count, said in ((60, f"'{'x' * 60}' is not"), (61, f"'{'x' * 60}'... (61 characters) is not")):
        with pytest.raises(click.BadParameter) as error:
            whole(1).convert("x" * count, None, None)
        assert error.value.message.startswith(said)


def test_help_is_as_wide_as_it_is_told():
    assert Formatter(width=50).width == 50 and 30 <= Formatter(max_width=40).width <= 40


def test_values_that_python_cannot_nest():
    with pytest.raises(click.BadParameter, match="is not JSON"):
        Json().convert("[" * 100_000, None, None)
    with pytest.raises(click.BadParameter, match=r"is list; a JSON object \{...\} is wanted"):
        Json().convert("[]", None, None)


def test_refused_flags_are_told_as_they_were_typed(monkeypatch):
    said = {name: Refusal("not here") for name in ("one_more", "two", "three", "four")}
    given = {"one_more": ("a", "b"), "two": True, "three": False, "four": 0.5}
    with monkeypatch.context() as patch, pytest.raises(Misuse) as error:
        patch.setattr("pure.cli.refusals.FLAGS", said)
        refuse(given)
    assert [line.partition(" is not")[0] for line in error.value.message.splitlines()] == [
        "--one-more a b",
        "--two",
        "--four 0.5",
    ]
    with pytest.raises(Misuse, match="--warmup-mode server is not available: server is a mode of puredit serve"):
        refuse(values("--warmup-mode", "server"))


def test_a_server_has_one_model():
    for words in (("a", "--model-path", "b"), ("a", "--model-path=b")):
        with pytest.raises(Misuse, match="a and --model-path both name the model; give one of them"):
            values(*words, name="serve")
    assert values("a", "--port", "1", name="serve")["model_path"] == "a"


def test_a_file_of_flags_is_a_mapping(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(Misuse, match=r"a\.json holds list; it should map flag names to values, like seed: 42"):
        read_defaults(tmp_path / "a.json", KNOWN)
    (tmp_path / "a.json").write_text("null")
    assert read_defaults(tmp_path / "a.json", KNOWN) == {}


@pytest.mark.parametrize(("old", "mode", "legacy"), [("true", "off", "request"), ("false", "request", "off")])
def test_two_flags_of_one_warm_up_agree(old, mode, legacy):
    message = f"--warmup means --warmup-mode {legacy} and contradicts --warmup-mode {mode}; give only one"
    with pytest.raises(Misuse, match=message):
        command_of.warmup_mode(values("--warmup", old, "--warmup-mode", mode))
    assert command_of.warmup_mode(values("--warmup", old, "--warmup-mode", legacy)) == legacy
    assert command_of.warmup_mode(values("--warmup", old)) == legacy and command_of.warmup_mode(values()) is None
    with pytest.raises(Misuse, match="--warmup-resolutions sets the sizes of a warm-up, and there is none"):
        command_of._warmup(values("--warmup-mode", "off", "--warmup-resolutions", "64x64"))


# ------------------------------------------------------------------------------ names and files


@pytest.mark.parametrize(
    ("name", "video", "ending"),
    [("a", False, ".png"), ("a", True, ".mp4"), ("a.PNG", False, ".png"), ("a.jpg", False, ".jpg"),
     ("a.jpeg", False, ".jpeg"), ("a.webp", False, ".webp"), ("a.MP4", True, ".mp4")],
)  # fmt: skip
def test_endings_of_files(name, video, ending):
    assert suffix_of(name, "--output-file-name", video) == ending


@pytest.mark.parametrize(
    ("name", "video", "message"),
    [
        ("a.png", True, "this model makes videos, written as .mp4; --save-frames adds images"),
        ("a.mp4", False, "--output-file-name a.mp4: .mp4 is a video, this model makes images; use .png, .jpg or .webp"),
        ("a.glb", False, ".glb is a mesh, this model makes images"),
        ("a.jpgg", False, "images are written as .png, .jpg, .jpeg, .webp; did you mean .jpg?"),
        ("a.xyzzy", False, "did you mean .png?"),
    ],
)
def test_endings_that_are_not_written(name, video, message):
    with pytest.raises(Misuse) as error:
        suffix_of(name, "--output-file-name", video)
    assert message in error.value.message


def test_names_of_files():
    assert automatic("x" * 150, WHEN, "").partition("_2026")[0] == "x" * 100
    assert automatic("\u00e9/..", WHEN, "").startswith("image_20261123-000000_")
    for name in ("..", ".", "", "a/b.png"):
        with pytest.raises(Misuse, match="is not a plain file name"):
            plan([("a", 1)], Path("out"), name, WHEN)
    assert beside(Path("a/b.c.png"), "2").name == "b.c-2.png"


def test_where_files_go_is_named_by_its_flag(tmp_path):
    (tmp_path / "file").touch()
    for flag, words in {
        "--output-file-path": ("--output-file-path", str(tmp_path / "file" / "x" / "a.png")),
        "--output-path": ("--output-path", str(tmp_path / "file" / "x")),
    }.items():
        with pytest.raises(Failure, match=f"cannot write into {flag} "):
            command_of._samples(values(*words), ["a"], WHEN, "", False)


@pytest.mark.parametrize(("seed", "count", "fine"), [(2**63 - 1, 1, True), (2**63 - 2, 2, True), (2**63 - 2, 3, False)])
def test_seeds_up_to_the_largest(seed, count, fine):
    given = values("--seed", "1", str(seed), "--num-outputs", str(count), "--no-save-output")
    if not fine:
        with pytest.raises(Misuse, match=f"{count} seeds from {seed} on go beyond"):
            command_of._samples(given, ["a"], WHEN, "", False)
        return
    found = command_of._samples(given, ["a", "b"], WHEN, "", False)
    assert [(one.prompt, one.seed, one.path) for one in found] == [
        (prompt, first + n, None) for prompt in "ab" for first in (1, seed) for n in range(count)
    ]


@pytest.mark.parametrize(
    ("words", "fine"),
    [((), True), (("--vae-precision", "fp32"), True), (("--vae-precision", "bf16"), False),
     (("--dit-precision", "bf16", "--vae-precision", "bf16"), True),
     (("--dit-precision", "bf16", "--vae-precision", "fp32"), False)],
)  # fmt: skip
def test_all_parts_have_one_precision(words, fine):
    given = values(*words)
    if fine:
        assert command_of._precision(given) == given["dit_precision"]
    else:
        with pytest.raises(Misuse, match=f"--vae-precision {given['vae_precision']}: all parts have one precision"):
            command_of._precision(given)


def test_how_a_checkpoint_is_loaded_comes_from_flags(monkeypatch):
    monkeypatch.setattr(command_of, "look", lambda path, **options: (path, options))
    words = ("--model-path", "a", "--dit-precision", "fp16", "--variant", "b", "--enable-torch-compile")
    options = {"precision": "fp16", "variant": "b", "compiled": True}
    assert command_of.checkpoint_of(values(*words)) == ("a", options)


def test_pictures_are_part_of_an_order_with_their_notes(monkeypatch):
    opened = tuple(SimpleNamespace(image=f"pixels {name}", notes=(Note(name),)) for name in "ab")
    monkeypatch.setattr(command_of, "pictures", lambda paths, found: opened[: len(paths)])
    checkpoint: Any = SimpleNamespace(found=None)
    words = ("--image-path", "a", "b", "--height", "32", "--negative-prompt", "", "--fps", "9", "--true-cfg-scale", "0")
    found = command_of.order_of(values(*words), checkpoint)
    assert found == Order(
        negative_prompt="", options={"height": 32, "true_cfg_scale": 0.0, "images": ("pixels a", "pixels b")},
        notes=(Note("a"), Note("b")), fps=9,
    )  # fmt: skip
    assert command_of.order_of(values(), checkpoint) == Order()


# ------------------------------------------------------------------------------ a command


PICTURE = Note("the picture is turned")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Make a command of these flags; its order has a note and two pictures."""
    monkeypatch.chdir(tmp_path)
    images = (Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue"))
    order = Order(notes=(PICTURE,), options={"images": images})
    monkeypatch.setattr(command_of, "order_of", lambda values, checkpoint: order)
    return lambda *words, **environ: command_of.make_command(values("--prompt", "a", *words), environ, WHEN)


def test_all_that_is_worth_saying_is_noted_before_work(command):
    words = ("--plot", "a.png", "--warmup-steps", "2", "--no-save-output", "--save-output", "true")
    texts = [(note.text.partition(":")[0], note.kind) for note in command(*words).notes]
    assert texts == [
        ("no cache is set, so --plot takes the default one", "note"),
        ("--warmup-steps 2 has no effect", "warning"), ("the picture is turned", "warning"),
    ]  # fmt: skip
    assert [note.text for note in command("--warmup", "--warmup-steps", "2").notes] == [PICTURE.text]
    found = command("--compare", "--enable-cache-dit", "--batch-size", "3", "--log-level", "error")
    assert (found.batch, found.compare, found.quiet, found.warmup, found.notes) == (3, True, True, 0, (PICTURE,))
    assert (command().batch, command("--log-level", "debug").quiet) == (None, False)


def test_hosts_compare_settings_prompts_and_pictures():
    caching: Any = SimpleNamespace(settings={"Fn": {"value": 1, "origin": "here"}})
    red, blue = (Order(options={"images": (Image.new("RGB", (4, 4), colour),)}) for colour in ("red", "blue"))
    samples = [Sample(prompt="a", seed=1, path=Path("a.png"))]
    one, other = (command_of._compared(order, caching, samples) for order in (red, blue))
    assert one["the input pictures"] != other["the input pictures"]
    assert (one["the settings of the cache"], one["the prompts and seeds"]) == ({"Fn": 1}, [("a", 1)])
