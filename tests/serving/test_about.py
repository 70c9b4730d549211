"""What the server says of itself, and what it says of what it does not have."""

import threading

import pytest

import pure
from pure.serving.jobs import Format, Job, Store


@pytest.fixture
def app(here):
    return here("flux", service={"metrics": True, "path": "/models/flux", "about": {"port": 1}})


@pytest.mark.parametrize("path", ["/health", "/health_generate", "/liveness"])
def test_health(app, path):
    app.worker.ready.wait(10)
    assert app.client.get(path).json() == {"status": "ok"}


def test_health_is_503_until_the_warm_up_is_done_and_other_routes_wait(here):
    go, asked = threading.Event(), []
    app = here("flux", start=False)
    recipe = app.recipe(options={"steps": 2})
    app.worker.options = type(app.worker.options)(warm_up=(recipe,))
    warm = app.worker._warm
    app.worker._warm = lambda recipe: (go.wait(30), warm(recipe))
    app.worker.start()
    assert app.client.get("/health").status_code == 503
    assert app.client.get("/liveness").status_code == 200
    waiting = threading.Thread(target=lambda: asked.append(app.client.get("/v1/models")))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and not asked
    go.set()
    waiting.join(30)
    assert asked[0].status_code == 200 and app.client.get("/health").status_code == 200


def test_a_warm_up_that_fails_is_said_and_not_fatal(here):
    said = []
    app = here("flux", start=False, log=lambda text, kind: said.append(text))
    recipe = app.recipe(options={"steps": 2})
    app.worker.options = type(app.worker.options)(warm_up=(recipe,))
    app.worker.hand.maker.known = lambda denoiser: None
    app.worker.start()
    assert app.worker.ready.wait(10) and "the warm-up failed" in said[0]


def test_the_first_request_can_be_warmed_up(here):
    said = []
    app = here("flux", first=True, log=lambda text, kind: said.append(text))
    for _ in range(2):
        app.post(num_inference_steps=2)
    assert len(said) == 1 and said[0].startswith("warmed up in")


def test_models(app):
    listed = app.client.get("/v1/models").json()
    assert listed["object"] == "list" and listed == app.client.get("/models").json()
    (card,) = listed["data"]
    wanted = {"id": "tiny", "object": "model", "owned_by": "puredit", "root": "/models/flux", "num_gpus": 1}
    assert {name: card[name] for name in wanted} == wanted and card["pipeline_class"] == "FluxPipeline"
    assert app.client.get("/v1/models/flux").json() == card
    answer = app.client.get("/v1/models/black-forest-labs/FLUX.1-dev")
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "The model 'black-forest-labs/FLUX.1-dev' does not exist",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_information(app):
    found = app.client.get("/model_info").json()
    assert found == app.client.get("/v1/model_info").json()
    assert found["model_path"] == "/models/flux" and found["is_image_gen"] and found["task_type"] == "text-to-image"
    info = app.client.get("/server_info").json()
    assert info["version"] == pure.__version__ and info["port"] == 1


def test_statistics_and_metrics_count_what_was_done(app):
    app.post(num_inference_steps=4, n=2, cache_dit_params={"residual_diff_threshold": 1, "max_warmup_steps": 1})
    app.refused(cache_dit_params={"x": 1})
    stats = app.client.get("/stats").json()
    assert stats["requests"] == {"image completed": 1} and stats["outputs"] == {"image": 2}
    assert stats["steps"] == {"computed": 2, "skipped": 6} and stats["queue_length"] == stats["running"] == 0
    answer = app.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert 'puredit_requests_total{kind="image",outcome="completed"} 1' in lines
    assert 'puredit_steps_total{decision="skipped"} 6' in lines and "puredit_queue_length 0" in lines
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {line.split("{")[0].split()[0] for line in lines if not line.startswith("#")} <= named


def test_metrics_are_there_only_if_asked_for(here):
    answer = here("flux").client.get("/metrics")
    assert answer.status_code == 404 and "--enable-metrics" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/v1/set_lora", 501, "LoRA is not supported in this version"),
        ("GET", "/v1/list_loras", 501, "LoRA is not supported in this version"),
        ("POST", "/v1/meshes", 404, "this version has no models for meshes"),
        ("GET", "/v1/realtime_video/generate", 404, "no realtime models"),
        ("POST", "/vertex_generate", 404, "use /v1/images/generations"),
        ("POST", "/v1/chat/completions", 404, "there is no /v1/chat/completions"),
        ("GET", "/v1/images/generations", 405, "Method Not Allowed"),
    ],
)
def test_what_is_not_there(app, method, path, status, message):
    answer = app.client.request(method, path)
    assert answer.status_code == status and message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == ("not_implemented_error" if status == 501 else "invalid_request_error")
    assert answer.json()["detail"] == answer.json()["error"]["message"]


