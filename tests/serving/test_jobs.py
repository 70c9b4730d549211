"""From acceptance to the end: order, progress, counts, cancelling, shutting down; every accepted request ends."""

import threading
import time

import pytest

from pure.engine.errors import Stopping
from pure.serving.jobs import Artifact, Format, Job, JobEntry, Store
from pure.serving.metrics import Metrics
from pure.serving.storage import Storage
from tests.serving.test_batching import CASES, jobs, studio  # noqa: F401  (a fixture)
from tests.serving.test_videos import SMALL, create, finished

LONG = {"num_inference_steps": 2000}


@pytest.fixture
def job(here):
    """A video of two results of four steps."""
    recipe = here("wan", start=False).recipe(options={"height": 16, "width": 32, "frames": 5, "steps": 4})
    return Job(prompt="a cat", seeds=(1, 2), recipe=recipe, form=Format(kind="video"))


def output(**report):
    return Artifact(content=b"", path=None, report=report)


def wait_for(wanted, limit=30):
    until = time.monotonic() + limit
    while not wanted():
        assert time.monotonic() < until
        time.sleep(0.005)


class Held:
    """Holds the engine between two of its steps; the test goes on in between."""

    def __init__(self, engine, after):
        self.reached, self.go = threading.Event(), threading.Event()
        step, calls = engine.jobs.step, []

        def held(id):
            step(id)
            calls.append(id)
            if len(calls) == after:
                self.reached.set()
                assert self.go.wait(30)

        engine.jobs.step = held


# ---------------------------------------------------------------------- entries


def kept(store: Store, id: str) -> JobEntry:
    """The entry of a video that must be there."""
    found = store.get(id, "video")
    assert found is not None
    return found


