"""What the routes answer of images and videos, with stand-ins for the model: every field, files and pages."""

import base64
import io
import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pure.engine.engine import Order
from pure.engine.errors import Failure
from pure.serving import jobs
from pure.serving.jobs import Format, Job
from tests.serving.stand_ins import Hand, post

# ------------------------------------------------------------------------------ images


def test_everything_that_is_answered_of_images(site, tmp_path, monkeypatch):
    at = site()
    clock = itertools.count(1000.0, 50.0)
    monkeypatch.setattr(jobs, "time", SimpleNamespace(time=lambda: next(clock)))
    before = int(time.time())
    found = post(at, n=2, seed=5, size="96x48", model="two")
    id = found["id"]
    urls = [f"/v1/images/{id}/content?variant={number}" for number in range(2)]
    paths = [str(tmp_path / f"{id}-{number}.png") for number in range(2)]
    assert found["data"] == [
        {"revised_prompt": "a cat", "file_path": path, "url": url} for path, url in zip(paths, urls, strict=True)
    ]
    assert (found["size"], found["output_format"], found["usage"]) == ("96x48", "png", None)
    assert (
        before <= found["created"] <= time.time() and found["inference_time_s"] == 50.0 and found["peak_memory_mb"] > 1
    )
    told = found["puredit"]
    assert (told["model"], told["cache"], told["computed_steps"], told["skipped_steps"]) == ("one", "no cache", [0], [])
    assert [each["seed"] for each in told["results"]] == [5, 6]
    assert told["notes"] == ["of the recipe", "of both", "of a run"]
    assert told["cache_settings"]["Fn_compute_blocks"]["origin"] == "library default (SGLang)"
    for url in urls:
        answer = at.client.get(url)
        assert (answer.content, answer.headers["content-type"]) == (b"made", "image/png")
    assert at.client.get(urls[0].replace("=0", "=video")).status_code == 200
    answer = at.client.get(urls[0].replace("=0", "=2"))
    assert answer.status_code == 404 and answer.json()["error"]["param"] == "variant"
    (tmp_path / f"{id}-1.png").unlink()
    answer = at.client.get(urls[1])
    assert answer.status_code == 404 and "the image's file cannot be read: No such file" in answer.json()["detail"]


def test_an_image_that_is_not_finished_and_a_video_that_was_deleted_are_not_sent(site, tmp_path):
    at = site(held=True)
    waiting = Job(prompt="a", seeds=(1,), recipe=at.service.recipe(Order()), form=Format(kind="image"))
    at.worker.submit(waiting)
    answer = at.client.get(f"/v1/images/{waiting.id}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "image_not_ready")
    assert answer.json()["detail"] == "Image is still being generated"
    at = site(video=True)
    made = until(at, post(at, "/v1/videos")["id"], "completed")
    for path in tmp_path.glob("*.mp4"):
        path.unlink()
    answer = at.client.get(made["url"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "video_not_found")
    assert answer.json()["detail"] == "the video's file is gone"


@pytest.mark.parametrize(
    ("word", "suffix", "media"),
    [("jpeg", ".jpg", "image/jpeg"), ("jpg", ".jpg", "image/jpeg"), ("webp", ".webp", "image/webp")],
)
def test_formats_are_named_as_clients_name_them(site, word, suffix, media):
    at = site()
    found = post(at, output_format=word, response_format="url")
    assert found["output_format"] == {"jpg": "jpeg"}.get(word, word) and found["data"][0]["file_path"].endswith(suffix)
    assert found["data"][0]["url"] == f"/v1/images/{found['id']}/content"
    assert at.client.get(found["data"][0]["url"]).headers["content-type"] == media


def test_pictures_are_sent_where_no_file_is_kept(site):
    at = site(keep=False)
    (one,) = post(at)["data"]
    with Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))) as opened:
        assert (opened.format, opened.size) == ("PNG", (8, 8))
    assert one["file_path"] is None and "url" not in one
    error = post(at, status=400, response_format="url")["error"]
    assert error["param"] == "response_format" and "this server saves no files" in error["message"]


