"""The fields of requests: what each route reads, and every mistake of a request at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from fastapi import Request

from pure.checks import LARGEST_SEED
from pure.configs import ConfigError, read_request
from pure.configs.kinds import Bool, Choice, Real, Text, Unchecked, ValueKind, Whole, Wrong, show
from pure.configs.report import did_you_mean
from pure.configs.schema import ATTENTION
from pure.engine.errors import Misuse
from pure.engine.unsupported import FIELDS
from pure.serving.http.bodies import Body
from pure.serving.http.forms import Many, Size, read_value
from pure.serving.http.strict_json import Invalid, parse_json

__all__ = ["EDIT", "IMAGE", "QUALITIES", "VIDEO", "Fields", "read_fields", "read_query"]

QUALITIES = {"maximum": 100, "high": 90, "medium": 55, "low": 35}
"""Words of `output_quality`, as `output_compression`."""
SIDE = 16_384
"""Most pixels on a side; the recipe of a request limits their product."""
EXTRAS = ("extra_body", "extra_json", "extra_args", "extra_params")
"""Objects whose fields are used as if they were at the top level."""
PICTURES = ("image", "images", "image_url", "init_image", "input_image", "input_reference", "picture", "reference_url")
"""Names of picture fields in clients' requests."""

TEXT, SCALE, SIDES, RESULTS = Text(empty=True, most=32_000), Real(0, most=1000), Whole(1, SIDE), Whole(1, 10)
COMMON: Mapping[str, ValueKind] = {
    "prompt": TEXT,
    "negative_prompt": TEXT,
    "model": TEXT,
    "size": Size(SIDE),
    "width": SIDES,
    "height": SIDES,
    "n": RESULTS,
    "seed": Many(Whole(0, LARGEST_SEED), 10),
    "num_inference_steps": Whole(1, 10_000),
    "guidance_scale": SCALE,
    "guidance_scale_2": SCALE,
    "true_cfg_scale": SCALE,
    "max_sequence_length": Whole(1, 100_000),
    "enable_cache_dit": Bool(),
    "enable_teacache": Bool(),
    "cache_dit_params": Unchecked(),
    "attention_backend_override": Choice(ATTENTION),
    "user": TEXT,
}
OUTPUT: Mapping[str, ValueKind] = {
    "response_format": Choice(("url", "b64_json")),
    "output_format": Choice(("png", "jpeg", "jpg", "webp")),
    "output_compression": Whole(0, 100),
    "output_quality": Choice(("default", *QUALITIES)),
}


@attrs.frozen(kw_only=True)
class Fields:
    """The fields of a route.

    Attributes:
        kinds: the kinds of values of fields that are not files, by name.
        files: fields of pictures as files.
        urls: fields of pictures as `data:` URLs.
        advice: how to send a picture to this route.
    """

    kinds: Mapping[str, ValueKind]
    files: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    advice: str


def _advice(field: str, url: str) -> str:
    return (
        f"send the picture as a file of a multipart form (curl -F {field}=@picture.png), or in {url} as a data: URL "
        "(data:image/png;base64,...)"
    )


IMAGE = Fields(
    kinds={**COMMON, **OUTPUT},
    advice="this route takes no pictures; send them to /v1/images/edits of a model with input pictures",
)
"""Of `POST /v1/images/generations`."""
EDIT = Fields(
    # A data: URL is as long as its picture, which the limit of the body bounds.
    kinds={**COMMON, **OUTPUT, "url": Many(Text(), 64)},
    files=("image",),
    urls=("url",),
    advice=_advice("image", "url"),
)
"""Of `POST /v1/images/edits`."""
VIDEO = Fields(
    kinds={
        **COMMON,
        "num_outputs_per_prompt": RESULTS,
        "num_frames": Whole(1, 10_000),
        "fps": Whole(1, 240),
        "seconds": Real(0, open=True, most=3600),
        "input_reference": Unchecked(),
        "reference_url": Text(),
    },
    files=("input_reference",),
    urls=("reference_url", "input_reference"),
    advice=_advice("input_reference", "reference_url"),
)
"""Of `POST /v1/videos`."""


def read_fields(body: Body, route: Fields, *checks: Callable[[Mapping[str, Any]], object]) -> dict[str, Any]:
    """Return the fields of a body that are set, each as its kind reads it, and as `notes` which have no effect.

    Args:
        body: of the request.
        route: what is read.
        checks: of fields that depend on each other; they raise `Misuse`.

    Raises:
        Misuse: lists every field that is unknown, wrong, or not supported.
    """
    if not isinstance(body.fields, Mapping):
        raise Misuse(f"the body is {show(body.fields)}; send a JSON object with a prompt", code="invalid_json")
    found: dict[str, Any] = {}
    wrong: dict[str, Misuse] = {}
    fields, lost = _flat(body.fields)
    for name, value in fields.items():
        if value is None:
            continue
        try:
            if name in route.kinds:
                found[name] = read_value(route.kinds[name], value)
            else:
                _refuse(name, value, route)
        except Wrong as error:
            hint = f"; {error}" if str(error) else ""
            message = f"{name}: found {error.found or show(value)}; allowed: {route.kinds[name].allowed}{hint}"
            wrong[name] = Misuse(message, field=name)
        except Misuse as error:
            wrong[name] = error
    if "prompt" not in found and "prompt" not in wrong:
        wrong["prompt"] = Misuse('prompt: it is missing; allowed: text, like "a red apple"', field="prompt")
    for check in (_files(body, route), _cache, *checks):
        try:
            check(found)
        except Misuse as error:
            wrong.setdefault(error.field or "", error)
    if wrong:
        first = next(iter(wrong.values()))
        raise Misuse("\n".join(error.message for error in wrong.values()), field=first.field, code=first.code)
    return {**_teacache(found), **({"notes": lost} if lost else {})}


