"""Streams of a command, and how a server is started, without a model: widths, kinds, ports and order of checks."""

import io
import os
import signal
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import rich.console

from pure.cli import commands, config, serve
from pure.cli.screen import Screen, console
from pure.configs import Facts
from pure.distributed.hosts import Hosts
from pure.engine.errors import Interrupted, Misuse


@pytest.mark.parametrize(("columns", "width"), [(None, 120), ("60", 60), ("200", 200)])
def test_lines_for_a_pipe_are_folded_where_that_is_set(monkeypatch, columns, width):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert console().width == console(stderr=True).width == width
    assert (console().stderr, console(stderr=True).stderr) == (False, True)


@pytest.mark.parametrize(("quiet", "shown"), [(False, "note: [a]\nwarning: b\nnote: c\n"), (True, "warning: b\n")])
def test_notes_and_results_have_streams_of_their_own(quiet, shown):
    out, notes = io.StringIO(), io.StringIO()
    wide = [rich.console.Console(file=each, width=40) for each in (out, notes)]
    screen = Screen(wide[0], wide[1], quiet)
    screen.note("[a]")
    screen.note("b", "warning")
    screen.note("c", "note")
    screen.line("result " + "x" * 60)
    with screen.waiting("loading"):
        pass
    assert (out.getvalue(), notes.getvalue()) == ("result " + "x" * 60 + "\n", shown)


def test_what_is_waited_for_is_shown_on_a_terminal():
    terminal = rich.console.Console(file=io.StringIO(), force_terminal=True)
    with Screen(terminal, terminal).waiting("loading ...") as status:
        assert status is not None


def test_a_line_is_there_at_once():
    file = Mock()
    screen = Screen(Mock(file=file), Mock())
    screen.line("a.png")
    assert file.flush.called and file.write.call_args_list[0].args == ("a.png",)


# ------------------------------------------------------------------------------ a server that starts


