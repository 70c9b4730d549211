"""What a client may send by mistake or on purpose: the answer names the field, and the server goes on.

Everything here goes over a socket, through a real HTTP client.
"""

import json
import socket
from urllib.parse import quote, urlencode

import httpx2
import pytest

from tests.serving.conftest import opening
from tests.serving.test_edits import encoded

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
PARTS = {"content-type": "multipart/form-data; boundary=x"}
FEW = {"prompt": "a cat", "num_inference_steps": 1}
HALF = "\ud800"  # a lone surrogate
LONG = "9" * 5000
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def servers(loaded, tmp_path_factory):
    """A client for each of three models, and one for a server that has stopped."""
    here = opening(loaded, tmp_path_factory.mktemp("outputs"))
    start = next(here)
    running = {name: start(name, log=lambda *_: None).threaded() for name in ("flux", "klein", "wan")}
    with_clients = {name: httpx2.Client(base_url=one.url, timeout=60) for name, one in running.items()}
    yield with_clients
    for name, one in running.items():
        with_clients[name].close()
        one.end()
    next(here, None)


ROUTES = {"flux": "/v1/images/generations", "klein": "/v1/images/edits", "wan": "/v1/videos"}


def refused(servers, model, content, headers, status=400):
    """The error of a request, in its one shape; afterwards the server is healthy."""
    client = servers[model]
    answer = client.post(ROUTES[model], content=content, headers=headers)
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/json" and len(answer.content) < 4000
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and answer.json()["detail"] == error["message"]
    assert error["type"] == "invalid_request_error"
    assert client.get("/health").status_code == 200
    return error


def text_of(**fields):
    return json.dumps({**FEW, **fields}).encode()


BOUNDS = {
    "width": (0, -1, 16_385, 100_000, 2**31, 10**30, 1e300),
    "height": (0, 16_385, 2**63, LONG),
    "size": (
        "100000x100000",
        "0x16",
        "16385x16",
        f"{LONG}x16",
        "16x",
        "x",
        "16x16x16",
        "1_6x16",
        "\uff11\uff16x16",
        "-16x-16",
        16,
    ),
    "n": (0, 11, 10**10, "11", LONG, True, [1], 1.5),
    "seed": (-1, 2**63, LONG, [], list(range(11)), [1, "x"], DEEP, "[1", True),
    "num_inference_steps": (0, 10_001, 10**9, 10**12, LONG, "1e3"),
    "guidance_scale": (-1, 1001, 1e30, 1e308, "1e308", LONG, "nan", "inf", True, [1.0]),
    "true_cfg_scale": (1e308, -0.1),
    "guidance_scale_2": (1e308,),
    "max_sequence_length": (0, 10**6, 2**63, LONG),
    "output_compression": (-1, 101, LONG),
    "prompt": ("x" * 32_001, 7, ["a"], {"a": 1}, True),
    "negative_prompt": ("x" * 32_001, 7),
    "enable_cache_dit": ("maybe", 2, "", []),
    "response_format": ("file", 1, ""),
    "output_format": ("gif", 3),
    "extra_body": ("{", "[]", DEEP, 7, '{"n": 1, "n": 2}'),
    "cache_dit_params": ("{", DEEP, 7, {"a": ""}, {"Fn_compute_blocks": LONG}, '{"Fn_compute_blocks": ' + LONG + "}"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BOUNDS.items() for value in values])
def test_every_number_and_length_is_bounded(servers, name, value):
    error = refused(servers, "flux", text_of(**{name: value}), JSON)
    assert (error["param"] == name and error["message"].startswith(name)) or "problem" in error["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 0),
        ("num_frames", 10_001),
        ("num_frames", LONG),
        ("fps", 0),
        ("fps", 241),
        ("seconds", 0),
        ("seconds", 1e308),
        ("seconds", "nan"),
        ("num_outputs_per_prompt", 11),
        ("input_reference", [1]),
        ("input_reference", {"image_url": 3}),
        ("input_reference", "a.png"),
        ("reference_url", 3),
        ("reference_url", "data:image/png;base64,#"),
        ("size", "4096x4128"),
        ("size", "16384x16384"),
    ],
)
def test_every_number_of_a_video_is_bounded(servers, name, value):
    error = refused(servers, "wan", text_of(**{"size": "32x16", name: value}), JSON)
    assert error["param"] in ((name, "height") if name == "size" else (name,))


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"size": "4096x4112"}, "size"), ({"width": 16384, "height": 2048}, "size"), ({"width": 17}, "width")],
)
def test_the_pixels_of_a_result_are_bounded(servers, fields, name):
    assert refused(servers, "flux", text_of(**fields), JSON)["param"] in (name, "height")


