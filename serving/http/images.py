"""Images: generations, edits, and the files made by them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from pure.configs.kinds import Whole
from pure.engine.caching import recipe as recipe_text
from pure.engine.errors import Misuse
from pure.serving.http.asking import image_form, seeds
from pure.serving.http.bodies import Upload, read_body
from pure.serving.http.errors import HttpError
from pure.serving.http.fields import EDIT, IMAGE, read_fields, read_query
from pure.serving.http.pictures import urls
from pure.serving.http.service import Service, memory, service_of
from pure.serving.jobs import Job, JobEntry

__all__ = ["router", "statistics", "variant"]

router = APIRouter()
"""The routes under /v1/images."""
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


@router.post("/v1/images/generations")
async def generations(request: Request) -> dict[str, Any]:
    """Make images from a prompt."""
    service = service_of(request)
    body = await read_body(request)
    _makes_images(service)
    if service.engine.pipeline.image_count[0]:
        raise Misuse(f"a {service.engine.checkpoint.name} edits pictures; send them to /v1/images/edits")
    return await _made(request, read_fields(body, IMAGE, seeds, image_form), (), "url")


@router.post("/v1/images/edits")
async def edits(request: Request) -> dict[str, Any]:
    """Edit pictures, which come as files `image` or `image[]`, or as data: URLs in `url`."""
    service = service_of(request)
    body = await read_body(request)
    _makes_images(service)
    if not service.engine.pipeline.image_count[1]:
        raise Misuse(
            f"a {service.engine.checkpoint.name} takes no input pictures; send the prompt to /v1/images/generations"
        )
    fields = read_fields(body, EDIT, seeds, image_form)
    sent = [*body.uploads, *urls(fields, EDIT.urls)]
    if not sent:
        raise Misuse(f"Field 'image' or 'url' is required: {EDIT.advice}", field="image")
    return await _made(request, fields, sent, "b64_json")


def _makes_images(service: Service) -> None:
    if service.engine.checkpoint.video:
        raise Misuse(f"a {service.engine.checkpoint.name} makes videos; send the prompt to /v1/videos")


async def _made(request: Request, fields: Mapping[str, Any], sent: Sequence[Upload], default: str) -> dict[str, Any]:
    """Make the images of a request and return the response; `default` is that of `response_format`."""
    service, response = service_of(request), fields.get("response_format", default)
    if service.files.folder is None and response == "url":
        if "response_format" in fields:
            raise Misuse(
                "response_format: found url, and this server saves no files (--output-path ''); use b64_json",
                field="response_format",
            )
        response = "b64_json"
    pictures = await service.pictures(sent)
    recipe = await service.checked(fields, pictures)
    job = Job(prompt=fields["prompt"], seeds=seeds(fields), recipe=recipe, form=image_form(fields))
    accepted = await service.submit(job, pictures, sent)
    return await _response(service, await service.done(request, job, accepted), response)


async def _response(service: Service, entry: JobEntry, response: str) -> dict[str, Any]:
    job, several = entry.job, len(entry.artifacts) > 1
    data: list[dict[str, Any]] = []
    for number, artifact in sorted(entry.artifacts.items()):
        one: dict[str, Any] = {"revised_prompt": job.prompt, "file_path": artifact.path}
        if response == "url":
            one["url"] = f"/v1/images/{job.id}/content" + (f"?variant={number}" if several else "")
        else:
            one["b64_json"] = base64.b64encode(await asyncio.to_thread(service.files.content, artifact)).decode()
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
        "puredit": statistics(service, entry),
    }


def statistics(service: Service, entry: JobEntry) -> dict[str, Any]:
    """Return what the cache did: the lists at the top are those of the first result."""
    reports = [artifact.report for _, artifact in sorted(entry.artifacts.items())]
    caching = entry.job.recipe.caching
    return {
        "model": service.names[0],
        "cache": recipe_text(caching.transform),
        "computed_steps": reports[0].get("computed_steps", []) if reports else [],
        "skipped_steps": reports[0].get("skipped_steps", []) if reports else [],
        "results": reports,
        "cache_settings": caching.settings,
        "notes": list(dict.fromkeys((*(note.text for note in entry.job.recipe.notes), *entry.notes))),
    }


@router.get("/v1/images/{id}/content")
async def content(request: Request, id: str) -> Response:
    """Send an image that was made."""
    service, number = service_of(request), variant(request)
    entry = service.workers.jobs.get(id, "image")
    if entry is None or (entry.over and entry.status != "completed"):
        raise HttpError("Image not found", 404, code="image_not_found")
    if not entry.over:
        raise HttpError("Image is still being generated", 404, code="image_not_ready")
    artifact = entry.artifacts.get(number)
    if artifact is None:
        raise HttpError(f"Image variant {number} not found", 404, field="variant")
    try:
        data = await asyncio.to_thread(service.files.content, artifact)
    except OSError as error:
        raise HttpError(f"the image's file cannot be read: {error.strerror}", 404, code="image_not_found") from error
    return Response(data, media_type=MEDIA[entry.job.form.suffix])


def variant(request: Request) -> int:
    """Return the number of a result in the address, from 0.

    Raises:
        Misuse: it is not a number, or another parameter is there.
    """
    number = read_query(request, {"variant": Whole(0, words=("video",))}, variant=0)["variant"]
    return 0 if number == "video" else number  # what OpenAI's client calls the whole of it
