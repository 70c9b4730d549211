"""OpenAI's own client: images of a server in a process of its own, edits and videos of servers in threads."""

import base64
import concurrent.futures
import io
import json
import os
import signal
import socket

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from tests.cli.test_video import read
from tests.serving.conftest import opening
from tests.support import wan_pipelines

QUICK = ("--http-graceful-shutdown-timeout", "0.5")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers(serve, loaded, tmp_path_factory):
    """Three servers with a URL each."""
    process = serve("embedded", "--batching-max-size", "4", "--batching-delay-ms", "300", "--enable-metrics", *QUICK)
    here = opening(loaded, tmp_path_factory.mktemp("outputs"))
    start = next(here)
    threaded = {name: start(name, service={"names": (name,)}).threaded() for name in ("klein", "wan-picture")}
    yield {"image": process.ready(), "edit": threaded["klein"], "video": threaded["wan-picture"]}
    for each in threaded.values():
        each.end()
    next(here, None)


@pytest.fixture(scope="module")
def client(servers):
    return {name: openai.OpenAI(base_url=f"{each.url}/v1", api_key="none") for name, each in servers.items()}


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def alike(one, other):
    """Whether two pictures are the same but for what was on the border of two of the 256 levels.

    In a batch products of matrices are rounded otherwise: 1e-6 of a level now and then tips it over.
    """
    apart = np.abs(one.astype(int) - other)
    return apart.max() <= 1 and (apart > 0).mean() < 1e-3


def test_models(client):
    (model,) = client["edit"].models.list()
    assert model.id == "klein" and client["edit"].models.retrieve("klein").id == "klein"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client["edit"].models.retrieve("gpt-image-1")


def test_images_by_url_and_in_the_response(client, servers):
    few = {"num_inference_steps": 4, "max_sequence_length": 16}
    made = client["image"].images.generate(prompt="a red apple", model="embedded", extra_body=few)
    content = servers["image"].get(made.data[0].url).content
    again = client["image"].images.generate(
        prompt="a red apple", n=2, size="64x64", response_format="b64_json", extra_body={**few, "seed": [42, 7]}
    )
    first, second = (pixels(base64.b64decode(one.b64_json)) for one in again.data)
    assert alike(pixels(content), first) and not alike(first, second)
    assert made.puredit["computed_steps"] == [0, 1, 2, 3]


def test_cache_parameters_through_the_client(client):
    params = {"residual_diff_threshold": 1, "max_warmup_steps": 1, "secondary": {"Fn_compute_blocks": 2}}
    extra = {"num_inference_steps": 4, "max_sequence_length": 16}
    made = client["image"].images.generate(prompt="a pear", extra_body={**extra, "cache_dit_params": params})
    assert made.puredit["computed_steps"] == [0] and made.puredit["skipped_steps"] == [1, 2, 3]
    with pytest.raises(openai.BadRequestError, match="did you mean residual_diff_threshold") as caught:
        client["image"].images.generate(prompt="a", extra_body={"cache_dit_params": {"residual_diff_treshold": 1}})
    assert caught.value.param == "cache_dit_params" and caught.value.type == "invalid_request_error"


def test_requests_at_the_same_time_make_one_batch_and_the_same_pictures(client, servers):
    prompts = ["a red apple on a blue background", "a green apple", "a pear"]
    extra = {"num_inference_steps": 8, "max_sequence_length": 16, "enable_cache_dit": True}

    def make(prompt):
        made = client["image"].images.generate(prompt=prompt, response_format="b64_json", extra_body=extra)
        return pixels(base64.b64decode(made.data[0].b64_json)), made.puredit["computed_steps"]

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        together = list(pool.map(make, prompts))
    alone = [make(prompt) for prompt in prompts]
    for (one, steps), (other, expected) in zip(together, alone, strict=True):
        assert steps == expected and alike(one, other)
    counted = servers["image"].get("/stats").json()["batches"]
    assert {"2", "3"} & set(counted)
    assert "puredit_batches_total" in servers["image"].get("/metrics").text


def test_an_edit(client):
    file = io.BytesIO()
    wan_pipelines.picture().resize((64, 64)).save(file, format="PNG")
    few = {"num_inference_steps": 2, "cache_dit_params": {"residual_diff_threshold": 0.3, "max_warmup_steps": 1}}
    made = client["edit"].images.edit(
        image=("first.png", file.getvalue()), prompt="a dog", size="32x32", extra_body=few
    )
    assert pixels(base64.b64decode(made.data[0].b64_json)).shape == (32, 32, 3)
    assert "threshold=0.3" in made.puredit["cache"]


@pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")  # OpenAI's own, not ours
def test_a_video(client, servers, tmp_path):
    file = io.BytesIO()
    wan_pipelines.picture().save(file, format="PNG")
    few = {"num_inference_steps": 2, "num_frames": 5}
    began = client["video"].videos.create(
        prompt="a dog", input_reference=("first.png", file.getvalue()), size="32x16", seconds="4", extra_body=few
    )
    assert began.status in ("queued", "in_progress")
    while (found := client["video"].videos.retrieve(began.id)).status not in ("completed", "failed"):
        pass
    assert found.status == "completed", found.error
    content = client["video"].videos.download_content(began.id)
    content.write_to_file(tmp_path / "sent.mp4")
    assert read(tmp_path / "sent.mp4")[0].shape == (5, 16, 32, 3)
    assert [one.id for one in client["video"].videos.list(limit=1)] == [began.id]
    assert client["video"].videos.delete(began.id).deleted
    with pytest.raises(openai.NotFoundError, match="Video not found"):
        client["video"].videos.retrieve(began.id)
    assert httpx2.get(f"{servers['video'].url}/v1/videos").json()["data"] == []


LONG = {"prompt": "a cat", "num_inference_steps": 5000}


def test_clients_that_leave_and_a_server_that_is_ended(servers):
    """The last test of this server: it ends it."""
    server = servers["image"]
    address, outputs = f"{server.url}/v1/images/generations", server.folder / "outputs"
    outputs.mkdir(exist_ok=True)  # the first file makes it
    before = set(outputs.iterdir())
    with pytest.raises(httpx2.ReadTimeout, match="timed out"):
        httpx2.post(address, json=LONG, timeout=1.0)
    server.until(lambda stats: stats.get("requests", {}).get("image cancelled") == 1 and not stats["running"])
    answer = httpx2.post(address, json={**LONG, "num_inference_steps": 2}, timeout=60)
    assert answer.status_code == 200
    assert [file.name for file in set(outputs.iterdir()) - before] == [f"{answer.json()['id']}.png"]
    # With work under way, SIGTERM: the client is told, nothing stays, the exit code is 0.
    with socket.create_connection(tuple(server.url.removeprefix("http://").split(":"))) as raw:
        body = json.dumps(LONG).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        server.until(lambda stats: stats["running"] == 1)
        os.kill(server.process.pid, signal.SIGTERM)
        raw.settimeout(30)
        answered = b"".join(iter(lambda: raw.recv(65536), b""))
    assert b"503" in answered.splitlines()[0] and b"shutting_down" in answered
    assert server.end() == 0
    assert "Traceback" not in "\n".join(server.said) and len(set(outputs.iterdir()) - before) == 1
