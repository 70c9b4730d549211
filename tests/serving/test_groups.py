"""Groups of processes behind one server: who gets a request, what is counted, and that pictures stay what they are."""

import asyncio
import io
import os
import threading

import attrs
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from pure.configs import Facts, Parallel
from pure.distributed import Sizes, make_mesh
from pure.engine import denoising
from pure.engine.engine import Engine
from pure.engine.errors import Busy, Failure
from pure.engine.maker import Hand, Maker, make_hands, take_orders
from pure.engine.ranks import share
from pure.engine.weights import share_modules
from pure.serving.http.app import make_app
from pure.serving.http.server import Server
from pure.serving.storage import Storage
from pure.serving.worker import WorkerOptions
from pure.serving.workers import Workers
from tests.serving.test_batching import jobs
from tests.support import ranks


class Gated(Hand):
    """A hand in this process that takes no step before it may."""

    def __init__(self, engine: Engine, go: threading.Event) -> None:
        super().__init__(Maker(engine))
        self.go = go

    def step(self) -> tuple[int, ...]:
        assert self.go.wait(30)
        return super().step()


@pytest.fixture
def groups(here, monkeypatch):
    """Workers of two groups in this process, whose first step waits; and the application in front of them."""
    opened, go = here("flux", start=False), threading.Event()
    engine = opened.service.engine
    workers = Workers(
        engine, Storage(None), WorkerOptions(batch=2, queued=4), print, [Gated(engine, go) for _ in range(2)]
    )
    facts = Facts(processes=1, groups=2)
    service = attrs.evolve(opened.service, workers=workers, files=Storage(None), metrics=True, facts=facts)
    yield opened, workers, TestClient(make_app(service)), go
    go.set()
    workers.stop()


def pixels(entry):
    assert entry.status == "completed", entry.error
    with Image.open(io.BytesIO(entry.artifacts[0].content)) as image:
        return np.asarray(image).astype(int)


def test_a_request_goes_to_the_group_with_the_least_to_do(groups):
    opened, workers, client, go = groups
    first, second, third, fourth = jobs(opened, "flux")
    large = attrs.evolve(first, seeds=(1, 2), id="large")
    futures = [workers.submit(job) for job in (large, second, third)]
    assert [len(one.queue) for one in workers.groups] == [2, 2]
    futures.append(workers.submit(fourth))
    with pytest.raises(Busy, match="the queue is full: 4 requests wait"):
        workers.submit(attrs.evolve(first, id="too many"))
    assert workers.jobs.get("too many", "image") is None
    assert [len(one.queue) for one in workers.groups] == [3, 2] and client.get("/health").status_code == 503
    go.set()
    workers.start()
    assert [future.result(60).status for future in futures] == ["completed"] * 4
    assert client.get("/health").json() == {"status": "ok", "groups": [{"queue_length": 0, "running": 0}] * 2}
    lines = client.get("/metrics").text.splitlines()
    for group in range(2):
        assert f'puredit_group_running{{group="{group}"}} 0' in lines
        assert f'puredit_group_queue_length{{group="{group}"}} 0' in lines
    assert client.get("/v1/models").json()["data"][0]["num_gpus"] == 2
    assert workers.metrics.stats()["requests"] == {"image completed": 4}


def test_a_request_is_cancelled_whoever_has_it_and_then_counts_no_more(groups):
    opened, workers, _, go = groups
    found = jobs(opened, "flux")
    futures = [workers.submit(job) for job in found[:2]]
    workers.cancel(found[1].id)
    assert futures[1].result(10).status == "cancelled"
    futures.append(workers.submit(found[2]))
    assert [len(one.queue) for one in workers.groups] == [1, 1]
    go.set()
    workers.start()
    assert [futures[place].result(60).status for place in (0, 2)] == ["completed"] * 2