def test_another_model_and_a_wrong_option_are_told(site):
    at = site()
    notes = post(at, model="three")["puredit"]["notes"]
    assert notes[2] == "the request names the model 'three'; this server has only 'one', which was used"
    assert post(at, num_inference_steps=13, status=400)["error"]["param"] == "num_inference_steps"
    assert post(at, size="4096x4096")["size"] == "4096x4096"
    error = post(at, size="4097x4096", status=400)["error"]
    assert error["param"] == "size" and "16781312 pixels; allowed: at most 16777216" in error["message"]
    error = post(at, cache_dit_params={"Fn_compute_blocks": -1}, status=400)["error"]
    assert (error["param"], error["code"]) == ("cache_dit_params", "invalid_cache_config")
    assert post(at, path="/v1/videos", status=400)["detail"].endswith("send the prompt to /v1/images/generations")
    assert post(at, path="/v1/images/edits", status=400)["detail"].endswith("send the prompt to /v1/images/generations")


def test_files_of_an_edit_come_before_its_urls_and_are_kept(site, tmp_path):
    uploads = tmp_path / "uploads"
    at = site(counts=(1, 3), uploads=uploads)
    contents = []
    for kind, colour in (("PNG", "red"), ("JPEG", "blue")):
        encoded = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(encoded, format=kind)
        contents.append(encoded.getvalue())
    url = "data:image/png;base64," + base64.b64encode(contents[0]).decode()
    answer = at.client.post(
        "/v1/images/edits", data={"prompt": "a cat", "url": url}, files={"image[]": ("x", contents[1])}
    )
    assert answer.status_code == 200, answer.text
    id = answer.json()["id"]
    assert {each.name: each.read_bytes() for each in uploads.iterdir()} == {
        f"{id}-0.jpg": contents[1], f"{id}-1.png": contents[0]
    }  # fmt: skip
    assert "b64_json" in answer.json()["data"][0], "the default of edits"
    job = at.worker.jobs.get(id, "image").job
    assert [image.getpixel((0, 0))[2] > 200 for image in job.recipe.order.options["images"]] == [True, False]
    assert post(at, status=400)["detail"].endswith("edits pictures; send them to /v1/images/edits")
    error = post(at, path="/v1/images/edits", status=400)["error"]
    assert error["param"] == "image" and error["message"].startswith("Field 'image' or 'url' is required: send the")


# ------------------------------------------------------------------------------ videos


def until(at: Any, id: str, status: str) -> Any:
    found = None
    for _ in range(2000):
        found = at.client.get(f"/v1/videos/{id}").json()
        if found["status"] == status:
            return found
        time.sleep(0.005)
    raise AssertionError(found)


@pytest.mark.parametrize("count", [1, 2])
def test_everything_that_is_answered_of_a_video(site, tmp_path, count):
    at = site(video=True, held=True)
    waiting = post(at, "/v1/videos", n=count, fps=3, num_frames=9)
    id = waiting["id"]
    common = {
        "id": id, "object": "video", "model": "one", "prompt": "a cat", "size": "64x32", "seconds": "3",
        "num_frames": 9, "fps": 3, "quality": "standard", "num_outputs": count, "error": None,
    }  # fmt: skip
    open_fields = {"created_at", "peak_memory_mb", "inference_time_s"}
    assert {k: v for k, v in waiting.items() if k not in open_fields} == {
        **common, "status": "queued", "progress": 0, "completed_at": None, "url": None, "urls": [], "file_path": None,
        "file_paths": [], "puredit": None,
    }  # fmt: skip
    assert waiting["inference_time_s"] == 0.0 and waiting["created_at"] == int(
        at.worker.jobs.get(id, "video").job.created
    )
    answer = at.client.get(f"/v1/videos/{id}/content")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "video_not_ready"
    assert answer.json()["detail"] == "Generation is still in-progress"
    at.gate.set()
    done = until(at, id, "completed")
    urls = [f"/v1/videos/{id}/content" + (f"?variant={n}" if count > 1 else "") for n in range(count)]
    paths = [str(tmp_path / (f"{id}-{n}.mp4" if count > 1 else f"{id}.mp4")) for n in range(count)]
    shown = {k: v for k, v in done.items() if k not in {*open_fields, "puredit", "completed_at"}}
    assert shown == {
        **common, "status": "completed", "progress": 100, "url": urls[0], "urls": urls, "file_path": paths[0],
        "file_paths": paths,
    }  # fmt: skip
    assert done["completed_at"] >= done["created_at"] and len(done["puredit"]["results"]) == count
    answer = at.client.get(urls[-1])
    assert (answer.content, answer.headers["content-type"]) == (b"made", "video/mp4")
    assert at.client.get(f"/v1/videos/{id}/content?variant={count}").status_code == 404
    assert at.client.get(f"/v1/images/{id}/content").json()["error"]["code"] == "image_not_found"
    assert at.client.delete(f"/v1/videos/{id}").json() == {
        "id": id, "object": "video.deleted", "deleted": True, "status": "deleted"
    }  # fmt: skip
    assert not list(tmp_path.iterdir()) and at.client.get(f"/v1/videos/{id}").status_code == 404


