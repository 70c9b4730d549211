"""Which samples are made together, what is warmed up, and how a command ends, without a model."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import click
import pytest

from pure.cli import command as command_of
from pure.cli import generate, interruption, main
from pure.engine.errors import Failure, Interrupted, Misuse
from pure.models import NotFiniteError
from tests.structure.source import ROOT

SAMPLES = tuple(SimpleNamespace(prompt=f"prompt {number}", path=None) for number in range(5))


def command(**fields: Any) -> Any:
    usual = {"samples": SAMPLES, "batch": None, "compare": False, "warmup": 0, "warmup_sizes": (), "notes": ()}
    return SimpleNamespace(**{**usual, "plot": None, "perf": None, "quiet": True, **fields})


@pytest.mark.parametrize(("batch", "sizes"), [(None, [4, 1]), (2, [2, 2, 1]), (5, [5]), (9, [5]), (1, [1] * 5)])
def test_samples_are_made_in_order_in_batches_of_one_size(monkeypatch, batch, sizes):
    monkeypatch.setattr(generate, "batch_size", lambda *_: 4)
    engine, recipe = Mock(), Mock()
    groups = generate._groups(command(batch=batch), engine, recipe)
    assert [len(group) for group in groups] == sizes and sum(groups, ()) == SAMPLES


def test_prompts_that_do_not_fit_together_are_made_alone():
    tried = []

    def act(group):
        tried.append(group)
        if len(group) > 1:
            raise ValueError("other lengths")
        return group[0].prompt

    group: Any = SAMPLES[:3]
    assert list(generate._fitting(group, act)) == ["prompt 0", "prompt 1", "prompt 2"]
    assert tried == [group, *((sample,) for sample in group)]


def test_a_prompt_that_cannot_be_made_alone_either_is_a_mistake():
    def act(group):
        raise ValueError("no such prompt")

    with pytest.raises(Misuse, match="no such prompt"):
        list(generate._fitting(SAMPLES[:2], act))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "warmed"),
    [
        ({}, []),
        ({"warmup": 3}, [("cached", "prompt 0", 3)]),
        ({"compare": True}, [("cached", "prompt 0", 1), ("plain", "prompt 0", 1)]),
        ({"warmup": 2, "compare": True}, [("cached", "prompt 0", 2), ("plain", "prompt 0", 2)]),
        ({"warmup": 2, "warmup_sizes": ((8, 16), (4, 2))}, [("8 x 16", "prompt 0", 2), ("4 x 2", "prompt 0", 2)]),
    ],
)
def test_what_is_warmed_up(fields, warmed):
    found = []
    hand: Any = SimpleNamespace(warm_up=lambda key, recipe, prompt, count: found.append((recipe.name, prompt, count)))
    size = SimpleNamespace(height=8, width=16)
    engine: Any = SimpleNamespace(
        resized=lambda recipe, height, width: SimpleNamespace(name=f"{height} x {width}", request=size)
    )
    recipe: Any = SimpleNamespace(name="cached", request=size, uncached=SimpleNamespace(name="plain", request=size))
    generate._warming(command(**fields), engine, recipe)(hand)
    assert found == warmed


@pytest.mark.parametrize(
    ("mode", "old", "steps"),
    [(None, None, 0), ("off", None, 0), ("request", None, 3), (None, True, 3), (None, False, 0), ("request", True, 3)],
)
def test_a_warm_up_has_steps_where_one_is_set(mode, old, steps):
    values = {"warmup_mode": mode, "warmup": old, "warmup_resolutions": (), "warmup_steps": 3}
    assert command_of._warmup(values) == steps


@pytest.fixture
def performing(monkeypatch):
    """Perform a command whose samples become what is given; return what was told at the end."""

    def perform(*outcomes, **fields):
        told = []

        def produced(*_):
            for each in outcomes:
                if isinstance(each, BaseException) and not isinstance(each, NotFiniteError):
                    raise each
                yield each

        monkeypatch.setattr(generate, "make_screen", lambda quiet: None)
        monkeypatch.setattr(generate, "load", lambda *_: (None, SimpleNamespace(idle=fields.pop("idle", False))))
        monkeypatch.setattr(generate, "make_hands", lambda *_: ())
        monkeypatch.setattr(generate, "_produced", produced)
        monkeypatch.setattr(generate, "settings", lambda *_: {})
        monkeypatch.setattr(generate, "report", lambda made, *_: len(made))
        monkeypatch.setattr(generate, "write_report", lambda path, content: told.append((path, content)))
        monkeypatch.setattr(generate, "_tell", lambda *arguments: told.append((len(arguments[2]), arguments[5])))
        given = command(**fields)
        try:
            generate.perform(given)
        except (Failure, Interrupted) as error:
            return told, error
        return told, None

    return perform


def test_the_others_are_finished_and_the_failure_is_told_at_the_end(performing):
    told, error = performing("one", NotFiniteError({0: "two is not finite"}), "three")
    assert isinstance(error, Failure) and "two is not finite" in error.message
    assert told == [(2, False)], "two are made, and a higher threshold would not help"
    assert performing("one", "two") == ([(2, True)], None)
    assert performing("one", idle=True) == ([(1, False)], None), "it was said before"


def test_an_interruption_says_how_many_are_finished(performing):
    told, error = performing("one", "two", KeyboardInterrupt())
    assert isinstance(error, Interrupted) and error.message == "interrupted after 2 of 5 images"
    assert told == [(2, True)]


def test_a_report_is_written_where_there_is_something_to_report(performing):
    path = Path("report.json")
    assert performing("one", perf=path) == ([(path, 1), (1, True)], None)
    told, _ = performing(NotFiniteError({0: "one is not finite"}), perf=path)
    assert told == [(0, False)]


def result(sample: Any, seconds: float) -> Any:
    return SimpleNamespace(sample=sample, frames=seconds, seconds=seconds, total_seconds=9.0)


def test_a_comparison_is_of_the_loops_with_the_cache_second(monkeypatch):
    runs = {"cached": [result(SAMPLES[0], 1.0), result(SAMPLES[1], 1.0)], "plain": [result(SAMPLES[0], 2.0), None]}
    runs["plain"][1] = NotFiniteError({1: "not finite"})
    monkeypatch.setattr(generate, "compare", lambda *arguments: arguments)
    given, screen = command(compare=True, save_frames=False), Mock()
    one, other = generate._make(given, runs.values(), screen)  # type: ignore[arg-type]
    assert not isinstance(one, NotFiniteError) and one.comparison == (2.0, 1.0, 2.0, 1.0)
    assert isinstance(other, NotFiniteError), "what has nothing to be compared with is no result"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (Interrupted("interrupted after 1 of 2 images"), 130, "error: interrupted after 1 of 2 images\n"),
        (Misuse("wrong"), 2, "error: wrong\n"),
        (Failure("broken"), 1, "error: broken\n"),
        (ZeroDivisionError("of ours"), 1, "error: ZeroDivisionError: of ours; --debug shows where\n"),
    ],
)
def test_how_a_command_ends(monkeypatch, capsys, error, code, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(main.puredit, "main", fail)
    assert main.run(["models"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("a part of numpy failed to import"), "error: interrupted\n"),
        (Misuse("the checkpoint cannot be read"), "error: interrupted\n"),
        (click.ClickException("wrong"), "error: interrupted\n"),
        (Interrupted("interrupted after 1 of 2 images"), "error: interrupted after 1 of 2 images\n"),
    ],
)
def test_what_an_interruption_became_of_is_an_interruption(monkeypatch, capsys, error, said):
    def interrupted(*_, **__):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr(interruption, "asked", [])
    before = signal.signal(signal.SIGINT, interruption._leave)
    interruption.raise_from_now_on()
    monkeypatch.setattr(main.puredit, "main", interrupted)
    try:
        assert main.run(["models"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == said


INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module and not done:
            done.append(name)
            os.kill(os.getpid(), getattr(signal, sent))

module, sent, *sys.argv[1:] = sys.argv[1:]
done = []
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
sys.meta_path.insert(0, Interrupting())
from pure.cli.start import start
start()
"""


