"""The process around the application, the queue, stored files and input pictures: each at its borders."""

import asyncio
import base64
import io
import os
import signal
import socket
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import numpy as np
import pytest
import uvicorn
from PIL import Image

from pure.engine.errors import Failure, Interrupted, Misuse
from pure.serving import queue as queues
from pure.serving.http import pictures, server
from pure.serving.http.bodies import Upload
from pure.serving.jobs import Artifact
from pure.serving.queue import Queue
from pure.serving.storage import Storage

APP: Any = None

# ------------------------------------------------------------------------------ the port


def test_a_port_is_taken_once():
    with server.bind("127.0.0.1", 0) as taken:
        host, port = taken.getsockname()
        assert host == "127.0.0.1" and port > 0
        assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), "a server can be started again at once"
        with pytest.raises(Failure, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use; choose ano"):
            server.bind("127.0.0.1", port)
    for host in ("no such host", "a" * 300):
        with pytest.raises(Misuse, match=rf"--host {host} is unknown: .*; 127.0.0.1 is this machine"):
            server.bind(host, 0)


def test_a_port_that_cannot_be_taken_is_let_go(monkeypatch):
    made = Mock(bind=Mock(side_effect=OSError("refused")))
    monkeypatch.setattr(server.socket, "socket", lambda *_: made)
    with pytest.raises(Failure, match=r"cannot listen on 127\.0\.0\.1:0: refused"):
        server.bind("127.0.0.1", 0)
    made.close.assert_called_once()


# ------------------------------------------------------------------------------ the end


class Working:
    """A worker that keeps what it is told."""

    def __init__(self, lost: Exception | None = None) -> None:
        self.lost, self.did = lost, []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in ("start", "stop", "drain", "halt"):
            raise AttributeError(name)
        return lambda *given: self.did.append((name, *given) if given else name)


@pytest.mark.parametrize(
    ("number", "lost", "error", "message"),
    [(signal.SIGTERM, None, None, ""), (signal.SIGINT, None, Interrupted, "interrupted; the server has stopped"),
     (None, None, None, ""), (None, RuntimeError("gone"), Failure, "the server has stopped: gone"),
     (signal.SIGINT, RuntimeError("gone"), Failure, "the server has stopped: gone")],
)  # fmt: skip
def test_how_a_server_ends(monkeypatch, number, lost, error, message):
    worker: Any = Working(lost)
    seen: list[Any] = []

    def run(self: Any, sockets: Any) -> None:
        config = self.config
        assert (config.log_config, config.access_log, config.server_header, config.lifespan) == (
            None,
            False,
            False,
            "off",
        )
        seen.append((sockets, self.config.timeout_graceful_shutdown, self.patience, list(worker.did)))
        if number is not None:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    taken: Any = "port"
    if error is None:
        server.run(APP, worker, taken, 7.5)
    else:
        with pytest.raises(error, match=message):
            server.run(APP, worker, taken, 7.5)
    assert seen == [(["port"], 12, 7.5, ["start"])] and worker.did == ["start", ("stop", server.LAST)]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_worker_is_stopped_whatever_ends_the_server(monkeypatch):
    worker: Any = Working()
    monkeypatch.setattr(uvicorn.Server, "run", Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        server.run(APP, worker, Mock(), 1.0)
    assert worker.did == ["start", ("stop", server.LAST)]


@pytest.mark.parametrize(
    ("ends", "lost", "stops"), [(False, None, False), (True, None, True), (False, OSError(), True)]
)
def test_a_server_stops_where_its_worker_is_lost(monkeypatch, ends, lost, stops):
    worker: Any = Working(lost)
    monkeypatch.setattr(uvicorn.Server, "on_tick", AsyncMock(return_value=ends))
    assert asyncio.run(server.Server(uvicorn.Config(APP), worker, 1.0).on_tick(0)) is stops


@pytest.mark.parametrize(("lasts", "did"), [(0.0, ["drain", "end"]), (0.2, ["drain", "halt", "end"])])
def test_what_runs_is_broken_off_once_its_time_is_over(monkeypatch, lasts, did):
    worker: Any = Working()

    async def shutdown(self: Any, sockets: Any) -> None:
        assert sockets == ["port"] and worker.did == ["drain"]
        await asyncio.sleep(lasts)
        worker.did.append("end")

    monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)

    async def end() -> None:
        port: Any = "port"
        await server.Server(uvicorn.Config(APP), worker, 0.02).shutdown([port])
        await asyncio.sleep(0.04 if not lasts else 0)

    asyncio.run(end())
    assert worker.did == did


# ------------------------------------------------------------------------------ the queue


def samples(*names: str) -> list[Any]:
    """Samples by job and recipe: "a1" is of the job a1 and the recipe a."""
    return [SimpleNamespace(job=SimpleNamespace(id=name, recipe=name[0])) for name in names]


@pytest.fixture
def queue(monkeypatch):
    monkeypatch.setattr(queues, "alike", lambda one, other: one == other)
    return Queue(most=9)


def names(found: list[Any]) -> list[str]:
    return [each.job.id for each in found]


def test_the_first_is_taken_with_others_of_its_kind(queue):
    queue.put(samples("a1", "b1", "a2", "b2", "a3"))
    assert queue.jobs == len(queue) == 5
    assert names(queue.take(2)) == ["a1", "a2"] and names(queue.take(2)) == ["b1", "b2"]
    queue.put(samples("b3"))
    assert names(queue.take(9)) == ["a3"] and names(queue.take(9)) == ["b3"]


def test_only_the_front_joins(queue):
    queue.put(samples("a1", "a2", "b1", "a3"))
    assert names(queue.more("a", 1)) == ["a1"] and names(queue.more("b", 9)) == []
    assert names(queue.more("a", 9)) == ["a2"] and names(queue.more("a", 9)) == []
    assert names(queue.more("b", 0)) == [] and len(queue) == 2


def test_equal_samples_of_a_job_are_taken_one_by_one(queue):
    queue.put(samples("a1", "a1", "a1"))
    assert queue.jobs == 1 and names(queue.take(2)) == ["a1", "a1"] and len(queue) == 1
    queue.put(samples("a2"))
    queue.drop("a1")
    assert names(queue.more("a", 9)) == ["a2"]


def test_a_queue_is_full_of_jobs(queue):
    for number in range(9):
        queue.put(samples(f"{number}", f"{number}"))
    with pytest.raises(Exception, match="9 requests wait"):
        queue.put(samples("x"))
    queue.take(2)
    assert queue.put(samples("x")) and queue.jobs == 9


# ------------------------------------------------------------------------------ files


def test_uploads_are_kept_where_that_is_set(tmp_path):
    kept, sent = Storage(None, tmp_path / "in"), Storage(tmp_path / "out")
    kept.keep("a.png", b"1")
    sent.keep("a.png", b"1")
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*.png")] == ["in/a.png"]
    sent.drop(["a.png"])
    kept.drop(["a.png", "b.png"])
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_results_are_named_by_job_and_number(tmp_path, monkeypatch, seeds):
    monkeypatch.chdir(tmp_path)
    saved: list[Any] = []
    monkeypatch.setattr("pure.serving.storage.save", lambda *each: saved.append(each))
    form = SimpleNamespace(encoding="WEBP", quality=3, suffix=".webp")
    sample: Any = SimpleNamespace(job=SimpleNamespace(id="i", seeds=seeds, form=form), number=0)
    frames = np.zeros((1, 4, 4, 3), np.float32)
    path: Any = os.curdir
    found = Storage(type(tmp_path)(path)).put(sample, frames, 8, {"a": 1})
    name = "i-0.webp" if len(seeds) > 1 else "i.webp"
    assert (found.path, found.content, found.report) == (str(tmp_path / name), b"", {"a": 1})
    ((where, given, fps, quality),) = saved
    assert (str(where), given is frames, fps, quality) == (name, True, 8, 3)
    sent = Storage(None).put(sample, np.random.default_rng(0).random((1, 32, 32, 3), np.float32), None, {})
    form.quality = 90
    better = Storage(None).put(sample, np.random.default_rng(0).random((1, 32, 32, 3), np.float32), None, {})
    assert sent.content[8:12] == b"WEBP" and len(sent.content) < len(better.content) and sent.path is None
    assert Storage(None).content(Artifact(content=b"x", path=None, report={})) == b"x"


# ------------------------------------------------------------------------------ pictures


def encoded(kind: str, size: tuple[int, int] = (4, 2)) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, "red").save(made, format=kind)
    return made.getvalue()