def test_a_video_that_failed_or_was_cancelled_has_no_file(site):
    at = site(Hand(steps=1, finish=[Failure("a full disk", code="storage_failed")]), video=True, held=True)
    one, other = (post(at, "/v1/videos")["id"] for _ in range(2))
    at.worker.jobs.cancel(other)
    at.gate.set()
    found = until(at, one, "failed")
    assert found["error"] == {"message": "the work failed: a full disk", "code": "generation_failed"}
    assert (found["completed_at"], found["url"], found["progress"]) == (None, None, 50)
    answer = at.client.get(f"/v1/videos/{one}/content")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "video_failed"
    assert "there is no video: the work failed" in answer.json()["detail"]
    found = at.client.get(f"/v1/videos/{other}").json()
    assert (found["status"], found["error"], found["completed_at"]) == ("failed", None, None)
    assert at.client.get(f"/v1/videos/{other}/content").json()["detail"] == "Video variant 0 not found"


@pytest.mark.parametrize(("size", "fine"), [("32x64", True), ("33x64", False), ("32x63", False)])
def test_sizes_of_videos_are_even(site, size, fine):
    at = site(video=True, held=True)
    found = post(at, "/v1/videos", status=200 if fine else 400, size=size)
    assert fine or (found["error"]["param"], found["detail"]) == (
        "size", f"size: {size} cannot be written as a video; choose even sizes"
    )  # fmt: skip


def test_pages_of_videos(site):
    at = site(video=True, held=True)
    ids = [post(at, "/v1/videos")["id"] for _ in range(3)]

    def page(query: str = "") -> Any:
        found = at.client.get(f"/v1/videos?{query}").json()
        shown = [ids.index(each["id"]) for each in found["data"]]
        borders = [None if found[name] is None else ids.index(found[name]) for name in ("first_id", "last_id")]
        assert found["object"] == "list" and borders == ([shown[0], shown[-1]] if shown else [None, None])
        return shown, found["has_more"]

    assert page() == ([2, 1, 0], False) and page("order=asc") == ([0, 1, 2], False)
    assert page("limit=2") == ([2, 1], True) and page("limit=3") == ([2, 1, 0], False)
    assert page(f"after={ids[2]}&limit=1") == ([1], True) and page(f"after={ids[0]}") == ([], False)
    assert page(f"after={ids[0]}&order=asc&limit=2") == ([1, 2], False)
    answer = at.client.get("/v1/videos?after=x")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "after"
    for _ in range(18):
        ids.append(post(at, "/v1/videos")["id"])
    assert page() == ([*range(20, 0, -1)], True), "20 by default"


def test_videos_need_a_folder_and_a_model_of_videos(site):
    at = site(video=True, keep=False)
    assert "videos need files, and this server saves none" in post(at, "/v1/videos", status=400)["detail"]
    assert post(at, status=400)["detail"].endswith("makes videos; send the prompt to /v1/videos")
