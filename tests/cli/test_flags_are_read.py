"""No flag is parsed in vain: a command reads every one, but for those that are named here."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import attrs
import pytest
import torch

from pure.cli import command as command_of
from pure.cli import export, generate, serve, tune
from pure.distributed import Sizes
from pure.engine.checkpoint import Checkpoint
from pure.engine.unsupported import FLAGS as UNSUPPORTED
from tests.cli.test_cli_words import values

ELSEWHERE = {"config", "debug"}
"""Read where words are parsed and errors are told; `generate` also keeps its files apart from that of `--config`."""
NOTHING = {"backend"}
"""All its values select the one engine."""


class Read(dict):
    """The values of flags; remembers which were read, copies included."""

    def __init__(self, given: Any, seen: set[str]) -> None:
        super().__init__(given)
        self.seen = seen

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """The values of a command's flags that remember what was read, and what is not read."""
    monkeypatch.chdir(tmp_path)
    seen: set[str] = set()

    def planned(given: Any, checkpoint: Any) -> Any:
        seen.add("plan")
        return given

    for module in (command_of, export, serve):
        monkeypatch.setattr(module, "planned", planned)

    def begin(name: str, *words: str) -> Any:
        given = Read(values(*words, name=name), seen)
        return given, lambda: set(given) - seen

    return begin


def test_generate_reads_its_flags(read, monkeypatch):
    given, unread = read("generate", "--prompt", "a", "--num-gpus", "2", "--tp-size", "2", "--nnodes", "2",
                         "--dist-init-addr", "a:1")  # fmt: skip
    made = command_of.make_command(given, {})
    monkeypatch.setattr(generate, "spread", Mock())
    generate.execute(attrs.evolve(made, flags=given))
    assert unread() == {"debug"} | NOTHING


def test_serve_reads_its_flags(read, monkeypatch):
    taken = MagicMock(getsockname=lambda: ("127.0.0.1", 1))
    taken.__exit__.return_value = False
    engine = SimpleNamespace(pipeline=SimpleNamespace(dtype=torch.float32, image_count=(0, 0)), recipe=Mock())
    monkeypatch.setattr("pure.serving.http.server.bind", lambda host, port: taken)
    monkeypatch.setattr("pure.serving.http.app.make_app", Mock())
    monkeypatch.setattr("pure.serving.http.server.run", Mock())
    monkeypatch.setattr(serve, "open_engine", lambda *_: engine)
    monkeypatch.setattr(serve, "spread", Mock())
    refused: list[Any] = []
    monkeypatch.setattr(serve, "refuse", refused.append)
    given, unread = read("serve", "--nnodes", "1")
    serve.execute(given)
    serve._spread(SimpleNamespace(values=given, checkpoint=Mock(), taken=None), Sizes(tp=2), None)  # type: ignore[arg-type]
    (copied,) = refused
    assert set(copied) == set(given), "what is not supported is read, and refused, from a copy"
    assert unread() - set(UNSUPPORTED) == ELSEWHERE | NOTHING


def test_tune_reads_its_flags(read, monkeypatch):
    monkeypatch.setattr(Checkpoint, "load", lambda self, waiting: self)
    monkeypatch.setattr(tune, "tune", Mock())
    monkeypatch.setattr(tune, "_tell", Mock())
    given, unread = read("tune", "--budget", "3")
    tune.execute(given)
    assert unread() == ELSEWHERE


def test_export_reads_its_flags(read, monkeypatch):
    monkeypatch.setattr(export, "open_engine", Mock(return_value=Mock(recipe=lambda *_: SimpleNamespace(notes=()))))
    monkeypatch.setattr(export, "prepare", Mock())
    monkeypatch.setattr(export, "write", lambda *_: ())
    given, unread = read("export", "--output", "run.pt2")
    export.execute(given)
    assert unread() == ELSEWHERE