def test_the_pixels_of_all_frames_are_bounded(servers):
    error = refused(servers, "wan", text_of(size="1920x1072", num_frames=137), JSON)
    assert error["param"] == "height" and "137 frames" in error["message"]


def test_the_last_of_several_seeds_is_bounded(servers):
    error = refused(servers, "flux", text_of(seed=2**63 - 1, n=2), JSON)
    assert error["param"] == "seed" and "begin at" in error["message"]
    answer = servers["flux"].post(ROUTES["flux"], json={**FEW, "seed": 2**63 - 2, "n": 2, "size": "16x16"})
    assert [one["seed"] for one in answer.json()["puredit"]["results"]] == [2**63 - 2, 2**63 - 1]


NAMES = ["prompt", "negative_prompt", "model", "user", "size", "seed", "cache_dit_params", "extra_body", "zzz", "style"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [HALF, {HALF: 1}, {"a": HALF}, [HALF]], ids=["text", "key", "inside", "list"])
def test_half_a_character_anywhere(servers, name, value):
    error = refused(servers, "flux", text_of(**{name: value}), JSON)
    assert error["param"] == name and "lone surrogate" in error["message"]


def test_half_a_character_as_a_name_and_inside_json_as_text(servers):
    assert "lone surrogate" in refused(servers, "flux", text_of(**{HALF: 1}), JSON)["message"]
    assert "lone surrogate" in refused(servers, "flux", text_of(extra_body='{"\\ud800": 1}'), JSON)["message"]
    assert "unknown key" in refused(servers, "flux", text_of(cache_dit_params='{"\\ud800": 1}'), JSON)["message"]


@pytest.mark.parametrize("name", [*NAMES, "image", "mask", "n", "width", "quality"])
@pytest.mark.parametrize("value", [DEEP, "{" * 100_000, '{"a":' * 50_000])
def test_text_that_looks_like_deep_json(servers, name, value):
    if name == "style" and value is DEEP:
        value = {"a": value}
    assert refused(servers, "flux", text_of(**{name: value}), JSON)["param"] == name


WORDS = {"NaN": "NaN", "Infinity": "NaN", "-Infinity": "NaN", "1e999": "out of range", LONG: "out of range"}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", ["n", "guidance_scale", "zzz", "prompt", "cache_dit_params"])
def test_numbers_that_json_does_not_have(servers, name, word):
    value = '{"residual_diff_threshold": ' + word + "}" if name == "cache_dit_params" else word
    content = f'{{"num_inference_steps": 1, "{name}": {value}}}'.encode()
    error = refused(servers, "flux", content, JSON)
    assert error["param"] == name and "NaN, Infinity and numbers out of range" in error["message"]


NO_JSON = {
    "empty": (b"", "Expecting value"),
    "spaces": (b"   ", "Expecting value"),
    "null": (b"null", "send a JSON object"),
    "text": (b'"a cat"', "send a JSON object"),
    "not UTF-8": (b'{"prompt": "\xe9"}', "byte 12 is not UTF-8"),
    "encoded surrogate": (b'{"prompt": "\xed\xa0\x80"}', "byte 12 is not UTF-8"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "is not UTF-8"),
    "deep": (b'{"a":' * 100_000, "nested too deeply"),
    "less deep": (
        b'{"prompt": "a", "extra_body": ' + b'{"extra_body": ' * 40 + b"{}" + b"}" * 41,
        "nested more than 32",
    ),
    "twice": (b'{"prompt": "a", "n": 1, "n": 2}', "'n' is there twice"),
    "twice inside": (b'{"prompt": "a", "cache_dit_params": {"a": 1, "a": 2}}', "'a' is there twice"),
    "many values": (b'{"prompt": "a", "zzz": [' + b"[]," * 60_000 + b"1]}", "more than 100000 values"),
    "long name": (b'{"prompt": "a", "' + b"k" * 100_000 + b'": 1}', "a name has 100000 characters"),
    "a form": (b"prompt=a+cat&n=1", "Content-Type is JSON"),
    "parts": (b'--x\r\nContent-Disposition: form-data; name="prompt"', "Content-Type is JSON"),
}


