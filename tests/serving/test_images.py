"""Images over HTTP: fields, formats, files, refusals."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pure.serving.http.bodies import LIMIT
from pure.serving.jobs import Format, Job

FEW = {"num_inference_steps": 2}


def opened_picture(content):
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def pixels(content):
    return np.asarray(opened_picture(content))


def test_an_image_by_url(here, tmp_path):
    app = here("flux")
    made = app.post(**FEW)
    assert set(made) >= {"id", "created", "data", "peak_memory_mb", "inference_time_s", "usage", "puredit", "size"}
    (one,) = made["data"]
    assert one["url"] == f"/v1/images/{made['id']}/content" and "b64_json" not in one
    assert one["revised_prompt"] == "a cat" and made["size"] == "32x32" and made["inference_time_s"] > 0
    answer = app.client.get(one["url"])
    assert answer.headers["content-type"] == "image/png" and opened_picture(answer.content).size == (32, 32)
    assert one["file_path"] == str(tmp_path / f"{made['id']}.png")
    assert (tmp_path / f"{made['id']}.png").read_bytes() == answer.content


def test_what_the_cache_did_is_in_the_response(here):
    made = here("flux").post(
        num_inference_steps=6, n=2, cache_dit_params={"residual_diff_threshold": 1, "max_warmup_steps": 2}
    )["puredit"]
    assert made["computed_steps"] == [0, 1, 5] and made["skipped_steps"] == [2, 3, 4]
    assert [one["seed"] for one in made["results"]] == [42, 43]
    for one in made["results"]:
        assert one["computed_steps"] == [0, 1, 5] and one["blocks_run"] < one["blocks"]
        assert len(one["denoise_steps_ms"]) == 6 and one["decisions"][2]["reason"] == "threshold"
    plain = here("flux").post(**FEW)["puredit"]
    assert plain["cache"] == "no cache" and plain["skipped_steps"] == []


@pytest.mark.parametrize(
    ("wanted", "kind", "media"),
    [
        ("png", "PNG", "image/png"),
        ("jpeg", "JPEG", "image/jpeg"),
        ("jpg", "JPEG", "image/jpeg"),
        ("webp", "WEBP", "image/webp"),
    ],
)
def test_formats(here, wanted, kind, media):
    app = here("flux")
    made = app.post(**FEW, output_format=wanted)
    answer = app.client.get(made["data"][0]["url"])
    assert answer.headers["content-type"] == media and opened_picture(answer.content).format == kind
    assert made["output_format"] == kind.lower()


def test_compression_makes_files_smaller(here):
    app = here("flux")

    def size(**fields):
        made = app.post(**FEW, output_format="jpeg", response_format="b64_json", **fields)
        return len(base64.b64decode(made["data"][0]["b64_json"]))

    sizes = [size(output_compression=quality) for quality in (0, 50, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    assert size(output_quality="low") == size(output_compression=35)
    error = app.refused(output_compression=50)
    assert error["param"] == "output_compression" and "PNG is lossless" in error["message"]


def test_several_images_are_those_of_their_seeds(here):
    app = here("flux")
    many = app.post(**FEW, n=3, seed=7)
    urls = [one["url"] for one in many["data"]]
    assert urls == [f"/v1/images/{many['id']}/content?variant={number}" for number in range(3)]
    contents = [app.client.get(url).content for url in urls]
    listed = app.post(**FEW, seed=[7, 8, 9], response_format="b64_json")
    alone = [app.post(**FEW, seed=seed, response_format="b64_json") for seed in (7, 8, 9)]
    for number, content in enumerate(contents):
        for other in (listed["data"][number], alone[number]["data"][0]):
            assert np.array_equal(pixels(content), pixels(base64.b64decode(other["b64_json"])))
    assert not np.array_equal(pixels(contents[0]), pixels(contents[1]))
    assert app.client.get(f"/v1/images/{many['id']}/content?variant=3").json()["detail"] == "Image variant 3 not found"
    assert app.client.get(f"/v1/images/{many['id']}/content?variant=x").status_code == 400


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (32, 32)),
        ({"size": "auto"}, (32, 32)),
        ({"size": "48x16"}, (48, 16)),
        ({"size": "48X16", "height": 32}, (48, 32)),
        ({"width": 16}, (16, 32)),
        ({"extra_body": {"width": 16}, "width": 48}, (48, 32)),
    ],
)
def test_sizes(here, fields, size):
    made = here("flux").post(**FEW, **fields, response_format="b64_json")
    assert opened_picture(base64.b64decode(made["data"][0]["b64_json"])).size == size
    assert made["size"] == f"{size[0]}x{size[1]}"


def test_a_server_that_keeps_nothing(here, tmp_path):
    app = here("flux", keep=False)
    made = app.post(**FEW)
    assert made["data"][0]["b64_json"] and made["data"][0]["file_path"] is None and not list(tmp_path.iterdir())
    error = app.refused(response_format="url")
    assert error["param"] == "response_format" and "use b64_json" in error["message"]


WRONG = {
    "n": (11, "n: found the number 11; allowed: a whole number from 1 to 10"),
    "size": ("big", "size: found text 'big'; allowed: WIDTHxHEIGHT"),
    "width": (-1, "width: found the number -1"),
    "height": (2.5, "height: found the number 2.5"),
    "seed": (-1, "seed: found the number -1"),
    "num_inference_steps": (0, "num_inference_steps: found the number 0"),
    "guidance_scale": ("much", "guidance_scale: found text 'much'; allowed: a finite number of at least 0"),
    "prompt": (7, "prompt: found the number 7; allowed: text"),
    "response_format": ("file", "allowed: one of url, b64_json"),
    "output_format": ("gif", "allowed: one of png"),
    "enable_cache_dit": ("maybe", "allowed: true or false"),
    "max_sequence_length": (10**4, "max_sequence_length=10000 should be in 1 to"),
    "prompts": ("a cat", "did you mean prompt?"),
    "num_inference_step": (4, "did you mean num_inference_steps?"),
    "fps": (4, "there is no such field here"),
    "zzz": (1, "there are: "),
    "extra_body": ("{", "extra_body is not JSON"),
    "guidance_scale_2": (2.0, "for the second expert"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named(here, name):
    value, message = WRONG[name]
    error = here("flux").refused(**{name: value})
    assert message in error["message"] and error["type"] == "invalid_request_error"
    assert error["param"] in (name, None)


def test_all_wrong_fields_are_named_at_once(here):
    error = here("flux").refused(n=0, sed=1, prompt=None)
    assert all(
        part in error["message"] for part in ("n: found the number 0", "did you mean seed?", "prompt: it is missing")
    )


@pytest.mark.parametrize(
    ("field", "nothing", "something"),
    [
        ("quality", "auto", "hd"),
        ("background", "opaque", "transparent"),
        ("style", "vivid", "natural"),
        ("stream", False, True),
        ("partial_images", 0, 2),
        ("generator_device", "cuda", "tpu"),
        ("diffusers_kwargs", {}, {"eta": 1}),
        ("enable_upscaling", "false", True),
        ("upscaling_scale", 4, 2),
        ("enhance_prompt", False, True),
        ("lora_path", "", "x"),
        ("perf_dump_path", None, "/etc/passwd"),
        ("progressive_mode", "fullres", "dct"),
    ],
)
def test_fields_for_what_is_not_there_may_ask_for_nothing(here, field, nothing, something):
    app = here("flux")
    app.post(**FEW, **{field: nothing})
    error = app.refused(**{field: something})
    assert error["param"] == field and "is not available" in error["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        (b"{", "application/json", 400, "the body is not JSON"),
        (b"[1]", "application/json", 400, "send a JSON object with a prompt"),
        (b"\xff", "application/json", 400, "the body is not JSON"),
        (b"a cat", "text/plain", 415, "Content-Type text/plain is not read"),
        (b"nothing", "multipart/form-data", 400, "the form cannot be read"),
        (b"[" * 100_000, "application/json", 400, "the body is not JSON"),
    ],
)
def test_a_body_that_is_none(here, content, kind, status, message):
    answer = here("flux").client.post("/v1/images/generations", content=content, headers={"content-type": kind})
    assert answer.status_code == status and message in answer.json()["error"]["message"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large(here, announced):
    content = b" " * (LIMIT + 1)
    parts = content if announced else iter([content[: LIMIT // 2], content[LIMIT // 2 :]])
    answer = here("flux").client.post(
        "/v1/images/generations", content=parts, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


def test_a_form_says_the_same_as_json(here):
    app = here("flux")
    form = {"prompt": "a cat", "num_inference_steps": "4", "n": "1", "seed": "3", "enable_cache_dit": "true"}
    form |= {"cache_dit_params[residual_diff_threshold]": "0.5", "cache_dit_params[max_warmup_steps]": "1"}
    answer = app.client.post("/v1/images/generations", data=form)
    assert answer.status_code == 200, answer.text
    assert answer.json()["puredit"]["cache"] == "dbcache(front=1, threshold=0.5, warmup=1, max_continuous=3)"


def test_another_models_name_is_noted(here):
    app = here("flux")
    assert app.post(**FEW, model="tiny")["puredit"]["notes"] == app.post(**FEW, model="flux")["puredit"]["notes"] == []
    (note,) = app.post(**FEW, model="dall-e-3")["puredit"]["notes"]
    assert "names the model 'dall-e-3'; this server has only 'tiny'" in note


@pytest.mark.parametrize("path", ["../secret", "..%2f..%2fsecret", "%2e%2e/secret", "x" * 3000])
def test_ids_are_no_paths(here, path, tmp_path):
    (tmp_path.parent / "secret").write_text("key")
    answer = here("flux").client.get(f"/v1/images/{path}/content")
    assert answer.status_code == 404 and "key" not in answer.text


def test_a_file_that_is_gone(here, tmp_path):
    app = here("flux")
    made = app.post(**FEW)
    (tmp_path / f"{made['id']}.png").unlink()
    answer = app.client.get(made["data"][0]["url"])
    assert answer.status_code == 404 and "cannot be read" in answer.json()["error"]["message"]


def test_other_routes_of_a_model_that_makes_images(here):
    app = here("flux")
    assert "makes images; send the prompt to /v1/images/generations" in app.refused("/v1/videos")["message"]
    assert "takes no input pictures" in app.refused("/v1/images/edits")["message"]
    answer = app.client.post("/v1/images/generations", data={"prompt": "a"}, files={"image": b"x"})
    assert answer.status_code == 400 and "this route takes no pictures" in answer.json()["detail"]


def test_results_on_the_disk_are_not_kept_in_memory_too(here):
    app = here("flux")
    made = app.post(**FEW)
    assert isinstance(made["created"], int)
    (output,) = app.worker.jobs.get(made["id"], "image").artifacts.values()
    assert output.content == b"" and output.path == made["data"][0]["file_path"]


def test_a_request_may_have_nearly_fifty_megabytes(here):
    content = b" " * (LIMIT - 1000) + b'{"prompt": 1}'
    answer = here("flux").client.post(
        "/v1/images/generations", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"


def test_an_image_that_is_not_there_yet(here):
    app = here("flux", start=False)
    recipe = app.recipe(options={"steps": 2})
    job = Job(prompt="a cat", seeds=(1,), recipe=recipe, form=Format(kind="image"))
    app.worker.jobs.add(job)
    app.worker.ready.set()
    app.worker.start()
    answer = app.client.get(f"/v1/images/{job.id}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "image_not_ready")
    app.worker.jobs.cancel(job.id)
    assert app.client.get(f"/v1/images/{job.id}/content").json()["error"]["code"] == "image_not_found"
    assert app.client.get(f"/v1/videos/{job.id}").json()["error"]["code"] == "video_not_found"
