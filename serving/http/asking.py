"""From the fields of a body to a job: the same for images, edits and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pure.engine.engine import OPTIONS, Order
from pure.engine.errors import Misuse
from pure.noise import consecutive_seeds
from pure.notes import Note
from pure.serving.http.fields import QUALITIES
from pure.serving.jobs import Format

if TYPE_CHECKING:
    from pure.models import Picture

__all__ = ["field_of", "image_form", "order_of", "seeds"]

SEED = 42
ENCODINGS = {"png": ("PNG", ".png"), "jpeg": ("JPEG", ".jpg"), "jpg": ("JPEG", ".jpg"), "webp": ("WEBP", ".webp")}


def order_of(fields: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> Order:
    """Return what to make, from the fields of a request; `width` and `height` win over `size`.

    >>> order_of({"prompt": "a cat", "size": (64, 32), "height": 48}).options
    {'width': 64, 'height': 48}
    """
    size = fields.get("size")
    options = dict(zip(("width", "height"), size, strict=True)) if size else {}
    options |= {name: fields[field] for field, name in OPTIONS.items() if field in fields}
    notes = [Note(text) for text in fields.get("notes", ())]
    notes += [note for picture in pictures for note in picture.notes]
    if size and any(options[side] != given for side, given in zip(("width", "height"), size, strict=True)):
        notes.append(Note(f"size={size[0]}x{size[1]} has no effect where width or height is given"))
    if "seconds" in fields and "num_frames" in fields:
        notes.append(Note(f"seconds={fields['seconds']:g} has no effect: num_frames={fields['num_frames']} is given"))
    if pictures:
        options["images"] = tuple(picture.image for picture in pictures)
    return Order(
        negative_prompt=fields.get("negative_prompt"),
        options=options,
        notes=tuple(notes),
        seconds=fields.get("seconds"),
        fps=fields.get("fps"),
    )


def field_of(message: str) -> str | None:
    """Return the field that an error of the library is about: such messages begin with an option and its value.

    >>> field_of("frames=6 is not possible")
    'num_frames'
    """
    option = message.partition("=")[0]
    return next((field for field, name in OPTIONS.items() if name == option), None)


def seeds(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Return a seed for every result: those given, or from the one given (42) upwards.

    >>> seeds({"n": 2, "seed": (7,)})
    (7, 8)

    Raises:
        Misuse: there are several, and not as many as results, or the last would be too large.
    """
    count, given = fields.get("n"), fields.get("seed", (SEED,))
    if "num_outputs_per_prompt" in fields:
        if count not in (None, fields["num_outputs_per_prompt"]):
            raise Misuse("n and num_outputs_per_prompt differ; send one of them", field="n")
        count = fields["num_outputs_per_prompt"]
    if len(given) > 1:
        if count not in (None, len(given)):
            raise Misuse(f"seed: {len(given)} seeds for {count} results; send one, or one each", field="seed")
        return tuple(given)
    try:
        return consecutive_seeds(given[0], count or 1)
    except ValueError as error:
        raise Misuse(f"seed: {error}", field="seed") from error


def image_form(fields: Mapping[str, Any]) -> Format:
    """Return the format of images.

    Raises:
        Misuse: a quality is given for PNG, or two that differ.
    """
    encoding, suffix = ENCODINGS[fields.get("output_format", "png")]
    named = QUALITIES.get(fields.get("output_quality", "default"))
    quality = fields.get("output_compression", named)
    if named is not None and quality != named:
        raise Misuse(
            "output_compression and output_quality differ; send one of them",
            field="output_compression",
        )
    if encoding == "PNG" and quality not in (None, 100):
        raise Misuse(
            f"output_compression: found {quality}; PNG is lossless; use output_format jpeg or webp",
            field="output_compression",
        )
    return Format(kind="image", encoding=encoding, quality=quality, suffix=suffix)
