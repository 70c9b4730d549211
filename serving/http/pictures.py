"""Input pictures of a request: files first, then `data:` URLs; opened only once their number is right."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from pure.configs.kinds import show
from pure.engine.errors import Misuse
from pure.models import Picture, PictureError, open_picture
from pure.serving.http.bodies import Upload

__all__ = ["SUFFIXES", "from_url", "opened", "urls"]

PIXELS = 2**26
"""Most pixels of an input picture."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that are read, by Pillow's names."""
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp"}
"""Ending of a picture's file by its format; MPO is a JPEG with further pictures behind, as cameras write it."""


def opened(sent: Upload) -> Picture:
    """Open a picture; its notes name the field.

    Raises:
        Misuse: it cannot be read, or is too large.
    """
    try:
        return open_picture(sent.content, FORMATS, PIXELS).named(sent.field)
    except PictureError as error:
        raise Misuse(f"{sent.field}: {error}; send PNG, JPEG or WebP", field=sent.field) from error


def urls(fields: Mapping[str, Any], names: tuple[str, ...]) -> list[Upload]:
    """Return the pictures that come as `data:` URLs, in the order of the names.

    Raises:
        Misuse: one is another URL, or damaged.
    """
    found: list[Upload] = []
    for name in names:
        given = fields.get(name, ())
        for one in given if isinstance(given, tuple) else (given,):
            if isinstance(one, Mapping) and set(one) == {"image_url"}:
                one = one["image_url"]
            if not isinstance(one, str):
                allowed = 'a file, a data: URL, or {"image_url": "data:..."}'
                raise Misuse(f"{name}: found {show(one)}; allowed: {allowed}", field=name)
            found.append(Upload(name, from_url(one, name)))
    return found


def from_url(url: str, field: str) -> bytes:
    """Return the bytes of a `data:` URL.

    Raises:
        Misuse: it is another URL, or damaged.
    """
    head, comma, content = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise Misuse(
            f"{field}: {url[:60]!r} is not fetched: the server downloads nothing; send the picture "
            "as a file or as data:image/png;base64,...",
            field=field,
        )
    try:
        return base64.b64decode(content, validate=True) if head.endswith(";base64") else content.encode()
    except (binascii.Error, ValueError) as error:
        raise Misuse(f"{field}: the data: URL is damaged: {error}", field=field) from error