@pytest.mark.parametrize("what", NO_JSON)
def test_bodies_that_are_not_json(servers, what):
    content, message = NO_JSON[what]
    error = refused(servers, "flux", content, JSON)
    assert message in error["message"] and error["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"content-type": "text/plain"}, "Content-Type text/plain is not read here"),
        ({"content-type": "application/xml"}, "Content-Type application/xml is not read here"),
        ({**JSON, "content-encoding": "gzip"}, "Content-Encoding gzip is not read here"),
        (FORM, "add -H 'Content-Type: application/json'"),
    ],
)
def test_other_content_types(servers, headers, message):
    assert message in refused(servers, "flux", text_of(), headers, 415)["message"]


FORMS = {
    "unknown key": ("cache_dit_params[a]", "", "unknown key"),
    "list": ("cache_dit_params[]", "1", "allowed: a mapping"),
    "deep value": ("cache_dit_params[a]", DEEP, "unknown key"),
    "half a character": ("cache_dit_params[Fn_compute_blocks]", '"\\ud800"', "Fn_compute_blocks"),
    "many digits": ("cache_dit_params[Fn_compute_blocks]", LONG, "Fn_compute_blocks"),
    "nested": ("a" + "[b]" * 10_000, "1", "nested too deep"),
    "nested list": ("cache_dit_params[a][]", "1", "nested too deep"),
    "no name": ("", "1", "there is no such field here"),
    "brackets": ("[]", "1", "there is no such field here"),
    "object": ("prompt[x]", "1", "prompt: found"),
    "digits": ("seed[]", LONG, "seed: found"),
    "empty": ("n", "", "it is empty"),
}


@pytest.mark.parametrize("what", FORMS)
def test_forms(servers, what):
    name, value, message = FORMS[what]
    fields = {name: value} if name.startswith("prompt") else {"prompt": "a", name: value}
    assert message in refused(servers, "flux", urlencode(fields).encode(), FORM)["message"]


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"&".join([b"a=1"] * 100_000), FORM, "more than 1000 fields"),
        (b"prompt=%ff", FORM, "not UTF-8"),
        (b"prompt=\xff", FORM, "not UTF-8"),
        (b"prompt=a&prompt=b", FORM, "prompt: found a list"),
        (b"prompt=a&cache_dit_params[x]=1&cache_dit_params[x]=2", FORM, "is there twice"),
        (b"prompt=a&seed=1&seed[x]=2", FORM, "an object and a text at once"),
        (b"", PARTS, "prompt: it is missing"),
        (b"--x\r\nfoo", PARTS, "prompt: it is missing"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", PARTS, "the form cannot be read"),
        (b"x", {"content-type": "multipart/form-data"}, "the form cannot be read"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 1001 + b"--x--\r\n",
            PARTS,
            "Too many fields",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\\ud800\r\n--x--\r\n',
            {"content-type": "multipart/form-data; boundary=x; charset=unicode_escape"},
            "lone surrogate",
        ),
    ],
)
def test_forms_that_cannot_be_read(servers, content, headers, message):
    assert message in refused(servers, "flux", content, headers)["message"]


QUERIES = {
    "/v1/videos?limit=": ["0", "101", LONG, "", "x", "²", "%00", "1&limit=2", "-1", "1.5"],
    "/v1/videos?order=": ["up", "%ff", ""],
    "/v1/videos?after=": ["nobody", LONG, "%ed%a0%80"],
    "/v1/videos?limt=": ["1"],
    "/v1/images/x/content?variant=": [LONG, "x", "-1", "²"],
    "/v1/images/x/content?wariant=": ["1"],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in QUERIES.items() for value in values])
def test_parameters_of_addresses(servers, path, value):
    answer = servers["wan"].get(path + (value if value.isascii() else quote(value)))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == path.partition("?")[2].rstrip("=")


@pytest.mark.parametrize(
    "path", ["/v1/videos/%ed%a0%80", "/v1/models/%ed%a0%80", "/v1/" + "x" * 5000, "/%00", f"/v1/videos/{LONG}/content"]
)
def test_addresses_where_nothing_is(servers, path):
    answer = servers["wan"].get(path)
    assert answer.status_code == 404 and answer.json()["error"]["type"] == "invalid_request_error"


PICTURE = {
    "image": "QUJD",
    "images": ["QUJD"],
    "input_image": "data:image/png;base64,QUJD",
    "image_url": "http://x/y.png",
}