@pytest.mark.parametrize(
    ("module", "sent"),
    [("click", "SIGINT"), ("pure.configs.schema", "SIGTERM"), ("pure.cli.generate", "SIGTERM"), ("torch", "SIGINT")],
)
def test_an_interruption_while_something_is_imported_is_one_line(module, sent, tmp_path):
    words = [sys.executable, "-c", INTERRUPTING, module, sent, "generate", "--prompt", "a"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nerror: interrupted\n")


AT_THE_END = """
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
after, sent = sys.argv.pop(1), getattr(signal, sys.argv.pop(1))
interrupt = lambda: os.kill(os.getpid(), sent)
if after == "all else":
    atexit.register(interrupt)
from pure.cli import interruption, main
raising = interruption.leave_at_once
def leave_at_once():
    raising()
    atexit.register(interrupt) if after == "the command" else None
    interruption.raise_from_now_on()  # as a command does
main.leave_at_once = leave_at_once
main.main()
"""


@pytest.mark.parametrize(
    ("after", "sent", "code", "said"),
    [("the command", "SIGINT", 130, "\nerror: interrupted\n"),
     ("the command", "SIGTERM", 130, "\nerror: interrupted\n"),
     ("all else", "SIGINT", 0, ""), ("all else", "SIGTERM", 0, "")],
)  # fmt: skip
def test_an_interruption_while_a_finished_command_exits_is_one_line_or_nothing(after, sent, code, said, tmp_path):
    words = [sys.executable, "-c", AT_THE_END, after, sent, "--version"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (code, said) and done.stdout.startswith("puredit, version")


def test_a_second_interruption_while_the_first_is_told_is_one_too(monkeypatch, capsys):
    for name in ("leave_at_once", "leave_from_now_on", "_open_streams", "quiet_imports"):
        monkeypatch.setattr(main, name, Mock())
    monkeypatch.setattr(main, "run", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 130 and capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("words", [["--debug"], ["--log-level", "debug"], ["--log-level=debug"]])
def test_where_an_error_is_from_is_shown_where_that_is_asked_for(monkeypatch, capsys, words):
    def fail(*_, **__):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(main.puredit, "main", fail)
    assert main.run(["generate", *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("error: ZeroDivisionError: of ours\n")


@pytest.mark.parametrize(("rank", "said"), [("0", "error: wrong\n"), ("1", "")])
def test_of_several_ranks_the_first_tells_an_error(monkeypatch, capsys, rank, said):
    launched = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(main.puredit, "main", Mock(side_effect=Misuse("wrong")))
    assert main.run(["models"]) == 2
    assert capsys.readouterr().err == said
