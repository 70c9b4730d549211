"""Parts of the server by themselves: names in forms, waiting for a job, signals, storage."""

import asyncio
import os
import signal
import socket
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from pure import Denoiser
from pure.engine.errors import EngineError, Failure, Misuse, Stopping
from pure.serving.http import bodies, server, service
from pure.serving.http.errors import HttpError
from pure.serving.jobs import Artifact
from pure.serving.storage import Storage
from tests.serving.processes import Server


@pytest.mark.parametrize(
    ("pairs", "fields"),
    [
        ([("a", "1"), ("b", "x")], {"a": "1", "b": "x"}),
        ([("a", "1"), ("a", "2"), ("a", "3")], {"a": ["1", "2", "3"]}),
        ([("a[]", "1")], {"a": ["1"]}),
        ([("a[]", "1"), ("a[]", "2")], {"a": ["1", "2"]}),
        ([("a[b]", "1"), ("a[c]", "x"), ("a[d]", "[1, 2]")], {"a": {"b": 1, "c": "x", "d": [1, 2]}}),
        ([("a[b][c][d][e]", "1")], {"a": {"b": {"c": {"d": {"e": 1}}}}}),
        ([("a[b][c]", "true"), ("a[b][d]", "0.5")], {"a": {"b": {"c": True, "d": 0.5}}}),
        ([], {}),
    ],
)
def test_names_in_a_form_build_lists_and_objects(pairs, fields):
    assert bodies._fields(pairs) == fields


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a[b][]", "1")], r"a\[b\]\[\] is nested too deep; send a as JSON text"),
        ([("a[][b]", "1")], r"a\[\]\[b\] is nested too deep"),
        ([("a" + "[b]" * (bodies.NESTED + 1), "1")], r"nested too deep"),
        ([("a", "1"), ("a[b]", "1")], r"a\[b\] is an object and a text at once"),
        ([("a[b]", "1"), ("a[b]", "2")], r"a\[b\] is there twice"),
    ],
)
def test_names_in_a_form_that_contradict_each_other(pairs, message):
    with pytest.raises(Misuse, match=message) as error:
        bodies._fields(pairs)
    assert error.value.field == "a"


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON ; charset=utf-8", "text/json;charset=utf-8", ""]
)
def test_the_type_of_a_body_may_say_more_than_its_type(kind):
    async def receive():
        return {"type": "http.request", "body": b'{"n": 1}', "more_body": False}

    headers = [(b"content-type", kind.encode())] if kind else []
    request = bodies.Request({"type": "http", "method": "POST", "headers": headers}, receive)
    assert asyncio.run(bodies.read_body(request)).fields == {"n": 1}


def waited(monkeypatch, outcome: Any, gone: bool) -> tuple[Any, list[str]]:
    """Wait for a job whose entry or whose client comes first; what came of it, and what was cancelled."""
    future: Any = Future()
    cancelled: list[str] = []
    if outcome is not None:
        future.set_result(outcome)

    async def leave(_):
        if not gone:
            await asyncio.sleep(60)

    monkeypatch.setattr(service, "_gone", leave)
    workers = SimpleNamespace(cancel=cancelled.append)
    job: Any = SimpleNamespace(id="a job")
    try:
        return asyncio.run(service.Service.done(Mock(workers=workers), Mock(), job, future)), cancelled
    except EngineError as error:
        return error, cancelled


def entry(status: str, error: Any = None) -> Any:
    return SimpleNamespace(status=status, error=error)


def test_a_job_whose_client_left_is_cancelled_and_no_other(monkeypatch):
    error, cancelled = waited(monkeypatch, None, gone=True)
    assert isinstance(error, HttpError) and (error.status, error.code) == (499, "client_closed_request")
    assert cancelled == ["a job"]
    done = entry("completed")
    assert waited(monkeypatch, done, gone=False) == (done, [])


def test_a_job_that_was_not_completed_is_no_answer(monkeypatch):
    broken = Failure("broken")
    assert waited(monkeypatch, entry("failed", broken), gone=False) == (broken, [])
    error, cancelled = waited(monkeypatch, entry("cancelled"), gone=False)
    assert isinstance(error, Stopping) and cancelled == []


def test_a_signal_before_the_server_listens_to_them_ends_it():
    before, waiting = signal.getsignal(signal.SIGTERM), SimpleNamespace(should_exit=False)
    with server._signals(waiting) as caught:  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)
        assert waiting.should_exit and caught == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_result_that_was_only_sent_has_no_file_to_delete(tmp_path):
    (tmp_path / "kept.png").write_bytes(b"")
    sent, kept = (Artifact(content=b"", path=path, report={}) for path in (None, str(tmp_path / "kept.png")))
    Storage(None).remove([sent, kept, kept])
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_does_not_end_keeps_no_server(folder_of, tmp_path, monkeypatch):
    """A step cannot be broken off: SIGTERM ends the process beside it."""
    monkeypatch.setattr(Denoiser, "apply", lambda *_, **__: time.sleep(100))  # what is forked has that, too
    monkeypatch.setattr("pure.serving.http.server.LAST", 0.1)
    words = ["--http-graceful-shutdown-timeout", "1", "--warmup-mode", "off"]
    server = Server.start(folder_of("embedded"), words, {}, tmp_path).ready()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        body = b'{"prompt": "a cat", "num_inference_steps": 2}'
        raw.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        server.until(lambda stats: stats["running"] == 1)
        asked = time.monotonic()
        assert server.end() == 0 and time.monotonic() - asked < 60
        raw.settimeout(30)
        assert b"503" in raw.recv(65536).splitlines()[0]