def test_progress_of_two_results_counts_the_steps_of_both(job):
    store = Store()
    store.add(job)
    found = []
    store.begin(job.id)
    for number in range(8):
        store.step(job.id)
        found.append(kept(store, job.id).progress)
        if number % 4 == 3:
            store.finish(job.samples[number // 4], output())
    assert found == [12, 25, 37, 50, 62, 75, 87, 99]
    assert kept(store, job.id).progress == 100


def test_progress_over_http_with_two_results(here):
    app = here("wan", start=False)
    held = Held(app.worker, 4)
    app.worker.start()
    id = create(app, n=2)["id"]
    assert held.reached.wait(30)
    half = app.client.get(f"/v1/videos/{id}").json()
    held.go.set()
    assert (half["progress"], half["status"], half["urls"], half["num_outputs"]) == (50, "in_progress", [], 2)
    done = finished(app, id)
    assert done["progress"] == 100
    assert done["urls"] == [f"/v1/videos/{id}/content?variant={number}" for number in range(2)]
    assert len({app.client.get(url).content for url in done["urls"]}) == 2
    assert [one["seed"] for one in done["puredit"]["results"]] == [42, 43]


def test_a_job_is_completed_once_with_its_last_result_and_counted_once(job):
    metrics = Metrics()
    store = Store(metrics.over)
    future = store.add(job)
    one, two = job.samples
    store.begin(job.id)
    assert store.finish(two, output(computed_steps=[0], skipped_steps=[1, 2, 3])) and not future.done()
    assert kept(store, job.id).status == "in_progress"
    assert store.finish(one, output(computed_steps=[0, 1, 2, 3], skipped_steps=[]))
    entry = future.result(0)
    assert entry.status == "completed" and sorted(entry.artifacts) == [0, 1]
    assert entry.ended is not None and entry.started is not None and entry.ended >= entry.started
    assert not store.finish(one, output()), "a result that comes after the end is not wanted"
    store.cancel(job.id)
    store.fail(job.id, Stopping())
    stats = metrics.stats()
    assert stats["requests"] == {"video completed": 1} and stats["outputs"] == {"video": 2}
    assert stats["steps"] == {"computed": 5, "skipped": 3}
    assert stats["seconds"]["video"] == pytest.approx(entry.ended - entry.started)


def test_what_began_keeps_its_time_and_its_notes_in_order(job):
    store = Store()
    store.add(job)
    assert kept(store, job.id).seconds == 0.0
    store.begin(job.id, ["one", "two"])
    first = kept(store, job.id)
    store.begin(job.id, ["two", "three"])
    again = kept(store, job.id)
    assert again.started == first.started and again.notes == ("one", "two", "three")
    gone = store.forget(job.id)
    assert gone is not None and gone.status == "cancelled" and store.get(job.id, "video") is None
    assert store.forget(job.id) is None and not store.wanted(job.id)


# ---------------------------------------------------------------------- order


@pytest.mark.parametrize("batch", [1, 2])
def test_first_come_first_served(here, batch):
    """The order in which work begins, not whole seconds: other settings keep the requests out of one batch."""
    app = here("wan", start=False, batch=batch)
    begun = []
    begin = app.worker.jobs.begin
    app.worker.jobs.begin = lambda id, *rest: (begun.append(id), begin(id, *rest))[1]
    wanted = [(job.id, app.worker.submit(job)) for steps in (2, 3, 2, 4, 3) for job in _plain(app, steps)]
    app.worker.start()
    for _, future in wanted:
        assert future.result(60).status == "completed"
    ids = [id for id, _ in wanted]
    # With room for two the third shares the batch of the first, and the fifth that of the second.
    assert begun == (ids if batch == 1 else [ids[number] for number in (0, 2, 1, 4, 3)])


def _plain(app, steps, **fields):
    options = {"height": 16, "width": 32, "frames": 5, "steps": steps}
    form = Format(kind="video", suffix=".mp4")
    return [Job(prompt="a cat", seeds=(1,), recipe=app.recipe(options=options), form=form, **fields)]


# ---------------------------------------------------------------------- cancelling


def test_cancelling_what_waits_empties_the_queue(here):
    app = here("wan", start=False)
    held = Held(app.worker, 1)
    app.worker.start()
    running = create(app)["id"]
    assert held.reached.wait(30)
    waiting = [create(app, n=2, seed=seed)["id"] for seed in range(2)]
    assert app.client.get("/stats").json()["queue_length"] == 4
    app.client.delete(f"/v1/videos/{waiting[0]}")
    stats = app.client.get("/stats").json()
    assert (stats["queue_length"], stats["running"]) == (2, 1)
    app.client.delete(f"/v1/videos/{waiting[1]}")
    assert app.client.get("/stats").json()["queue_length"] == 0
    held.go.set()
    assert finished(app, running)["status"] == "completed"
    assert app.client.get("/stats").json()["requests"] == {"video cancelled": 2, "video completed": 1}


class Slow(Storage):
    """Calls a function between writing a result and handing it over."""

    between = staticmethod(lambda sample: None)

    def put(self, sample, frames, fps, report):
        output = super().put(sample, frames, fps, report)
        Slow.between(sample)
        return output


@pytest.mark.parametrize("number", [0, 1])
def test_cancelling_while_a_result_is_written_leaves_no_file(here, tmp_path, monkeypatch, number):
    app = here("wan", files=Slow(tmp_path))
    deleted = threading.Event()

    def delete(sample):
        if sample.number == number and not deleted.is_set():
            app.client.delete(f"/v1/videos/{sample.job.id}")
            deleted.set()

    monkeypatch.setattr(Slow, "between", staticmethod(delete))
    create(app, n=2)
    assert deleted.wait(30)
    again = finished(app, create(app)["id"])
    assert [file.name for file in tmp_path.iterdir()] == [f"{again['id']}.mp4"]
    stats = app.client.get("/stats").json()
    assert stats["requests"] == {"video cancelled": 1, "video completed": 1} and stats["running"] == 0


def test_cancelling_after_the_first_of_two_leaves_no_file(here, tmp_path):
    app = here("wan", start=False)
    held = Held(app.worker, 5)  # the first has its four steps, the second its first
    app.worker.start()
    id = create(app, n=2)["id"]
    assert held.reached.wait(30)
    assert [file.name for file in tmp_path.iterdir()] == [f"{id}-0.mp4"]
    app.client.delete(f"/v1/videos/{id}")
    assert not list(tmp_path.iterdir())
    held.go.set()
    wait_for(lambda: app.worker.running == 0)
    assert not list(tmp_path.iterdir()) and app.client.get(f"/v1/videos/{id}").status_code == 404


# ---------------------------------------------------------------------- the end


def test_running_and_waiting_videos_fail_at_shutdown(here, tmp_path):
    app = here("wan", start=False)
    held = Held(app.worker, 5)
    app.worker.start()
    ids = [create(app, n=2)["id"], create(app)["id"]]
    assert held.reached.wait(30)
    app.worker.halt()
    entries = [app.worker.jobs.get(id, "video") for id in ids]
    assert [(entry.status, type(entry.error)) for entry in entries] == [("failed", Stopping)] * 2
    assert not list(tmp_path.iterdir()) and len(app.worker.queue) == 0
    held.go.set()
    app.worker.stop()
    assert not app.worker._thread.is_alive() and not list(tmp_path.iterdir())
    assert app.worker.metrics.stats()["requests"] == {"video failed": 2}
    answer = app.client.post("/v1/videos", json=SMALL)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")


def test_draining_refuses_what_waits_and_finishes_what_runs(here):
    app = here("wan", start=False)
    held = Held(app.worker, 1)
    app.worker.start()
    running, waiting = (create(app, seed=seed)["id"] for seed in range(2))
    assert held.reached.wait(30)
    app.worker.drain()
    assert app.client.get(f"/v1/videos/{waiting}").json()["error"]["code"] == "shutting_down"
    answer = app.client.post("/v1/videos", json=SMALL)
    assert answer.status_code == 503 and answer.json()["error"]["type"] == "server_unavailable"
    assert len(app.worker.jobs.all("video")) == 2, "a refused request leaves no entry"
    held.go.set()
    wait_for(lambda: app.worker.jobs.get(running, "video").over)
    assert app.worker.jobs.get(running, "video").status == "completed"


def test_counts_after_a_join_that_is_refused(studio):  # noqa: F811
    """A prompt whose length does not fit is set aside: it is not counted as running, and is made afterwards."""
    opened, _ = studio("qwen", batch=2)
    first, other = jobs(opened, "qwen", ("a dog", "a red apple on a table"))
    running, step = [], opened.worker.jobs.step
    futures = []

    def after(id):
        step(id)
        running.append(opened.worker.running)
        if len(running) == 2:
            futures.append(opened.worker.submit(other))

    opened.worker.jobs.step = after
    futures.append(opened.worker.submit(first))
    opened.worker.start()
    wait_for(lambda: len(futures) == 2)
    assert [future.result(60).status for future in futures] == ["completed"] * 2
    wait_for(lambda: opened.worker.running == 0)
    assert set(running) == {1} and opened.worker.metrics.stats()["batches"] == {"1": 12}


def test_every_accepted_request_ends_though_a_later_step_fails(studio, monkeypatch):  # noqa: F811
    """A prompt that was set aside is not lost with the batch that it did not fit into."""
    opened, _ = studio("qwen", batch=2)
    first, other = jobs(opened, "qwen", ("a dog", "a red apple on a table"))
    solver, futures, calls = type(opened.service.engine.pipeline.solver), [], []
    step = solver.step

    def breaking(self, carry, prediction, at):
        calls.append(at)
        if len(calls) == 2:
            futures.append(opened.worker.submit(other))
        if len(calls) == 4:
            raise RuntimeError("the device is on fire")
        return step(self, carry, prediction, at)

    monkeypatch.setattr(solver, "step", breaking)
    futures.append(opened.worker.submit(first))
    opened.worker.start()
    wait_for(lambda: len(futures) == 2)
    statuses = {future.result(60).job.prompt: future.result(60).status for future in futures}
    assert statuses == {"a dog": "failed", "a red apple on a table": "completed"}
    assert CASES["qwen"][0]["steps"] == 6 and opened.worker.running == 0


def test_a_request_that_a_closed_queue_refuses_is_not_remembered_nor_counted_as_done(here):
    app = here("wan", start=False)
    app.worker.queue.close()
    (job,) = _plain(app, 2)
    with pytest.raises(Stopping, match="shutting down"):
        app.worker.submit(job)
    assert app.worker.jobs.all("video") == []