@pytest.mark.parametrize("name", PICTURE)
def test_a_picture_as_a_plain_field_says_how_to_send_it(servers, name):
    how = {"klein": "curl -F image=@picture.png", "wan": "curl -F input_reference=@", "flux": "/v1/images/edits"}
    for model, words in how.items():
        error = refused(servers, model, text_of(**{name: PICTURE[name]}), JSON)
        assert error["param"] == name and words in error["message"]
    parts = urlencode({"prompt": "a", "image[]": "\x89PNG"}).encode()
    assert how["klein"] in refused(servers, "klein", parts, FORM)["message"]


def test_files_are_counted_before_they_are_opened(servers):
    files = [("image", (f"{number}.png", b"no picture")) for number in range(900)]
    answer = servers["klein"].post(ROUTES["klein"], data={"prompt": "a"}, files=files)
    assert answer.status_code == 400 and "this request has 900" in answer.json()["detail"]


def test_everything_wrong_is_told_at_once(servers):
    wrong = {"n": 0, "quality": "hd", "stream": True, "image": "x", "zzz": 1, "cache_dit_params": {"x": 1}, "size": "1"}
    error = refused(servers, "flux", text_of(**wrong, output_compression=50), JSON)
    for name in (*wrong, "output_compression"):
        assert name in error["message"], name
    assert len(error["message"].splitlines()) >= len(wrong) and error["param"] == "n"


def test_files_and_fields_are_told_at_once(servers):
    files = {"mask": ("m.png", encoded()), "image": ("a.png", encoded())}
    answer = servers["klein"].post(ROUTES["klein"], data={"prompt": "a", "n": "0", "style": "natural"}, files=files)
    message = answer.json()["detail"]
    assert answer.status_code == 400 and all(word in message for word in ("n: found", "style: found", "mask is not"))


def test_headers_that_are_too_large_do_not_end_the_server(servers):
    answer = servers["flux"].get("/health", headers={"x": "y" * 500_000})
    assert answer.status_code in (200, 400, 431)
    assert servers["flux"].get("/health").status_code == 200


def test_the_queue_is_bounded(here, monkeypatch):
    app = here("wan", start=False, queued=2)  # the worker takes nothing out
    monkeypatch.setattr(type(app.worker), "alive", True)
    app.worker.ready.set()
    body = {"num_inference_steps": 1, "size": "32x32", "num_frames": 1, "max_sequence_length": 8}
    first, _ = (app.post("/v1/videos", **body)["id"] for _ in range(2))
    for _ in range(2):
        error = app.refused("/v1/videos", 503, **body)
        assert error["code"] == "queue_full" and error["type"] == "server_unavailable"
        assert error["message"].startswith("the queue is full: 2 requests wait; ask again later")
    assert len(app.client.get("/v1/videos").json()["data"]) == 2, "what was refused is not remembered"
    app.client.delete(f"/v1/videos/{first}")
    app.post("/v1/videos", **body)


IDS = ["a/b", "..%2f..%2fetc%2fpasswd", "%00", "x" * 5000, "\u00fc", "%f0%9f%8d%8e", "%3f", "%23", "%25", "-1", "1e400"]


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("path", ["/v1/videos/{}", "/v1/videos/{}/content", "/v1/images/{}/content", "/v1/models/{}"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "OPTIONS", "PUT", "BREW"])
def test_routes_of_an_id_are_never_an_error_of_the_server(servers, method, path, id):
    address = path.format(id if id.isascii() else quote(id))
    answer = servers["wan"].request(method, address)
    assert answer.status_code in (400, 404, 405), answer.text[:300]
    assert len(answer.content) < 8000 and "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("length", "body", "statuses"),
    [
        ("10", b'{"prompt": "a", "n": 0}', (400,)),  # less than is sent: the JSON ends within the text
        ("abc", b"{}", (400,)),
        ("-1", b"{}", (400,)),
        ("1_0", b"{}", (400,)),
        ("9" * 30, b"{}", (400, 413)),
        ("100", b'{"prompt": "a"}', (None, 400)),  # more than is sent, then the client leaves
    ],
)
def test_a_wrong_length_ends_with_the_connection(servers, length, body, statuses):
    url = servers["flux"].base_url
    with socket.create_connection((url.host, url.port), timeout=20) as line:
        head = (
            "POST /v1/images/generations HTTP/1.1",
            "Host: x",
            "Content-Type: application/json",
            "Connection: close",
        )
        line.sendall("\r\n".join((*head, f"Content-Length: {length}", "", "")).encode() + body)
        line.shutdown(socket.SHUT_WR)
        answer = line.makefile("rb").readline()
    assert (int(answer.split()[1]) if answer else None) in statuses
    assert servers["flux"].get("/health").status_code == 200
