"""Videos over HTTP: jobs, progress, paging, deletion."""

import io
import threading
import time

import pytest

from tests.cli.test_video import read
from tests.support import wan_pipelines

SMALL = {"prompt": "a dog runs", "size": "32x16", "num_frames": 5, "num_inference_steps": 4}


def create(app, status=200, **fields):
    answer = app.client.post("/v1/videos", json={**SMALL, **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


def finished(app, id, limit=60):
    until = time.monotonic() + limit
    while (found := app.client.get(f"/v1/videos/{id}").json())["status"] in ("queued", "in_progress"):
        assert time.monotonic() < until
        assert 0 <= found["progress"] <= 99 and found["url"] is None
        time.sleep(0.02)
    return found


def test_a_video_from_beginning_to_end(here, tmp_path):
    app = here("wan")
    began = create(app, fps=12, cache_dit_params={"residual_diff_threshold": 1, "max_warmup_steps": 1})
    assert began["object"] == "video" and began["status"] in ("queued", "in_progress") and began["model"] == "tiny"
    assert (began["size"], began["seconds"], began["num_frames"]) == ("32x16", "0.416667", 5)
    done = finished(app, began["id"])
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
    assert done["completed_at"] >= done["created_at"] and done["inference_time_s"] > 0
    assert done["puredit"]["computed_steps"] == [0] and done["puredit"]["skipped_steps"] == [1, 2, 3]
    answer = app.client.get(done["url"])
    assert answer.headers["content-type"] == "video/mp4"
    file = tmp_path / "sent.mp4"
    file.write_bytes(answer.content)
    frames, about = read(file)
    assert frames.shape == (5, 16, 32, 3) and "12 fps" in about
    assert app.client.get(f"/v1/videos/{began['id']}/content?variant=1").status_code == 404


@pytest.mark.parametrize(
    ("fields", "frames"),
    [({"num_frames": None, "seconds": "1", "fps": 8}, 5), ({"num_frames": None, "seconds": 0.7, "fps": 14}, 9)],
)
def test_seconds_become_frames_that_are_possible_and_not_more(here, fields, frames):
    app = here("wan")
    assert create(app, **fields)["num_frames"] == frames


def test_progress_and_order(here):
    """The engine stands still: everything waits; then it goes on, first come first served."""
    app = here("wan", start=False)
    go = threading.Event()
    app.worker.options = type(app.worker.options)()
    app.worker.queue.take = (lambda take: lambda *args: (go.wait(30), take(*args))[1])(app.worker.queue.take)
    app.worker.start()
    ids = [create(app, seed=seed)["id"] for seed in range(3)]
    page = app.client.get("/v1/videos?limit=2").json()
    assert [one["id"] for one in page["data"]] == ids[:0:-1] and page["has_more"] and page["last_id"] == ids[1]
    rest = app.client.get(f"/v1/videos?limit=2&after={ids[1]}").json()
    assert [one["id"] for one in rest["data"]] == ids[:1] and not rest["has_more"]
    exact = app.client.get(f"/v1/videos?limit=1&after={ids[1]}").json()
    assert (exact["first_id"], exact["last_id"], exact["has_more"]) == (ids[0], ids[0], False)
    upwards = app.client.get("/v1/videos?order=asc").json()["data"]
    assert [one["id"] for one in upwards] == ids and {one["status"] for one in upwards} == {"queued"}
    assert "in-progress" in app.client.get(f"/v1/videos/{ids[0]}/content").json()["detail"]
    go.set()
    ended = [finished(app, id)["completed_at"] for id in ids]
    assert ended == sorted(ended)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=nobody"])
def test_wrong_pages(here, query):
    answer = here("wan").client.get(f"/v1/videos?{query}")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == query.partition("=")[0]


def test_deleting_a_video_stops_the_work(here, tmp_path):
    """Law 15: after two steps of many the work ends, and the next video is what it would have been."""
    app = here("wan")
    alone = finished(app, create(app, seed=5)["id"])
    pixels = app.client.get(alone["url"]).content
    began = create(app, num_inference_steps=500, seed=1)
    while app.client.get(f"/v1/videos/{began['id']}").json()["status"] == "queued" or not app.worker.running:
        time.sleep(0.01)
    waiting = create(app, num_inference_steps=500, seed=2)
    answer = app.client.delete(f"/v1/videos/{began['id']}").json()
    assert answer == {"id": began["id"], "object": "video.deleted", "deleted": True, "status": "deleted"}
    assert app.client.delete(f"/v1/videos/{waiting['id']}").json()["deleted"]
    assert app.client.get(f"/v1/videos/{began['id']}").status_code == 404
    again = finished(app, create(app, seed=5)["id"])
    assert again["status"] == "completed" and app.client.get(again["url"]).content == pixels
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{one['id']}.mp4" for one in (alone, again))
    counted = app.client.get("/stats").json()
    assert counted["requests"] == {"video cancelled": 2, "video completed": 2} and counted["running"] == 0


def test_deleting_a_finished_video_deletes_its_file(here, tmp_path):
    app = here("wan")
    done = finished(app, create(app)["id"])
    assert len(list(tmp_path.iterdir())) == 1
    app.client.delete(f"/v1/videos/{done['id']}")
    assert not list(tmp_path.iterdir())
    assert app.client.get(f"/v1/videos/{done['id']}/content").status_code == 404
    assert app.client.delete(f"/v1/videos/{done['id']}").json()["detail"] == "Video not found"


def test_a_video_from_a_picture(here):
    app = here("wan-picture")
    file = io.BytesIO()
    wan_pipelines.picture().save(file, format="PNG")
    form = {name: str(value) for name, value in SMALL.items()}
    answer = app.client.post("/v1/videos", data=form, files={"input_reference": ("p.png", file.getvalue())})
    assert answer.status_code == 200, answer.text
    assert finished(app, answer.json()["id"])["status"] == "completed"
    assert "reads 1 to 2 input pictures; this request has 0" in create(app, 400)["detail"]
    http = {"input_reference": {"image_url": "https://example.org/x.png"}}
    assert "is not fetched" in create(app, 400, **http)["detail"]


def test_what_cannot_be_a_video(here):
    app = here("wan")
    assert "num_frames: found the number 0" in create(app, 400, num_frames=0)["detail"]
    assert "frames=6 is not" in create(app, 400, num_frames=6)["detail"]
    assert "makes videos; send the prompt to /v1/videos" in app.refused()["message"]
    assert "unknown key" in create(app, 400, cache_dit_params={"x": 1})["detail"]
    assert not app.worker.jobs.all("video")
    none = here("wan", keep=False)
    assert "this server saves none" in create(none, 400)["detail"]


def test_a_video_that_fails_says_why(here, monkeypatch):
    app = here("wan")

    def broken(*_):
        raise RuntimeError("the autoencoder is on fire")

    monkeypatch.setattr(type(app.service.engine.pipeline), "decoded", broken)
    done = finished(app, create(app)["id"])
    assert done["status"] == "failed" and "on fire" in done["error"]["message"] and done["progress"] < 100
    answer = app.client.get(f"/v1/videos/{done['id']}/content")
    assert answer.status_code == 404 and "on fire" in answer.json()["detail"]