def test_an_error_of_ours_is_500_in_the_same_shape(app, monkeypatch):
    def broken(*_):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(type(app.service.engine), "recipe", broken)
    error = app.refused(status=500)
    assert error["code"] == "internal_error" and "a mistake of ours" in error["message"]


def test_web_pages_may_use_the_server_only_where_they_are_named(here):
    origin = {"Origin": "https://page.example"}
    named = here("flux", service={"origins": ("https://page.example",)})
    assert named.client.get("/health", headers=origin).headers["access-control-allow-origin"] == origin["Origin"]
    assert "access-control-allow-origin" not in here("flux").client.get("/health", headers=origin).headers


def test_after_the_end_everything_is_503(app):
    app.worker.stop()
    answer = app.client.get("/health")
    assert answer.status_code == 503 and answer.json()["status"] == "unhealthy"
    error = app.refused(status=503)
    assert error["code"] == "shutting_down"
    assert app.client.get("/liveness").status_code == 200


def test_an_equal_denoiser_is_used_again(app):
    """What was compiled for one request is compiled for the next, whatever its prompt, seed and size."""
    cached = {"cache_dit_params": {"residual_diff_threshold": 0.3, "max_warmup_steps": 1}}
    app.post(num_inference_steps=2, **cached)
    app.post(num_inference_steps=3, prompt="a dog", seed=1, size="16x16", **cached)
    assert len(app.worker.hand.maker.denoisers) == 1
    app.post(num_inference_steps=2)
    assert len(app.worker.hand.maker.denoisers) == 2


def test_what_has_no_effect_is_noted_in_the_response(here):
    app = here("flux")
    made = app.post(num_inference_steps=2, negative_prompt="bad", enable_cache_dit=True)["puredit"]
    plain = app.post(num_inference_steps=2)["puredit"]
    assert any("the negative prompt has no effect" in note for note in made["notes"])
    assert any("nothing will be skipped" in note for note in made["notes"])
    assert plain["notes"] == []
    size = len(app.worker.hand.maker.engine.base.blocks)
    whole = app.post(num_inference_steps=2, cache_dit_params={"Fn_compute_blocks": size, "max_warmup_steps": 1})
    assert any("no block is left to skip" in note for note in whole["puredit"]["notes"])


def test_finished_jobs_are_forgotten_some_time_and_others_are_not(here):
    app = here("flux", start=False)
    recipe = app.recipe()
    store = Store(kept=2)
    jobs = [Job(prompt="a cat", seeds=(1,), recipe=recipe, form=Format(kind="image")) for _ in range(5)]
    for job in jobs:
        store.add(job)
    for job in jobs[1:]:
        store.cancel(job.id)
    store.add(Job(prompt="a cat", seeds=(1,), recipe=recipe, form=Format(kind="image")))
    assert [store.get(job.id, "image") is not None for job in jobs] == [True, False, False, True, True]
    assert store.get(jobs[0].id, "video") is None


def test_requests_are_logged_without_what_they_say(here):
    said = []
    app = here("flux", service={"requests": True, "log": lambda text, kind: said.append(text)})
    app.post(prompt="a secret wish", num_inference_steps=2)
    (line,) = said
    assert line.startswith("POST /v1/images/generations 200 ") and "wish" not in line


def test_a_cut_prompt_is_noted_in_its_own_response(here):
    """Three prompts of one batch, of which one holds another: each job has the note on its own."""
    app = here("embedded", batch=3, delay=5.0)
    long, longer = "a red apple " * 8, "on a table, " + "a red apple " * 8
    recipe = app.recipe(options={"steps": 1})
    jobs = [Job(prompt=text, seeds=(1,), recipe=recipe, form=Format(kind="image")) for text in (long, longer, "a cat")]
    notes = [future.result(60).notes for future in [app.worker.submit(job) for job in jobs]]
    assert [len(each) for each in notes] == [1, 1, 0]
    for text, (note,) in zip((long, longer), notes[:2], strict=True):
        assert f"reads 16 tokens and the prompt {text!r} has" in note
