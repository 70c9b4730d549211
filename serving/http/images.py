"""Images: generations, edits, and the files made by them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from fastapi import APIRouter, Request
from fastapi.responses import Response

from pure.configs.kinds import Whole
from pure.engine.caching import recipe as recipe_text
from pure.engine.errors import Misuse
from pure.serving.http.asking import asked, image_form, seeds
from pure.serving.http.bodies import Upload, read_body
from pure.serving.http.errors import HttpError
from pure.serving.http.fields import EDIT, IMAGE, SEEDS, read_fields, read_query
from pure.serving.http.pictures import urls
from pure.serving.http.state import State, memory, state_of
from pure.serving.jobs import Entry, Job

__all__ = ["router", "statistics", "variant"]

router = APIRouter()
"""The routes under /v1/images."""
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


@router.post("/v1/images/generations")
async def generations(request: Request) -> dict[str, Any]:
    """Make images from a prompt."""
    state = state_of(request)
    body = await read_body(request)
    pipeline = state.studio.found.kind.pipeline
    _makes_images(state)
    if state.studio.pictures[0]:
        raise Misuse(f"a {pipeline} edits pictures; send them to /v1/images/edits")
    return await _made(request, read_fields(body, IMAGE, seeds, image_form), (), "url")


@router.post("/v1/images/edits")
async def edits(request: Request) -> dict[str, Any]:
    """Edit pictures, which come as files `image` or `image[]`, or as data: URLs in `url`."""
    state = state_of(request)
    body = await read_body(request)
    pipeline = state.studio.found.kind.pipeline
    _makes_images(state)
    if not state.studio.pictures[1]:
        raise Misuse(f"a {pipeline} takes no input pictures; send the prompt to /v1/images/generations")
    fields = read_fields(body, EDIT, seeds, image_form)
    sent = [*body.uploads, *urls(fields, EDIT.urls)]
    if not sent:
        raise Misuse(f"Field 'image' or 'url' is required: {EDIT.advice}", field="image")
    return await _made(request, fields, sent, "b64_json")


def _makes_images(state: State) -> None:
    if state.studio.video:
        raise Misuse(f"a {state.studio.found.kind.pipeline} makes videos; send the prompt to /v1/videos")


async def _made(request: Request, fields: Mapping[str, Any], sent: Sequence[Upload], default: str) -> dict[str, Any]:
    """Make the images of a request and return the response; `default` is that of `response_format`."""
    state, response = state_of(request), fields.get("response_format", default)
    if state.files.folder is None and response == "url":
        if "response_format" in fields or default != "url":
            raise Misuse(
                "response_format: found url, and this server saves no files (--output-path ''); use b64_json",
                field="response_format",
            )
        response = "b64_json"
    pictures = await state.pictures(sent)
    recipe = await state.recipe(asked(fields, pictures), fields.get("model"))
    form = attrs.evolve(image_form(fields), keep=state.files.folder is not None)
    job = Job(prompt=fields["prompt"], seeds=seeds(fields), recipe=recipe, form=form)
    await state.keep(job, pictures, sent)
    return await _response(state, await state.done(request, job), response)


async def _response(state: State, entry: Entry, response: str) -> dict[str, Any]:
    job, several = entry.job, len(entry.outputs) > 1
    data: list[dict[str, Any]] = []
    for number, output in sorted(entry.outputs.items()):
        one: dict[str, Any] = {"revised_prompt": job.prompt, "file_path": output.path}
        if response == "url":
            one["url"] = f"/v1/images/{job.id}/content" + (f"?variant={number}" if several else "")
        else:
            one["b64_json"] = base64.b64encode(await asyncio.to_thread(state.files.content, output)).decode()
        data.append(one)
    request = job.recipe.request
    return {
        "id": job.id,
        "created": int(job.created),
        "data": data,
        "output_format": job.form.suffix.lstrip(".").replace("jpg", "jpeg"),
        "size": f"{request.width}x{request.height}",
        "peak_memory_mb": memory(),
        "inference_time_s": entry.seconds,
        "usage": None,
        "puredit": statistics(state, entry),
    }


def statistics(state: State, entry: Entry) -> dict[str, Any]:
    """Return what the cache did: the lists at the top are those of the first result."""
    reports = [output.report for _, output in sorted(entry.outputs.items())]
    caching = entry.job.recipe.caching
    return {
        "model": state.names[0],
        "cache": recipe_text(caching.transform),
        "computed_steps": reports[0].get("computed_steps", []) if reports else [],
        "skipped_steps": reports[0].get("skipped_steps", []) if reports else [],
        "results": reports,
        "cache_settings": caching.settings,
        "notes": list(dict.fromkeys((*entry.job.recipe.notes, *entry.notes))),
    }


@router.get("/v1/images/{id}/content")
async def content(request: Request, id: str) -> Response:
    """Send an image that was made."""
    state, number = state_of(request), variant(request)
    entry = state.engine.jobs.get(id, "image")
    if entry is None or (entry.over and entry.status != "completed"):
        raise HttpError("Image not found", 404, code="image_not_found")
    if not entry.over:
        raise HttpError("Image is still being generated", 404, code="image_not_ready")
    output = entry.outputs.get(number)
    if output is None:
        raise HttpError(f"Image variant {number} not found", 404, field="variant")
    try:
        data = await asyncio.to_thread(state.files.content, output)
    except OSError as error:
        raise HttpError(f"the image's file cannot be read: {error.strerror}", 404, code="image_not_found") from error
    return Response(data, media_type=MEDIA[entry.job.form.suffix])


def variant(request: Request) -> int:
    """Return the number of a result in the address, from 0.

    Raises:
        Misuse: it is not a number, or another parameter is there.
    """
    number = read_query(request, {"variant": Whole(0, SEEDS, words=("video",))}, variant=0)["variant"]
    return 0 if number == "video" else number  # what OpenAI's client calls the whole of it