def test_pictures_of_three_formats_are_opened_and_named():
    for kind in ("PNG", "JPEG", "WEBP"):
        found = pictures.opened(Upload("image", encoded(kind)))
        assert (found.image.size, found.format) == ((4, 2), kind)
    for content, message in (
        (encoded("BMP"), "image: .*; send PNG, JPEG or WebP"),
        (b"", "image: "),
        (b"x" * 99, "image: "),
    ):
        with pytest.raises(Misuse, match=message) as error:
            pictures.opened(Upload("image", content))
        assert error.value.field == "image"


def test_pictures_are_bounded(monkeypatch):
    monkeypatch.setattr(pictures, "PIXELS", 8)
    assert pictures.opened(Upload("image", encoded("PNG"))).image.size == (4, 2)
    with pytest.raises(Misuse, match="image: "):
        pictures.opened(Upload("image", encoded("PNG", (3, 3))))


def test_urls_of_pictures():
    text = base64.b64encode(b"content").decode()
    assert pictures.from_url(f"data:image/png;base64,{text}", "url") == b"content"
    assert pictures.from_url("data:text/plain,a,b", "url") == b"a,b"
    for url in ("http://a/b.png", "data:image/png;base64", "DATA:,x", "", "x" * 99):
        with pytest.raises(Misuse, match=r"url: .* is not fetched: the server downloads nothing") as error:
            pictures.from_url(url, "url")
        assert error.value.field == "url" and len(error.value.message) < 200
    for one in (3, {"image_url": 3}, {"image_url": "data:,x", "detail": "low"}, {}):
        with pytest.raises(Misuse, match=r"url: found .*; allowed: a file, a data: URL, or"):
            pictures.urls({"url": (one,)}, ("url",))
    assert pictures.urls({}, ("url",)) == []
