"""Videos: jobs that go on while clients ask how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from pure.serving.http.asking import asked, seeds
from pure.serving.http.bodies import pictures, read_body
from pure.serving.http.fields import VIDEO, read_fields
from pure.serving.http.images import statistics, variant
from pure.serving.http.refusal import Refusal
from pure.serving.http.state import Desk, desk_of, memory
from pure.serving.jobs import Entry, Form, Job

__all__ = ["router"]

router = APIRouter()
"""The routes under /v1/videos."""


@router.post("/v1/videos")
async def create(request: Request) -> dict[str, Any]:
    """Begin a video; the picture it begins with is `input_reference` or `reference_url`."""
    desk, body = desk_of(request), await read_body(request)
    if not desk.studio.video:
        raise Refusal(f"a {desk.studio.found.kind.pipeline} makes images; send the prompt to /v1/images/generations")
    if desk.shelf.folder is None:
        raise Refusal(
            "this server keeps no files (--output-path ''), and videos are sent as such; start it with a folder"
        )
    fields = read_fields(body.fields, VIDEO)
    read = await desk.pictures(pictures(body, _references(fields), ("input_reference",)))
    recipe = await desk.recipe(asked(fields, [image for image, _, _ in read]), fields.get("model"))
    height, width = recipe.request.height, recipe.request.width
    if height % 2 or width % 2:
        raise Refusal(f"{width}x{height} cannot be written as a video; choose even sizes", param="size")
    form = Form(kind="video", suffix=".mp4")
    job = Job(prompt=fields["prompt"], seeds=seeds(fields), recipe=recipe, form=form)
    await desk.keep(job, read)
    desk.engine.submit(job)
    return _shown(desk, _entry(desk, job.id))


def _references(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pictures that are named by address, with their fields."""
    found = [("reference_url", fields["reference_url"])] if "reference_url" in fields else []
    reference = fields.get("input_reference")
    if isinstance(reference, Mapping):
        if set(reference) != {"image_url"} or not isinstance(reference["image_url"], str):
            raise Refusal(
                f"input_reference: found an object with {sorted(reference)}; allowed: a file, a data: URL, or "
                '{"image_url": "data:..."}',
                param="input_reference",
            )
        reference = reference["image_url"]
    return found + ([("input_reference", reference)] if reference is not None else [])


@router.get("/v1/videos")
async def listed(request: Request) -> dict[str, Any]:
    """List videos, newest first; `after` an id, `limit` 1 to 100, `order` asc or desc."""
    desk, query = desk_of(request), request.query_params
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise Refusal(f"limit: found {limit!r}; allowed: 1 to 100", param="limit")
    if order not in ("asc", "desc"):
        raise Refusal(f"order: found {order!r}; allowed: asc, desc", param="order")
    entries = desk.engine.jobs.all("video")[:: 1 if order == "asc" else -1]
    if after is not None:
        ids = [entry.job.id for entry in entries]
        if after not in ids:
            raise Refusal(f"after: there is no video {after!r}", param="after")
        entries = entries[ids.index(after) + 1 :]
    page = [_shown(desk, entry) for entry in entries[: int(limit)]]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(entries) > int(limit),
    }


@router.get("/v1/videos/{id}")
async def retrieve(request: Request, id: str) -> dict[str, Any]:
    """Say how far a video is."""
    desk = desk_of(request)
    return _shown(desk, _entry(desk, id))


@router.delete("/v1/videos/{id}")
async def delete(request: Request, id: str) -> dict[str, Any]:
    """Stop work for a video, and delete its file and its entry."""
    desk = desk_of(request)
    _entry(desk, id)
    desk.engine.cancel(id)
    entry = desk.engine.jobs.forget(id)
    if entry is not None:
        await asyncio.to_thread(desk.shelf.remove, list(entry.outputs.values()))
    return {"id": id, "object": "video.deleted", "deleted": True, "status": "deleted"}


@router.get("/v1/videos/{id}/content")
async def content(request: Request, id: str) -> FileResponse:
    """Send a video that was made."""
    entry = _entry(desk_of(request), id)
    if not entry.over:
        raise Refusal("Generation is still in-progress", 404, code="video_not_ready")
    if entry.error is not None:
        raise Refusal(f"there is no video: {entry.error.message}", 404, code="video_failed")
    output = entry.outputs.get(variant(request))
    if output is None or output.path is None:
        raise Refusal(f"Video variant {variant(request)} not found", 404, param="variant")
    if not Path(output.path).is_file():
        raise Refusal("the video's file is gone", 404, code="video_not_found")
    return FileResponse(output.path, media_type="video/mp4", filename=Path(output.path).name)


def _entry(desk: Desk, id: str) -> Entry:
    entry = desk.engine.jobs.get(id, "video")
    if entry is None:
        raise Refusal("Video not found", 404, code="video_not_found")
    return entry


def _shown(desk: Desk, entry: Entry) -> dict[str, Any]:
    """Return a video as clients see it."""
    job, request = entry.job, entry.job.recipe.request
    outputs = [output for _, output in sorted(entry.outputs.items())]
    done = entry.status == "completed"
    urls = [
        f"/v1/videos/{job.id}/content" + (f"?variant={n}" if len(job.seeds) > 1 else "") for n in range(len(outputs))
    ]
    seconds = request.frames / (job.recipe.fps or 1)
    error = entry.error
    return {
        "id": job.id,
        "object": "video",
        "model": desk.names[0],
        "status": "failed" if entry.status == "cancelled" else entry.status,
        "progress": entry.progress,
        "created_at": int(job.created),
        "completed_at": int(entry.ended) if entry.ended and done else None,
        "prompt": job.prompt,
        "size": f"{request.width}x{request.height}",
        "seconds": f"{seconds:g}",
        "num_frames": request.frames,
        "fps": job.recipe.fps,
        "quality": "standard",
        "url": urls[0] if done else None,
        "urls": urls if done else [],
        "file_path": outputs[0].path if done else None,
        "file_paths": [output.path for output in outputs] if done else [],
        "num_outputs": len(job.seeds),
        "error": None if error is None else {"message": error.message, "code": error.code or "generation_failed"},
        "peak_memory_mb": memory(),
        "inference_time_s": entry.seconds,
        "puredit": statistics(desk, entry) if done else None,
    }
