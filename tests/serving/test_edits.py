"""Edits: pictures come as files or data: URLs, and nothing is fetched."""

import base64
import io

import pytest
from PIL import Image

from pure.engine.errors import Failure
from pure.serving.storage import Storage
from tests.support import wan_pipelines

FEW = {"prompt": "a dog", "num_inference_steps": "2", "size": "32x32"}


def encoded(kind="PNG", size=(64, 64)):
    file = io.BytesIO()
    wan_pipelines.picture().resize(size).save(file, format=kind)
    return file.getvalue()


def data_url(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def edit(app, status=200, files=None, **fields):
    answer = app.client.post("/v1/images/edits", data={**FEW, **fields}, files=files or {"unused": ("", b"")})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_file_and_a_data_url_are_the_same_picture(here):
    app = here("klein")
    picture = encoded()
    by_file = edit(app, files={"image": ("../../first.png", picture)})
    by_url = app.client.post("/v1/images/edits", data={**FEW, "url": data_url(picture)}).json()
    by_list = app.client.post("/v1/images/edits", json={**FEW, "url": [data_url(picture)]}).json()
    assert by_file["data"][0]["b64_json"] == by_url["data"][0]["b64_json"] == by_list["data"][0]["b64_json"]
    without = app.post(prompt="a dog", num_inference_steps=2, size="32x32", response_format="b64_json")
    assert by_file["data"][0]["b64_json"] != without["data"][0]["b64_json"]


def test_several_files_of_several_kinds(here):
    app = here("klein")
    files = [("image[]", ("a.png", encoded())), ("image[]", ("b.jpg", encoded("JPEG", (64, 96))))]
    made = edit(app, files=files, response_format="url")
    assert made["data"][0]["url"].endswith("/content")


def test_pictures_are_kept_where_that_is_asked_for(here, tmp_path):
    (tmp_path / "uploads").mkdir()
    app = here("klein", files=Storage(None, tmp_path / "uploads"))
    made = edit(app, files={"image": ("../../first.png", encoded("JPEG"))})
    assert [file.name for file in (tmp_path / "uploads").iterdir()] == [f"{made['id']}-0.jpg"]
    files = [("image", ("a", encoded("JPEG"))), ("image", ("b", encoded("PNG")))]
    made = edit(app, files=files)
    assert {f"{made['id']}-0.jpg", f"{made['id']}-1.png"} < {file.name for file in (tmp_path / "uploads").iterdir()}


def test_a_request_that_is_refused_leaves_no_picture(here, tmp_path, monkeypatch):
    files = [("image", ("a", encoded("JPEG"))), ("image", ("b", encoded("PNG")))]
    app = here("klein", files=Storage(tmp_path / "results", tmp_path / "uploads"))
    keep, written = Storage.keep, []

    def full(self, name, content):
        if written:
            raise Failure("cannot write: No space left on device")
        written.append(name)
        keep(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "keep", full)
        assert edit(app, 500, files)["error"]["message"] == "cannot write: No space left on device"
    assert len(written) == 1 and not list((tmp_path / "uploads").iterdir()) and not app.worker.jobs.all("image")
    app.worker.queue._most = 0
    assert edit(app, 503, files)["error"]["code"] == "queue_full"
    assert not list((tmp_path / "uploads").iterdir())
    app.worker.stop()  # what was cancelled has ended
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("fields", "files", "message"),
    [
        ({}, {"image": ("x", b"no picture")}, "image: it is no picture we can read"),
        ({}, {"image": ("x", encoded("PNG")[:3000])}, "image: it is damaged or cut off"),
        ({}, {"image": ("x", b"")}, "image: it is empty"),
        (
            {},
            {"picture": ("x", encoded())},
            "picture: there is no such file field here; send the picture as a file of a multipart form (curl -F image=",
        ),
        ({}, {"image": ("x", encoded()), "mask": ("m", encoded())}, "masks are not supported"),
        ({"url": "http://127.0.0.1/x.png"}, None, "is not fetched: the server downloads nothing"),
        ({"url": "file:///etc/passwd"}, None, "is not fetched"),
        ({"url": "data:image/png;base64,###"}, None, "the data: URL is damaged"),
        ({}, {"image": ("x", encoded("BMP"))}, "send PNG, JPEG or WebP"),
    ],
    ids=["noise", "cut off", "empty", "field", "mask", "http", "file", "damaged", "format"],
)
def test_what_is_no_picture(here, fields, files, message):
    app = here("klein")
    answer = app.client.post("/v1/images/edits", data={**FEW, **fields}, files=files)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_picture_is_turned_as_its_exif_says(here, orientation):
    app, exif, upright, photo = here("klein"), Image.Exif(), io.BytesIO(), io.BytesIO()
    exif[0x0112] = orientation
    stored = wan_pipelines.picture().resize((96, 64))
    stored.save(photo, "PNG", exif=exif)
    stored.rotate(180 if orientation == 3 else 270, expand=True).save(upright, "PNG")
    made = [edit(app, files={"image": each.getvalue()})["data"][0]["b64_json"] for each in (photo, upright)]
    assert made[0] == made[1]


def test_what_a_picture_loses_is_told(here):
    app, moving, frames = (
        here("klein"),
        io.BytesIO(),
        [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")],
    )
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    made = edit(app, files={"image": moving.getvalue()})
    assert made["puredit"]["notes"] == ["image: the file holds 2 pictures or frames; the first is used"]


def test_the_double_file_of_a_camera(here):
    app, file = here("klein"), io.BytesIO()
    picture = wan_pipelines.picture().resize((64, 64))
    picture.save(file, "MPO", save_all=True, append_images=[picture])
    assert edit(app, files={"image": file.getvalue()})["data"]


def test_no_picture_at_all_and_too_many_pixels(here, monkeypatch):
    app = here("klein")
    answer = app.client.post("/v1/images/edits", data=FEW)
    assert answer.status_code == 400 and answer.json()["detail"].startswith("Field 'image' or 'url' is required: send")
    monkeypatch.setattr("pure.serving.http.pictures.PIXELS", 64)
    answer = app.client.post("/v1/images/edits", data=FEW, files={"image": encoded()})
    assert "64 x 64 pixels are too many" in answer.json()["detail"]


def test_more_pictures_than_the_model_reads(here):
    app = here("klein")
    most = app.service.engine.pipeline.image_count[1]
    files = [("image", (str(number), encoded(size=(8, 8)))) for number in range(most + 1)]
    answer = app.client.post("/v1/images/edits", data=FEW, files=files)
    assert answer.status_code == 400 and f"this request has {most + 1}" in answer.json()["detail"]


def test_the_picture_is_not_shared_with_the_next_request(here):
    """Two edits of different pictures never meet in a batch, nor does one leave anything to the next."""
    app = here("klein", batch=4)
    one, two = encoded(), encoded(size=(96, 64))
    first = edit(app, files={"image": one})["data"][0]["b64_json"]
    second = edit(app, files={"image": two})["data"][0]["b64_json"]
    assert first != second and edit(app, files={"image": one})["data"][0]["b64_json"] == first
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (32, 32)