def _teacache(found: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with `enable_teacache` as a method among the `cache_dit_params`.

    Raises:
        Misuse: other fields say that there is no cache, or that it is another.
    """
    if not found.get("enable_teacache"):
        return found  # false is held against all sources together, once they are merged
    del found["enable_teacache"]
    params = found.get("cache_dit_params")
    params = dict((json.loads(params) if isinstance(params, str) else params) or {})
    if found.get("enable_cache_dit") is False or params.get("cache_type") not in (None, "TeaCache"):
        other = "enable_cache_dit: false" if found.get("enable_cache_dit") is False else "cache_dit_params.cache_type"
        raise Misuse(f"enable_teacache: true contradicts {other}; give only one of the two", field="enable_teacache")
    return {**found, "cache_dit_params": {**params, "cache_type": "TeaCache"}}


def _files(body: Body, route: Fields) -> Callable[[Mapping[str, Any]], None]:
    """Return a check that every file is in a field where one is read."""

    def check(_: Mapping[str, Any]) -> None:
        for field in dict.fromkeys(upload.field for upload in body.uploads):
            if field == "mask":
                raise Misuse(f"mask {FIELDS['mask']}", field=field)
            if field not in route.files:
                raise Misuse(f"{field[:80]}: there is no such file field here; {route.advice}", field=field[:80])

    return check


def _cache(found: Mapping[str, Any]) -> None:
    try:
        read_request(found.get("cache_dit_params"), found.get("enable_cache_dit"))
    except ConfigError as error:
        raise Misuse(str(error), field="cache_dit_params", code="invalid_cache_config") from error


def _flat(body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Move the fields of `extra_body` and similar objects to the top level; fields that are there already win.

    Returns:
        The fields, and a sentence on every one that does not win.
    """
    found = {name.removesuffix("[]"): value for name, value in body.items() if name not in EXTRAS}
    lost: tuple[str, ...] = ()
    for name in EXTRAS:
        value = body.get(name)
        if isinstance(value, str):
            try:
                value = parse_json(value) if value.strip() else None
            except Invalid as error:
                raise Misuse(f"{name} is not JSON: {error}", field=name) from error
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise Misuse(f"{name}: found {show(value)}; allowed: an object, or one as JSON text", field=name)
        inside, losing = _flat(value)
        lost += losing
        for inner, entry in inside.items():
            if found.get(inner) is None:
                found[inner] = entry
            elif entry is not None and entry != found[inner]:
                lost += (f"{inner[:80]} of {name}, {show(entry)}, has no effect: another {inner[:80]} is there, too",)
    return found, lost


def _refuse(name: str, value: Any, route: Fields) -> None:
    """Refuse a field that this route does not have, unless its value changes nothing."""
    option = FIELDS.get(name)
    if option is not None:
        if option.refuses(value) and not (isinstance(value, str) and not option.refuses(_plain(value))):
            raise Misuse(f"{name}: found {show(value)}; it {option}", field=name)
        return
    if name in PICTURES:
        raise Misuse(f"{name}: found {show(value)}; {route.advice}", field=name)
    hint = did_you_mean(name, route.kinds) or f"there are: {', '.join(sorted(route.kinds))}"
    raise Misuse(f"{name[:80]}: there is no such field here; {hint}", field=name[:80])


def _plain(text: str) -> Any:
    """Return the value of a form's text."""
    try:
        return parse_json(text.lower())
    except Invalid:
        return text


def read_query(request: Request, kinds: Mapping[str, ValueKind], **defaults: Any) -> dict[str, Any]:
    """Return the parameters of an address, each as its kind reads it, or its default.

    Raises:
        Misuse: one is unknown, wrong, or there twice.
    """
    found = dict(defaults)
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if name not in kinds:
            hint = did_you_mean(name, kinds) or f"there are: {', '.join(kinds)}"
            raise Misuse(f"{name[:80]}: there is no such parameter here; {hint}", field=name[:80])
        if len(values) > 1:
            raise Misuse(f"{name}: it is there {len(values)} times", field=name)
        try:
            found[name] = read_value(kinds[name], values[0])
        except Wrong as error:
            message = f"{name}: found {show(values[0])}; allowed: {kinds[name].allowed}"
            raise Misuse(message, field=name) from error
    return found