@pytest.fixture
def starting(monkeypatch, tmp_path):
    """Start a server of these flags; return what was done in which order, and what is served."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def start(*words: str, index: int | None = None, follower: bool = False) -> Any:
        did: list[Any] = []
        hosts = None if index is None else Hosts(count=2, index=index, address=("a", 1))
        monkeypatch.setattr(serve, "require", lambda extra, what: did.append(extra))
        monkeypatch.setattr(serve, "hosts_of", lambda values, environ: hosts)
        monkeypatch.setattr(serve, "is_follower", lambda environ: follower)
        monkeypatch.setattr(serve, "agreeing", lambda hosts, values, checkpoint, **more: (hosts, more))
        taken = MagicMock()
        taken.__exit__.return_value = False
        monkeypatch.setattr("pure.serving.http.server.bind", lambda *where: did.append(where) or taken)
        monkeypatch.setattr(serve, "_files", lambda values: did.append("files") or "files")
        monkeypatch.setattr(serve, "check_shares", lambda sizes, found: did.append(sizes.total))
        monkeypatch.setattr(serve, "lead", lambda serving: did.append(serving))
        monkeypatch.setattr(serve, "_spread", lambda *each: did.extend(each))
        serve.execute(commands.serve.make_context("serve", list(words)).params)
        return did

    return start


def test_a_server_takes_its_port_once_nothing_is_wrong(starting):
    *before, serving = starting("--host", "0.0.0.0", "--port", "7")
    assert before == ["serve", 1, "files", ("0.0.0.0", 7)]
    assert serving.taken is not None and serving.files == "files" and serving.facts.processes == 1
    assert serving.caching.effective.facts == serving.facts


@pytest.mark.parametrize(("index", "follower", "listens"), [(0, False, True), (1, False, False), (None, True, False)])
def test_only_the_first_process_of_all_hosts_listens(starting, index, follower, listens):
    words = ("--num-gpus", "2", "--tp-size", "2") if index is not None else ()
    did = starting(*words, index=index, follower=follower)
    assert (("127.0.0.1", 30000) in did) == listens
    if index is not None:
        serving, sizes, (hosts, more) = did[-3:]
        assert sizes.tp == 2 and hosts.index == index and (serving.taken is not None) == listens
        assert more["the settings of the cache"]["Fn_compute_blocks"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--warmup-resolutions", "64x64", "30x64"), "--warmup-resolutions: width 30 is not"),
        (("--warmup-resolutions", "16000x16000"), "--warmup-resolutions: 16000 x 16000 pixels are latents of"),
        (("--vae-tiling",), "--vae-tiling is not available"),
        (("--vae-precision", "bf16"), "--vae-precision bf16: all parts have one precision in this version"),
        (("--dit-precision", "bf16", "--vae-precision", "fp32"), "--vae-precision fp32: all parts have one precision"),
        (("--plan", "quick"), "--plan quick: there is no such file"),
    ],
)
def test_a_server_that_cannot_be_takes_no_port(starting, words, message):
    with pytest.raises(Misuse, match=message):
        starting(*words)


@pytest.mark.parametrize(
    ("terminated", "listens", "ends"), [(True, True, False), (False, True, True), (False, False, False)]
)
def test_ctrl_c_is_an_interruption_and_a_request_to_terminate_is_not(monkeypatch, terminated, listens, ends):
    def spread(*_: Any) -> None:
        if terminated:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(serve, "spread", spread)
    values = {"http_graceful_shutdown_timeout": 1.0, "dist_timeout": None}
    serving: Any = SimpleNamespace(values=values, checkpoint=Mock(), taken="port" if listens else None)
    if ends:
        with pytest.raises(Interrupted, match="interrupted; the server has stopped"):
            serve._spread(serving, Mock(), None)
    else:
        serve._spread(serving, Mock(), None)


def test_notes_on_processes_come_before_the_model(monkeypatch):
    did: list[Any] = []
    monkeypatch.setattr(serve, "notes_on", lambda sizes, device: [Mock(text=f"{sizes.tp} on {device}")])
    monkeypatch.setattr(serve, "parallel", lambda effective: SimpleNamespace(sizes=SimpleNamespace(tp=effective)))
    monkeypatch.setattr(serve, "open_engine", lambda *each: did.append(each) or "engine")
    screen: Any = Mock(note=lambda *each: did.append(each))
    serving: Any = SimpleNamespace(
        caching=SimpleNamespace(effective=2), facts=Facts(device="cpu"), checkpoint="checkpoint"
    )  # fmt: skip
    assert serve._open(serving, screen, None) == "engine"
    noted, opened = did
    assert noted == ("2 on cpu",) and opened[:4] == ("checkpoint", 2, screen.note, screen.waiting)
    assert opened[4].sizes.tp == 2 and opened[5] is None


@pytest.mark.parametrize(("sides", "options"), [(None, {}), ((32, 48), {"height": 32, "width": 48})])
def test_a_warm_up_that_is_not_possible_is_told_with_the_way_out(sides, options):
    asked: list[Any] = []

    def recipe(order: Any, caching: Any) -> Any:
        asked.append(order.options)
        raise Misuse("too large")

    engine: Any = SimpleNamespace(pipeline=SimpleNamespace(image_count=(1, 3)), recipe=recipe)
    caching: Any = None
    with pytest.raises(Misuse, match="the server cannot warm up: too large; --warmup-mode off leaves it out"):
        serve._warm(engine, caching, sides)
    (picture,) = asked[0].pop("images")
    assert asked == [options] and picture.size == ((48, 32) if sides else (512, 512))


# ------------------------------------------------------------------------------ what is configured


def test_either_the_reference_or_a_configuration_is_shown(capsys):
    for reference in (True, False):
        with pytest.raises(Misuse, match="say what to show"):
            config.execute({"reference": reference, "show": reference})
    config.execute({"reference": True, "show": False})
    assert "residual_diff_threshold" in capsys.readouterr().out
