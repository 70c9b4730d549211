"""Tiny checkpoints, the application with its engine in this process, and servers in processes of their own."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from starlette.testclient import TestClient

from pure.engine.caching import Sources
from pure.engine.checkpoint import Checkpoint
from pure.engine.engine import Engine, Order
from pure.engine.maker import Hand, Maker
from pure.models import embedded, load_pipeline
from pure.models.checkpoint.description import describe
from pure.serving.http.app import make_app
from pure.serving.http.service import Service
from pure.serving.storage import Storage
from pure.serving.worker import Worker, WorkerOptions
from pure.serving.workers import Workers
from tests.serving.processes import Server, Threaded
from tests.serving.stand_ins import sites
from tests.support import chat_pipelines, hunyuan_video_pipelines, qwen_image_pipelines, tiny, wan_pipelines


def _qwen(folder):
    kind, changes, _ = qwen_image_pipelines.KINDS["text-to-image"]
    qwen_image_pipelines.save(folder, kind, **changes)


SAVED = {
    "flux": lambda folder: tiny.pipeline().save_pretrained(folder),
    "z-image": lambda folder: chat_pipelines.z_image_pipeline().save_pretrained(folder),
    "klein": lambda folder: chat_pipelines.flux2_klein().save_pretrained(folder),
    "qwen": _qwen,
    "wan": lambda folder: wan_pipelines.pipeline("t2v-2.1").save_pretrained(folder),
    "wan-experts": lambda folder: wan_pipelines.pipeline("t2v-2.2").save_pretrained(folder),
    "wan-picture": lambda folder: wan_pipelines.pipeline("i2v-2.2").save_pretrained(folder),
    "hunyuan": lambda folder: hunyuan_video_pipelines.pipeline("text").save_pretrained(folder),
}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """The folder of a tiny random checkpoint, by name; "embedded" is the one in the package."""
    base = tmp_path_factory.mktemp("checkpoints")

    @functools.cache
    def folder(name):
        if name == "embedded":
            return embedded()
        SAVED[name](base / name)
        return base / name

    return folder


@pytest.fixture(scope="session")
def loaded(folder_of):
    """A pipeline and its description, by name; loaded once."""
    return functools.cache(lambda name: (load_pipeline(folder_of(name)), describe(folder_of(name))))


@attrs.frozen(eq=False)
class Here:
    """The application in this process: a client of it, its worker and what its routes work with."""

    client: TestClient
    worker: Worker
    service: Service

    def threaded(self):
        """The same on a port, for other clients; the caller ends it."""
        return Threaded.start(self.client.app, self.worker)

    def recipe(self, *, params: Any = None, enable: bool | None = None, environ: Mapping[str, str] = {}, **order: Any):
        """The recipe of a request."""
        return attrs.evolve(self.service, environ=environ).recipe(Order(**order), params, enable)

    def post(self, path="/v1/images/generations", status=200, **body):
        answer = self.client.post(path, json={"prompt": "a cat", **body})
        assert answer.status_code == status, answer.text
        return answer.json()

    def refused(self, path="/v1/images/generations", status=400, **body):
        """The error of a request, which has the shape that clients read."""
        found = self.post(path, status, **body)
        error = found["error"]
        assert set(error) == {"message", "type", "param", "code"} and found["detail"] == error["message"]
        return error


@pytest.fixture
def here(loaded, tmp_path, monkeypatch):
    """Open the application on a checkpoint; the worker's thread ends with the test."""
    for name in [name for name in os.environ if name.startswith("SGLANG_")]:
        monkeypatch.delenv(name)
    yield from opening(loaded, tmp_path)


NOTHING = Sources()


def opening(loaded, folder):
    """Yield a function that opens the application; afterwards end the workers."""
    workers = []

    def start(name="flux", *, keep=True, sources=NOTHING, start=True, files=None, service=None, log=print, **settings):
        pipeline, found = loaded(name)
        engine = Engine(checkpoint=Checkpoint(path=None, found=found), pipeline=pipeline, base=pipeline.denoiser)
        files = files or Storage(folder if keep else None)
        group = Workers(engine, files, WorkerOptions(**settings), log, [Hand(Maker(engine))])
        (worker,) = group.groups
        about = {"names": ("tiny", name), "path": name, "precision": "float32", **(service or {})}
        made = Service(engine=engine, workers=group, files=files, sources=sources, **about)
        workers.append(worker)
        if start:
            worker.start()
        return Here(TestClient(make_app(made), raise_server_exceptions=False), worker, made)

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Open the application with stand-ins for the model; its workers end with the test."""
    yield from sites(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def serve(folder_of, tmp_path_factory):
    """Start `puredit serve` in a process of its own; all are ended with the session, orderly."""
    servers = []

    def start(name, *words, **environ):
        folder = tmp_path_factory.mktemp("server")
        servers.append(Server.start(folder_of(name), words, environ, folder))
        return servers[-1]

    yield start
    for server in servers:
        server.end()
