"""Parts of the server without a model: queue, fields, bodies, storage, counters and entries, each at its borders."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest
from starlette.requests import Request

from pure.configs.kinds import Whole, Wrong
from pure.engine.errors import Busy, Misuse
from pure.serving.http.app import Exchange
from pure.serving.http.asking import image_form, order_of, seeds
from pure.serving.http.bodies import LIMIT, Body, Upload, read_body
from pure.serving.http.errors import HttpError
from pure.serving.http.fields import EDIT, IMAGE, VIDEO, read_fields, read_query
from pure.serving.http.forms import Many, Size, read_value
from pure.serving.http.pictures import urls
from pure.serving.http.strict_json import LONGEST, Invalid, parse_json
from pure.serving.jobs import Artifact, Format, JobEntry
from pure.serving.metrics import Metrics
from pure.serving.queue import Queue
from pure.serving.storage import Storage

RECIPE: Any = SimpleNamespace(name="one")


def samples(id: str, count: int = 1) -> list[Any]:
    job = SimpleNamespace(id=id, recipe=RECIPE)
    return [SimpleNamespace(job=job, number=number) for number in range(count)]


# ------------------------------------------------------------------------------ queue


def test_the_queue_bounds_jobs_and_not_their_samples():
    queue = Queue(most=2)
    assert queue.put(samples("a", 5)) and queue.put(samples("b", 5)) and len(queue) == 10
    with pytest.raises(Busy, match="the queue is full: 2 requests wait"):
        queue.put(samples("c"))
    queue.drop("a")
    assert len(queue) == 5 and queue.put(samples("c"))


def test_a_full_batch_waits_for_nobody(monkeypatch):
    queue, first = Queue(), samples("a", 3)
    queue.put(first)

    def wait(*_: Any) -> None:
        raise AssertionError("there is nothing to wait for")

    monkeypatch.setattr(queue._changed, "wait", wait)
    assert queue.take(2, delay=60.0) == first[:2] and queue.take(1, delay=60.0) == first[2:]


def test_a_job_that_is_cancelled_while_others_are_waited_for_ends_nothing(monkeypatch):
    """The queue is empty again, and not closed: the next sample is waited for."""
    queue, second = Queue(), samples("b", 2)
    queue.put(samples("a"))
    acts = iter([lambda: queue.drop("a"), lambda: queue.put(second)])
    monkeypatch.setattr(queue._changed, "wait", lambda *_: next(acts)())
    assert queue.take(2, delay=60.0) == second


def test_what_a_closed_queue_held_is_given_back_once():
    queue, first = Queue(), samples("a", 2)
    queue.put(first)
    assert queue.close() == first and len(queue) == 0 and queue.close() == []
    assert queue.put(samples("b")) is False and queue.take(1) == []


# ------------------------------------------------------------------------------ fields


def test_seeds_are_as_many_as_results():
    for count in (1, 3):
        with pytest.raises(Misuse, match=f"seed: 2 seeds for {count} results; send one, or one each"):
            seeds({"n": count, "seed": (1, 2)})
    assert seeds({"n": 2, "seed": (1, 2)}) == seeds({"seed": (1, 2)}) == (1, 2)
    assert seeds({}) == (42,) and seeds({"num_outputs_per_prompt": 2}) == seeds({"n": 2}) == (42, 43)
    with pytest.raises(Misuse, match="n and num_outputs_per_prompt differ"):
        seeds({"n": 1, "num_outputs_per_prompt": 2})


def test_an_order_has_all_that_its_fields_say():
    picture: Any = SimpleNamespace(image="pixels", notes=("turned",))
    fields = {"size": (64, 32), "height": 48, "seconds": 2.0, "fps": 8, "negative_prompt": "b", "num_frames": 5}
    order = order_of(fields, [picture])
    assert order.options == {"width": 64, "height": 48, "frames": 5, "images": ("pixels",)}
    assert (order.seconds, order.fps, order.negative_prompt, order.notes[0]) == (2.0, 8, "b", "turned")


def test_formats_of_images():
    assert image_form({}) == Format(kind="image")
    found = image_form({"output_format": "jpg", "output_quality": "low"})
    assert found == Format(kind="image", encoding="JPEG", quality=35, suffix=".jpg")
    assert image_form({"output_format": "webp", "output_compression": 0}).quality == 0
    assert image_form({"output_compression": 100}).quality == 100
    with pytest.raises(Misuse, match="output_compression: found 99; PNG is lossless"):
        image_form({"output_compression": 99})
    with pytest.raises(Misuse, match="output_compression and output_quality differ"):
        image_form({"output_format": "webp", "output_compression": 36, "output_quality": "low"})


def test_values_of_forms():
    assert read_value(Whole(1, 10), "3") == 3 and read_value(Size(99), " 64X32 ") == (64, 32)
    assert read_value(Size(99), "auto") is None is read_value(Size(99), "")
    assert read_value(Many(Whole(0, 9), 2), " [1, 2]") == (1, 2) and read_value(Many(Whole(0, 9), 2), "3") == (3,)
    for kind, value in (
        *((Size(99), text) for text in ("64", "64x", "x32", "100x1", "0x1", 64)),
        *((Many(Whole(0, 9), 2), text) for text in ("[]", "[1, 2, 3]", [])),
        *((Whole(1, 10), number) for number in (3.5, " ", "3.5")),
    ):
        with pytest.raises(Wrong):
            read_value(kind, value)
    with pytest.raises(Wrong, match=r"^$"):
        read_value(Size(99), "\uff16x\uff13")


def test_a_null_is_unset_and_extra_fields_do_not_win():
    body = Body(
        {"prompt": "a", "n": None, "seed": 1, "extra_body": '{"seed": 2, "width": 64, "extra_json": {"height": 32}}'}
    )
    assert read_fields(body, IMAGE, seeds) == {
        "prompt": "a", "seed": (1,), "width": 64, "height": 32,
        "notes": ("seed of extra_body, the number 2, has no effect: another seed is there, too",),
    }  # fmt: skip
    body = Body({"prompt": None, "seed": 1, "extra_body": {"prompt": "b", "seed": 1}})
    assert read_fields(body, IMAGE, seeds) == {"prompt": "b", "seed": (1,)}
    body = Body({"seed": [1, 2], "n": 3, "prompt": 5}, (Upload("mask", b""),))
    with pytest.raises(Misuse) as error:
        read_fields(body, EDIT, seeds)
    found = error.value.message.splitlines()
    assert [line.partition(":")[0].split()[0] for line in found] == ["prompt", "mask", "seed"]
    assert error.value.field == "prompt"


def test_a_field_of_a_form_that_changes_nothing_is_accepted():
    assert read_fields(Body({"prompt": "a", "stream": "False", "quality": "auto"}), IMAGE) == {"prompt": "a"}
    with pytest.raises(Misuse, match="stream: found text 'true'; it is not available: responses are not streamed"):
        read_fields(Body({"prompt": "a", "stream": "true"}), IMAGE)


def test_every_picture_of_a_list_is_read():
    one, two = "data:image/png;base64,AAAA", {"image_url": "data:,b"}
    found = urls({"url": (one, two["image_url"]), "input_reference": two}, ("url", "input_reference"))
    assert [(each.field, each.content) for each in found] == [
        ("url", b"\0\0\0"), ("url", b"b"), ("input_reference", b"b")
    ]  # fmt: skip
    with pytest.raises(Misuse, match=r"url: the data: URL is damaged"):
        urls({"url": "data:;base64,AA*AA"}, ("url",))
    assert VIDEO.urls == ("reference_url", "input_reference")


def query(text: str, **options: Any) -> dict[str, Any]:
    request = Request({"type": "http", "query_string": text.encode(), "headers": []})
    return read_query(request, {"limit": Whole(1, 100)}, **options)


def test_parameters_of_an_address_are_there_once():
    assert query("", limit=20) == {"limit": 20} and query("limit=3", limit=20) == {"limit": 3}
    for text, message in (
        ("limit=3&limit=3", "limit: it is there 2 times"),
        ("limt=3", r"limt: there is no such parameter here; did you mean limit\?"),
        ("limit=0", "limit: found text '0'; allowed: a whole number from 1 to 100"),
    ):
        with pytest.raises(Misuse, match=message):
            query(text)


def test_a_mistake_in_the_cache_has_a_code_for_programs():
    with pytest.raises(Misuse, match="did you mean Fn_compute_blocks") as error:
        read_fields(Body({"prompt": "a", "cache_dit_params": {"Fn_compute_block": 1}}), IMAGE)
    assert (error.value.field, error.value.code) == ("cache_dit_params", "invalid_cache_config")


# ------------------------------------------------------------------------------ bodies


def test_a_request_may_be_as_large_as_the_limit():
    messages = iter([{"type": "http.request", "body": b"a" * 10}] * 2)

    async def receive() -> Any:
        return next(messages)

    exchange = Exchange(receive=receive, send=AsyncMock())
    exchange.announced({"headers": [(b"content-length", f"00{LIMIT}".encode())]})
    exchange.received = LIMIT - 10
    asyncio.run(exchange.receiving())
    with pytest.raises(HttpError, match="larger than 50 MiB"):
        asyncio.run(exchange.receiving())
    with pytest.raises(HttpError, match="larger than 50 MiB"):
        exchange.announced({"headers": [(b"content-length", f"{LIMIT + 1}".encode())]})


def body(content: bytes, **headers: str) -> Any:
    async def receive() -> Any:
        return {"type": "http.request", "body": content, "more_body": False}

    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return asyncio.run(read_body(Request({"type": "http", "method": "POST", "headers": listed}, receive))).fields


FORM = "application/x-www-form-urlencoded"


def test_bodies_as_they_come():
    assert body(b'{"n": 1}', content_encoding="identity") == body(b'\xef\xbb\xbf{"n": 1}') == {"n": 1}
    assert body(b"negative_prompt=&seed=1&seed=2", content_type=FORM) == {"negative_prompt": "", "seed": ["1", "2"]}
    with pytest.raises(HttpError, match="Content-Encoding gzip is not read here"):
        body(b"", content_encoding="gzip")
    with pytest.raises(Misuse, match="the form cannot be read: it has more than 1000 fields"):
        body(b"&".join([b"a=1"] * 1001), content_type=FORM)


def test_names_of_json_are_bounded_and_there_once():
    assert parse_json('{"' + "a" * LONGEST + '": "[{,"}')
    with pytest.raises(Invalid, match=f"a name has {LONGEST + 1} characters"):
        parse_json('{"' + "a" * (LONGEST + 1) + '": 1}')
    with pytest.raises(Invalid, match="'n' is there twice") as error:
        parse_json('{"n": 1, "n": 1}')
    assert error.value.field == "n"
    assert [type(parse_json("1" * count)) for count in (40, 41)] == [int, float]
    assert parse_json('{"prompt": "' + "[" * 100_001 + '"}'), "brackets in a text are no values"


# ------------------------------------------------------------------------------ entries, counters, files


def entry(**fields: Any) -> JobEntry:
    request: Any = SimpleNamespace(steps=4)
    form = Format(kind="image", encoding="JPEG", quality=90, suffix=".jpg")
    job: Any = SimpleNamespace(id="i", form=form, seeds=(1, 2), recipe=SimpleNamespace(request=request))
    return JobEntry(job=job, **fields)


def test_progress_and_seconds_of_an_entry():
    assert [entry(steps=steps).progress for steps in (0, 1, 4, 7, 8, 9)] == [0, 12, 50, 87, 99, 99]
    assert entry(status="completed", ended=1.0).progress == 100
    assert entry(started=2.0, ended=5.0).seconds == 3.0 and entry(ended=5.0).seconds == 0.0
    assert entry(started=2.0).seconds > 1e6, "until now"


def test_counters_add_up():
    metrics = Metrics()
    report = {"computed_steps": [0, 2], "skipped_steps": [1]}
    made = {number: Artifact(content=b"", path=None, report=report) for number in range(2)}
    for _ in range(2):
        metrics.over(entry(status="completed", started=1.0, ended=3.5, artifacts=made))
    metrics.over(entry(status="failed"))
    found = metrics.stats(running=3)
    assert found["requests"] == {"image completed": 2, "image failed": 1} and found["running"] == 3
    assert found["seconds"] == {"image": 5.0} and found["outputs"] == {"image": 4}
    assert found["steps"] == {"computed": 8, "skipped": 4}
    assert 'puredit_requests_total{kind="image",outcome="failed"} 1\n' in metrics.text()
    metrics.add("puredit_seconds_total", 0.125, kind="image")
    lines = metrics.text([(1, 2), (3, 4)], queue_length=4, running=6).splitlines()
    assert 'puredit_seconds_total{kind="image"} 5.125' in lines and "puredit_running 6" in lines
    assert [line for line in lines if "group=" in line] == [
        *(f'puredit_group_queue_length{{group="{n}"}} {count}' for n, count in ((0, 1), (1, 3))),
        *(f'puredit_group_running{{group="{n}"}} {count}' for n, count in ((0, 2), (1, 4))),
    ]


def test_files_have_the_format_of_their_job(tmp_path):
    frames = np.zeros((1, 8, 8, 3), dtype=np.float32)
    frames[:, :4] = 1.0
    for number in range(2):
        sample: Any = SimpleNamespace(job=entry().job, number=number)
        kept, sent = Storage(tmp_path).put(sample, frames, None, {}), Storage(None).put(sample, frames, None, {})
        assert kept.path == str(tmp_path / f"i-{number}.jpg") and sent.path is None
        assert Storage(tmp_path).content(kept) == sent.content and sent.content[:2] == b"\xff\xd8"
