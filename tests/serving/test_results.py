"""What belongs to one result or one request and to no other: notes, times, files, entries; and the order of the end."""

import asyncio
import io
import threading
from typing import Any

import attrs
import pytest
import uvicorn

from pure.checks import LARGEST_SEED
from pure.engine import maker
from pure.engine.engine import alike
from pure.engine.errors import Misuse
from pure.serving.http.asking import seeds
from pure.serving.http.server import Server
from pure.serving.http.strict_json import DEEPEST, Invalid, parse_json
from pure.serving.jobs import Store
from pure.serving.storage import Storage
from tests.serving.test_batching import jobs, studio  # noqa: F401  (a fixture)
from tests.serving.test_edits import edit
from tests.serving.test_jobs import job, output  # noqa: F401  (a fixture)
from tests.serving.test_videos import create, finished
from tests.support import wan_pipelines


def test_a_note_on_one_prompt_of_a_batch_is_told_of_that_prompt_only(studio):  # noqa: F811
    opened, _ = studio("flux", batch=2)
    futures = [
        opened.worker.submit(one)
        for one in jobs(opened, "flux", ("a dog", "a squirrel in a tree"), max_sequence_length=8)
    ]
    opened.worker.start()
    short, long = (future.result(60) for future in futures)
    assert opened.worker.metrics.stats()["batches"] == {"2": 6}
    assert short.notes == () and len(long.notes) == 1 and "'a squirrel in a tree'" in long.notes[0]


def test_the_times_of_a_result_are_one_for_each_of_its_steps(studio):  # noqa: F811
    opened, _ = studio("flux", batch=2)
    futures = [opened.worker.submit(one) for one in jobs(opened, "flux", ("a dog", "a cat"))]
    opened.worker.start()
    for future in futures:
        report = future.result(60).artifacts[0].report
        steps, stages = report["denoise_steps_ms"], report["stages_ms"]
        assert [one["step"] for one in steps] == list(range(6))
        assert sum(one["duration_ms"] for one in steps) == pytest.approx(stages["denoise"])
        assert report["duration_ms"] == pytest.approx(sum(stages.values()))


def test_nobody_joins_experts_under_way(studio):  # noqa: F811
    """Which expert a step belongs to is one for the whole batch: who comes later waits for a batch of its own."""
    opened, _ = studio("wan-experts", batch=2)
    first, other = jobs(opened, "wan-experts", ("a dog", "a cat"))
    step, futures, come = opened.worker.jobs.step, [opened.worker.submit(first)], threading.Event()

    def after(id):
        step(id)
        if not come.is_set():
            futures.append(opened.worker.submit(other))
            come.set()

    opened.worker.jobs.step = after
    opened.worker.start()
    assert come.wait(30)
    assert [future.result(60).status for future in futures] == ["completed"] * 2
    assert opened.worker.metrics.stats()["batches"] == {"1": 12}


def test_the_latest_denoisers_are_remembered_and_no_more(here, monkeypatch):
    """Every new threshold is a new denoiser, perhaps a compiled one: a client must not fill the memory with them."""
    monkeypatch.setattr(maker, "REMEMBERED", 2)
    app = here("flux", start=False)
    recipes = [jobs(app, "flux", ("a",), {"residual_diff_threshold": each})[0].recipe for each in (0.1, 0.2, 0.3)]
    kept = [app.worker.hand.maker.known(recipe).denoiser for recipe in recipes]
    assert app.worker.hand.maker.denoisers == kept[1:]
    assert (
        app.worker.hand.maker.known(attrs.evolve(recipes[2], denoiser=attrs.evolve(recipes[2].denoiser))).denoiser
        is kept[2]
    )


def test_a_video_that_fails_after_its_first_result_shows_no_files(here, tmp_path, monkeypatch):
    app = here("wan")
    pipeline, calls = type(app.service.engine.pipeline), []
    decoded = pipeline.decoded

    def second(self, *rest):
        calls.append(rest)
        if len(calls) == 2:
            raise RuntimeError("the autoencoder is on fire")
        return decoded(self, *rest)

    monkeypatch.setattr(pipeline, "decoded", second)
    made = finished(app, create(app, n=2)["id"])
    assert (made["status"], made["error"]["code"]) == ("failed", "generation_failed")
    assert (made["url"], made["urls"], made["file_path"], made["file_paths"]) == (None, [], None, [])
    assert made["completed_at"] is None and made["puredit"] is None
    assert not list(tmp_path.iterdir())


