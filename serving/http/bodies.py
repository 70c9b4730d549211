"""Bodies of requests: JSON and forms to fields and pictures; nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from pure.engine.errors import Misuse
from pure.models import Picture, PictureError, open_picture
from pure.serving.http.errors import HttpError

__all__ = ["LIMIT", "SUFFIXES", "Body", "Upload", "from_url", "picture", "pictures", "read_body"]

LIMIT = 50 * 2**20
"""Most bytes of a request."""
PIXELS = 2**26
"""Most pixels of an input picture."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that are read, by Pillow's names."""
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp"}
"""Ending of a picture's file by its format; MPO is a JPEG with further pictures behind, as cameras write it."""


@attrs.frozen(eq=False)
class Upload:
    """A file as it came: the field it came in, and its bytes."""

    field: str
    content: bytes


@attrs.frozen(eq=False)
class Body:
    """What a request sent: fields by name, and files in their order."""

    fields: Mapping[str, Any]
    uploads: tuple[Upload, ...] = ()


async def read_body(request: Request) -> Body:
    """Read JSON, multipart/form-data or a plain form.

    Raises:
        Misuse: it is too large, or not what its Content-Type says.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _form(request)
    if kind not in ("application/json", "text/json", ""):
        raise HttpError(f"Content-Type {kind} is not read here; send application/json or multipart/form-data", 415)
    try:
        return Body(json.loads(await request.body()))
    except (ValueError, RecursionError) as error:
        raise Misuse(f"the body is not JSON: {error}", code="invalid_json") from error


async def _form(request: Request) -> Body:
    fields: dict[str, Any] = {}
    uploads: list[Upload] = []
    try:
        async with request.form(max_part_size=LIMIT) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    uploads.append(Upload(name.partition("[")[0], await value.read()))
                else:
                    _place(fields, name, value)
    except HTTPException as error:
        raise Misuse(f"the form cannot be read: {error.detail}") from error
    return Body(fields, tuple(uploads))


def _place(fields: dict[str, Any], name: str, text: str) -> None:
    """Put a form's value under its name; `a[b]` is b of the object a, `a[]` and a repeated a are lists."""
    top, *inner = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
    value: Any = _leaf(text) if any(inner) else text
    if not inner:
        fields[top] = value if top not in fields else [*_listed(fields[top]), value]
        return
    if inner == [""]:
        fields[top] = [*_listed(fields.get(top, [])), value]
        return
    holder = fields.setdefault(top, {})
    for key in inner[:-1]:
        holder = holder.setdefault(key, {}) if isinstance(holder, dict) else {}
    if not isinstance(holder, dict):
        raise Misuse(f"the form's field {name} is an object and a text at once", field=top)
    key = inner[-1]
    if key:
        holder[key] = value
    else:
        raise Misuse(f"the form's field {name} is nested too deep; send {top} as JSON text", field=top)


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _leaf(text: str) -> Any:
    """Return what the text of an object's value says: a number, a boolean, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def from_url(url: str, param: str) -> bytes:
    """Return the bytes of a `data:` URL.

    Raises:
        Misuse: it is another URL, or damaged.
    """
    head, comma, content = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise Misuse(
            f"{param}: {url[:60]!r} is not fetched: this server opens no addresses for its clients; send the picture "
            "as a file or as data:image/png;base64,...",
            field=param,
        )
    try:
        return base64.b64decode(content, validate=True) if head.endswith(";base64") else content.encode()
    except (binascii.Error, ValueError) as error:
        raise Misuse(f"{param}: the data: URL is damaged: {error}", field=param) from error


def picture(content: bytes, param: str) -> Picture:
    """Open a picture; its notes name the field.

    Raises:
        Misuse: it cannot be read, or is too large.
    """
    try:
        opened = open_picture(content, FORMATS, PIXELS)
    except PictureError as error:
        raise Misuse(f"{param}: {error}; send PNG, JPEG or WebP", field=param) from error
    return attrs.evolve(opened, notes=tuple(attrs.evolve(note, text=f"{param}: {note.text}") for note in opened.notes))


def pictures(body: Body, urls: Iterable[tuple[str, str]], fields: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return the pictures of a body with the fields they came in: files first, then `(field, data: URL)`.

    Raises:
        Misuse: a file is in a field where none is read.
    """
    known = set(fields)
    for upload in body.uploads:
        if upload.field not in known:
            wanted = f"files go into {' or '.join(sorted(known))}" if known else "this route takes no files"
            raise Misuse(f"{upload.field}: there is no such file field here; {wanted}", field=upload.field)
    found = [(upload.field, upload.content) for upload in body.uploads]
    return found + [(param, from_url(url, param)) for param, url in urls]
