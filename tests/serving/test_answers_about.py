"""What is answered of the server and for every request, with stand-ins for the model: health, lines, limits, ends."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import attrs
import pytest

import pure
from pure.configs import Facts
from pure.serving.http import service as services
from pure.serving.http.app import Checks
from pure.serving.http.bodies import LIMIT, Upload
from pure.serving.http.errors import HttpError, body_of
from pure.serving.jobs import Artifact, Format, Job
from pure.serving.storage import Storage
from tests.serving.stand_ins import Asked, Made

# ------------------------------------------------------------------------------ about


@pytest.mark.parametrize("video", [False, True])
def test_everything_that_is_said_of_the_server(site, video):
    facts = Facts(processes=2, groups=3, steps=5)
    at = site(video=video, facts=facts, about={"started": 12.7, "port": 1}, run=False)
    at.worker.ready.set()
    at.worker.start()
    task, name = ("text-to-video", "WanPipeline") if video else ("text-to-image", "FluxPipeline")
    card = {
        "id": "one", "object": "model", "created": 12, "owned_by": "puredit", "root": "a/model", "parent": None,
        "max_model_len": None, "num_gpus": 6, "task_type": task, "supported_task_types": [task],
        "dit_precision": "float32", "vae_precision": "float32", "pipeline_name": name, "pipeline_class": name,
    }  # fmt: skip
    for path in ("/models", "/v1/models"):
        assert at.client.get(path).json() == {"object": "list", "data": [card]}
    assert at.client.get("/v1/models/two").json() == at.client.get("/v1/models/one").json() == card
    error = at.client.get("/v1/models/three").json()["error"]
    assert (error["param"], error["code"], error["type"]) == ("model", "model_not_found", "invalid_request_error")
    kind = "video" if video else "image"
    for path in ("/model_info", "/v1/model_info"):
        assert at.client.get(path).json() == {
            "model_path": "a/model", "served_model_name": "one", "is_generation": True, "model_type": "diffusion",
            "architectures": [name], "family": "family", "task_type": task, "supported_task_types": [task],
            "output_types": [kind], "is_image_gen": not video, "default_num_inference_steps": 7,
        }  # fmt: skip
    said = at.client.get("/server_info").json()
    assert said == {"version": pure.__version__, "started": 12.7, "port": 1, "ready": True}
    # The facts of the server hold for a request, but for its steps.
    recipe = at.service.recipe(services.Order(options={"steps": 9}))
    assert recipe.caching.effective.facts == attrs.evolve(facts, steps=9)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_there_are_no_pages_that_load_code_from_elsewhere(site, path):
    answer = site().client.get(path)
    assert answer.status_code == 404 and "error" in answer.json()


def test_health_before_while_and_after_requests_are_taken(site):
    at = site(run=False)
    alive = "pure.serving.worker.Worker.alive"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alive, True)
        for path in ("/health", "/health_generate"):
            answer = at.client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"status": "warming up"})
        assert at.client.get("/liveness").json() == {"status": "ok"}
        at.worker.ready.set()
        assert at.client.get("/health").json() == {"status": "ok"} and at.client.get("/server_info").json()["ready"]
    answer = at.client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert at.client.get("/liveness").status_code == 200
    answer = at.client.get("/v1/models")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "shutting_down"
    assert answer.json()["error"]["type"] == "server_unavailable"


def test_groups_are_counted_together_and_apart(site):
    at = site(metrics=True)
    queue = lambda count: [None] * count  # noqa: E731
    well: Any = {"alive": True, "ready": Mock()}
    loads = ((1, 2), (3, 4))
    groups = tuple(SimpleNamespace(queue=queue(waiting), running=running, **well) for waiting, running in loads)
    with pytest.MonkeyPatch.context() as patch:
        found = at.client.get("/stats").json()
        assert (found["queue_length"], found["running"]) == (0, 0) and "groups" not in found
        assert "group=" not in at.client.get("/metrics").text
        patch.setattr(at.service.workers, "groups", groups)
        found = at.client.get("/stats").json()
        apart = [{"queue_length": 1, "running": 2}, {"queue_length": 3, "running": 4}]
        assert (found["queue_length"], found["running"], found["groups"]) == (4, 6, apart)
        assert at.client.get("/health").json()["groups"] == apart
        text = at.client.get("/metrics").text
        assert 'puredit_group_running{group="1"} 4' in text and "puredit_queue_length 4" in text


# ------------------------------------------------------------------------------ every request


def test_a_line_for_every_request_where_that_is_set(site, monkeypatch):
    monkeypatch.setattr("pure.serving.http.app.Exchange.seconds", 0.25)
    at = site(requests=True, run=False)
    monkeypatch.setattr("pure.serving.worker.Worker.alive", True)
    at.worker.ready.set()
    at.client.get("/liveness")
    at.client.get("/nowhere")
    at.client.put("/v1/videos")
    lines = ("GET /liveness 200 0.250 s", "GET /nowhere 404 0.250 s", "PUT /v1/videos 405 0.250 s")
    assert at.logged == [(line, "note") for line in lines]
    at = site(run=False)
    at.client.get("/liveness")
    assert at.logged == []


def test_an_error_of_ours_is_logged_and_answered_once(site, monkeypatch):
    at = site(requests=True)
    monkeypatch.setattr("pure.serving.http.about._card", Mock(side_effect=ZeroDivisionError("of ours")))
    answer = at.client.get("/v1/models")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    assert answer.json()["detail"] == "internal error: ZeroDivisionError: of ours"
    assert at.logged[0] == ("GET /v1/models: ZeroDivisionError: of ours", "warning") and " 500 " in at.logged[1][0]


def test_a_client_that_hears_nothing_is_logged_as_closed(site):
    at = site(requests=True)
    app: Any = at.client.app
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        raise OSError("gone")

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/liveness", "headers": [], "query_string": b"", "app": app}
    with pytest.raises(OSError, match="gone"):
        asyncio.run(app(scope, receive, send))
    assert len(sent) == 1 and at.logged[-1][0].startswith("GET /liveness 200 "), "half an answer is not answered again"

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return None

    asyncio.run(Checks(silent, at.service)(scope, receive, send))
    assert at.logged[-1][0].startswith("GET /liveness closed ")


@pytest.mark.parametrize("origin", [None, "http://a"])
def test_web_pages_of_named_origins_may_read_answers(site, origin):
    at = site(origins=(origin,) if origin else ())
    headers = at.client.get("/liveness", headers={"Origin": "http://a"}).headers
    assert headers.get("access-control-allow-origin") == origin


def test_a_body_is_bounded_as_it_comes(site):
    at = site()
    for headers in ({"content-length": str(LIMIT + 1)}, {"content-length": str(LIMIT)}):
        answer = at.client.post("/v1/images/generations", content=b"x", headers=headers)
        assert (answer.status_code == 413) == (headers["content-length"] != str(LIMIT))
    error = body_of(HttpError("too much", 413, code="request_too_large"))
    assert error == {
        "error": {"message": "too much", "type": "invalid_request_error", "param": None, "code": "request_too_large"},
        "detail": "too much",
    }


# ------------------------------------------------------------------------------ jobs of a request


def job() -> Job:
    recipe: Any = Made(None, None, Asked(64, 32, 1), None)
    return Job(prompt="a", seeds=(1,), recipe=recipe, form=Format(kind="image"))


@pytest.mark.parametrize("error", [OSError("a full disk"), asyncio.CancelledError()])
def test_a_request_whose_pictures_cannot_be_kept_leaves_nothing(site, tmp_path, monkeypatch, error):
    at = site(run=False, uploads=tmp_path / "uploads")
    real, one = Storage.keep, job()

    def keep(self: Any, name: str, content: bytes) -> None:
        if name.endswith("-1.png"):
            raise error
        real(self, name, content)

    monkeypatch.setattr(Storage, "keep", keep)
    pictures: Any = [SimpleNamespace(format="PNG")] * 2
    sent = [Upload("image", b"1"), Upload("image", b"2")]
    with pytest.raises(type(error)):
        asyncio.run(at.service.submit(one, pictures, sent))
    assert not list((tmp_path / "uploads").iterdir()) and len(at.worker.queue) == 0
    assert at.worker.jobs.get(one.id, "image") is None


def test_a_job_that_is_discarded_has_no_files(site, tmp_path):
    at = site(run=False)
    one = job()
    at.worker.submit(one)
    (sample,) = one.samples
    (tmp_path / "a.png").touch()
    at.worker.jobs.finish(sample, Artifact(content=b"", path=str(tmp_path / "a.png"), report={}))
    at.service.discard(one.id)
    assert not list(tmp_path.iterdir()) and at.worker.jobs.get(one.id, "image") is None and not len(at.worker.queue)


def test_waiting_for_a_client_ends_with_the_job(site, monkeypatch):
    at, one = site(run=False), job()
    left: list[str] = []

    async def leave(_: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            left.append("cancelled")
            raise

    monkeypatch.setattr(services, "_gone", leave)

    async def wait() -> Any:
        accepted = at.worker.submit(one)
        asyncio.get_running_loop().call_later(0.01, at.worker.cancel, one.id)
        try:
            return await at.service.done(Mock(), one, accepted)
        except Exception as error:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert left == ["cancelled"]
            return error

    assert getattr(asyncio.run(wait()), "code", None) == "shutting_down"


def test_memory_is_that_of_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(services, "peak_memory", lambda: {"process_mb": 3.0})
    assert services.memory() == 3.0
    monkeypatch.setattr(services, "peak_memory", lambda: {"process_mb": 3.0, "gpu_mb": 5.0})
    assert services.memory() == 5.0