def test_an_image_that_was_not_made_is_not_found(here, monkeypatch):
    app = here("flux")

    def broken(*_):
        raise RuntimeError("the autoencoder is on fire")

    monkeypatch.setattr(type(app.service.engine.pipeline), "decoded", broken)
    assert "on fire" in app.refused(status=500, num_inference_steps=1)["message"]
    (entry,) = app.worker.jobs.all("image")
    answer = app.client.get(f"/v1/images/{entry.job.id}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "image_not_found")


def test_encoded_pictures_are_not_kept_with_the_entry(here):
    app = here("klein")
    file = io.BytesIO()
    wan_pipelines.picture().resize((64, 64)).save(file, "PNG")
    edit(app, files={"image": file.getvalue()})
    (entry,) = app.worker.jobs.all("image")
    assert entry.status == "completed" and len(entry.job.recipe.request.memo) == 0


def test_different_pictures_are_not_edited_in_one_batch(here):
    """The two results of one request share its picture; those of another request have their own."""
    klein = here("klein", start=False)
    options = {"height": 32, "width": 32, "steps": 2}
    one, other = (
        klein.recipe(options={**options, "images": (wan_pipelines.picture().resize((64, size)),)}) for size in (64, 96)
    )
    assert alike(one, one) and not alike(one, other) and not alike(other, one)
    assert not alike(one, klein.recipe(options=options))


def test_the_double_file_of_a_camera_is_kept_as_jpg(here, tmp_path):
    app, file = here("klein", files=Storage(None, tmp_path)), io.BytesIO()
    picture = wan_pipelines.picture().resize((64, 64))
    picture.save(file, "MPO", save_all=True, append_images=[picture])
    made = edit(app, files={"image": file.getvalue()})
    assert [kept.name for kept in tmp_path.iterdir()] == [f"{made['id']}-0.jpg"]


def test_the_first_result_of_a_job_does_not_complete_it_whatever_its_number(job):  # noqa: F811
    store = Store()
    future = store.add(job)
    store.begin(job.id)
    assert store.finish(job.samples[1], output()) and store.wanted(job.id) and not future.done()
    store.fail(job.id, Misuse("no"))
    assert future.result(0).status == "failed" and sorted(future.result(0).artifacts) == [1]


def test_the_last_of_several_seeds_may_be_the_largest():
    assert seeds({"n": 2, "seed": (LARGEST_SEED - 1,)}) == (LARGEST_SEED - 1, LARGEST_SEED)
    with pytest.raises(Misuse, match=r"seed: 3 seeds from \d+ on go beyond 2\*\*63 - 1; begin at \d+ or below"):
        seeds({"n": 3, "seed": (LARGEST_SEED - 1,)})


def test_depth_is_bounded_exactly():
    """The outermost list is at depth 0."""
    assert parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
    with pytest.raises(Invalid, match=f"more than {DEEPEST} deep"):
        parse_json("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2))


class Calls:
    """An engine that notes in which order it is told of the end."""

    def __init__(self):
        self.calls, self.halted = [], asyncio.Event()

    def drain(self):
        self.calls.append("drain")

    def halt(self):
        self.calls.append("halt")
        self.halted.set()


@pytest.mark.parametrize("patience", [60.0, 0.0])
def test_what_waits_is_refused_at_once_and_what_runs_after_a_while(monkeypatch, patience):
    async def ending():
        engine: Any = Calls()

        async def connections_end(self, sockets=None):
            engine.calls.append("wait")
            if patience == 0.0:
                await engine.halted.wait()

        monkeypatch.setattr(uvicorn.Server, "shutdown", connections_end)
        await Server(uvicorn.Config(lambda: None), engine, patience).shutdown()
        return engine.calls

    assert asyncio.run(ending()) == ["drain", "wait", *(["halt"] if patience == 0.0 else [])]
