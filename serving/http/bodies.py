"""Bodies of requests: JSON and forms to fields and files; nothing is fetched from anywhere."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

import attrs
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from pure.engine.errors import Misuse
from pure.serving.http.errors import HttpError
from pure.serving.http.strict_json import Invalid, check_values, parse_json

__all__ = ["LIMIT", "Body", "Upload", "read_body"]

LIMIT = 50 * 2**20
"""Most bytes of a request."""
PARTS = 1000
"""Most fields of a form."""
NESTED = 4
"""Most brackets in the name of a form's field."""
URLENCODED = "application/x-www-form-urlencoded"
HEADER = "-H 'Content-Type: application/json'"


@attrs.frozen(eq=False)
class Upload:
    """A file as it came: the field it came in, and its bytes."""

    field: str
    content: bytes


@attrs.frozen(eq=False)
class Body:
    """What a request sent: fields by name, and files in their order."""

    fields: Any
    uploads: tuple[Upload, ...] = ()


async def read_body(request: Request) -> Body:
    """Read JSON, multipart/form-data or a plain form.

    Raises:
        HttpError: its type is not read here, or is not what was sent.
        Misuse: it cannot be read, or holds what is not allowed in JSON.
    """
    if encoding := request.headers.get("content-encoding", "").strip().replace("identity", ""):
        raise HttpError(f"Content-Encoding {encoding[:80]} is not read here; send the body as it is", 415)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower() or "application/json"
    if kind == "multipart/form-data":
        return await _multipart(request)
    if kind == URLENCODED:
        return _urlencoded(await request.body())
    if kind not in ("application/json", "text/json"):
        raise HttpError(f"Content-Type {kind} is not read here; send application/json or multipart/form-data", 415)
    content = await request.body()
    try:
        return Body(parse_json(content))
    except Invalid as error:
        hint = (
            "; its Content-Type is JSON: send a form with the Content-Type of a form"
            if _looks_like_form(content)
            else ""
        )
        message = str(error) if error.field else f"the body is not JSON: {error}{hint}"
        raise Misuse(message, field=error.field, code="invalid_json") from error


def _looks_like_form(content: bytes) -> bool:
    return re.match(rb"\s*(--|[\w\[\]]+=)", content) is not None


async def _multipart(request: Request) -> Body:
    pairs: list[tuple[str, str]] = []
    uploads: list[Upload] = []
    try:
        async with request.form(max_files=PARTS, max_fields=PARTS, max_part_size=LIMIT) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    uploads.append(Upload(name.partition("[")[0], await value.read()))
                else:
                    pairs.append((name, value))
    except HTTPException as error:
        raise Misuse(f"the form cannot be read: {error.detail}") from error
    except ValueError as error:  # a charset that cannot decode it
        raise Misuse(f"the form cannot be read: {error}") from error
    return Body(_fields(pairs), tuple(uploads))


def _urlencoded(content: bytes) -> Body:
    if content.lstrip()[:1] in (b"{", b"["):
        raise HttpError(
            f"the body is JSON and its Content-Type is {URLENCODED}, which curl -d sends; add {HEADER}", 415
        )
    try:
        text = content.decode("utf-8")
        return Body(_fields(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARTS)))
    except ValueError as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else f"it has more than {PARTS} fields"
        raise Misuse(f"the form cannot be read: {reason}") from error


def _fields(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, text in pairs:
        _place(fields, name, text)
    try:
        check_values(fields)
    except Invalid as error:
        raise Misuse(str(error), field=error.field) from error
    return fields


def _place(fields: dict[str, Any], name: str, text: str) -> None:
    """Put a form's value under its name; `a[b]` is b of the object a, `a[]` and a repeated a are lists."""
    top, *inner = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
    if len(inner) > NESTED or "" in inner[:-1] or (len(inner) > 1 and not inner[-1]):
        raise Misuse(f"the form's field {name[:80]} is nested too deep; send {top[:80]} as JSON text", field=top[:80])
    if not any(inner):
        if top in fields or inner:
            fields[top] = [*_listed(fields.get(top, [])), text]
        else:
            fields[top] = text
        return
    holder = fields.setdefault(top, {})
    for key in inner[:-1]:
        holder = holder.setdefault(key, {}) if isinstance(holder, dict) else None
    if not isinstance(holder, dict):
        raise Misuse(f"the form's field {name[:80]} is an object and a text at once", field=top)
    if inner[-1] in holder:
        raise Misuse(f"the form's field {name[:80]} is there twice", field=top)
    holder[inner[-1]] = _leaf(text)


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _leaf(text: str) -> Any:
    """Return the value of a text inside an object: a number, a boolean, a list, or the text itself."""
    try:
        return parse_json(text)
    except Invalid:
        return text