def test_a_group_that_is_lost_stops_the_server(groups):
    """In one process nothing is lost; the hand says so as one on other processes does."""
    opened, workers, client, go = groups
    hand = workers.groups[1].hand

    def broken():
        hand.lost = RuntimeError("connection closed by peer")
        raise hand.lost

    hand.step = broken
    workers.start()
    go.set()
    futures = [workers.submit(job) for job in jobs(opened, "flux")[:2]]
    failed = futures[1].result(60)
    assert failed.status == "failed" and isinstance(failed.error, Failure)
    assert "connection closed by peer" in failed.error.message
    assert workers.lost is hand.lost and not workers.alive
    assert client.get("/health").status_code == 503
    server = Server(uvicorn.Config(lambda: None), workers, 0.1)
    assert asyncio.run(server.on_tick(1)) is True


# ------------------------------------------------------------------------------ processes


def _served(engine, found, sizes):
    """Serve jobs from groups of ranks, which share all modules; rank 0 returns pictures, and what each group made."""
    mesh, extra = make_mesh(sizes), ("text_encoder", "vae")
    pipeline = share_modules(share(engine.pipeline, Parallel(sizes=sizes), mesh), extra, mesh, lambda text, kind: None)
    engine = attrs.evolve(engine, pipeline=pipeline, base=pipeline.denoiser, together=True)
    if mesh.get_rank():
        take_orders(engine, mesh)
        return None
    options = WorkerOptions(batch=2, first=True)
    workers = Workers(engine, Storage(None), options, lambda text, kind: None, make_hands(engine, mesh))
    made = [attrs.evolve(job, recipe=engine.recipe(job.recipe.order, job.recipe.caching)) for job in found]
    futures = [workers.submit(job) for job in made]
    waiting = [len(one.queue) for one in workers.groups]
    workers.start()
    entries = [future.result(60) for future in futures]
    workers.stop()
    return waiting, [pixels(entry) for entry in entries], [entry.artifacts[0].report["decisions"] for entry in entries]


def test_groups_of_processes_make_what_one_process_makes(here):
    """Prompts of several lengths, with a cache and without; products of a batch of two are rounded otherwise."""
    opened = here("qwen", keep=False, batch=2)
    found = [*jobs(opened, "qwen"), *jobs(opened, "qwen", ("a dog", "a cat"), params=None)]
    alone = [opened.worker.submit(job).result(60) for job in found]
    engine = opened.service.engine
    waiting, pictures, reports = ranks.run(_served, 4, engine, found, Sizes(dp=2, ulysses=2))[0]
    assert waiting == [3, 3]
    for picture, decided, entry in zip(pictures, reports, alone, strict=True):
        assert np.abs(picture - pixels(entry)).max() <= 1
        wanted = entry.artifacts[0].report["decisions"]
        assert [one["computed"] for one in decided] == [one["computed"] for one in wanted]


def _breaking(engine, found):
    """Serve from two groups, of which the second dies in its second step."""
    mesh = make_mesh(Sizes(dp=2))
    if mesh.get_rank():
        real, calls = denoising.step, []

        def step(run):
            calls.append(run)
            return real(run) if len(calls) < 2 else os._exit(0)

        denoising.step = step
        take_orders(engine, mesh)
    workers = Workers(engine, Storage(None), WorkerOptions(), lambda text, kind: None, make_hands(engine, mesh))
    workers.start()
    futures = [workers.submit(attrs.evolve(job)) for job in found]
    outcome = [future.result(60).status for future in futures]
    workers.stop()
    os._exit(0 if outcome == ["failed", "failed"] and workers.lost is not None else 5)


def test_a_group_that_dies_is_noticed(here):
    """What the second group was asked for fails at once, and the server stops; nothing is waited for for ever."""
    opened = here("flux", keep=False, start=False)
    with pytest.raises(ranks.RankError, match=r"^rank 0 died\nrank 1 died$"):
        ranks.run(_breaking, 2, opened.service.engine, jobs(opened, "flux", steps=5000)[:2], limit=60.0)
