"""Videos: jobs that go on while clients ask how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from pure.engine.errors import Misuse
from pure.serving.http.asking import asked, seeds
from pure.serving.http.bodies import pictures, read_body
from pure.serving.http.errors import HttpError
from pure.serving.http.fields import VIDEO, read_fields
from pure.serving.http.images import statistics, variant
from pure.serving.http.state import State, memory, state_of
from pure.serving.jobs import Entry, Form, Job

__all__ = ["router"]

router = APIRouter()
"""The routes under /v1/videos."""


@router.post("/v1/videos")
async def create(request: Request) -> dict[str, Any]:
    """Begin a video; the picture it begins with is `input_reference` or `reference_url`."""
    state, body = state_of(request), await read_body(request)
    if not state.studio.video:
        raise Misuse(f"a {state.studio.found.kind.pipeline} makes images; send the prompt to /v1/images/generations")
    if state.files.folder is None:
        raise Misuse(
            "this server keeps no files (--output-path ''), and videos are sent as such; start it with a folder"
        )
    fields = read_fields(body.fields, VIDEO)
    read = await state.pictures(pictures(body, _references(fields), ("input_reference",)))
    recipe = await state.recipe(asked(fields, [opened for opened, _ in read]), fields.get("model"))
    height, width = recipe.request.height, recipe.request.width
    if height % 2 or width % 2:
        raise Misuse(f"{width}x{height} cannot be written as a video; choose even sizes", field="size")
    form = Form(kind="video", suffix=".mp4")
    job = Job(prompt=fields["prompt"], seeds=seeds(fields), recipe=recipe, form=form)
    await state.keep(job, read)
    state.engine.submit(job)
    return _shown(state, _entry(state, job.id))


def _references(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pictures that are named by address, with their fields."""
    found = [("reference_url", fields["reference_url"])] if "reference_url" in fields else []
    reference = fields.get("input_reference")
    if isinstance(reference, Mapping):
        if set(reference) != {"image_url"} or not isinstance(reference["image_url"], str):
            raise Misuse(
                f"input_reference: found an object with {sorted(reference)}; allowed: a file, a data: URL, or "
                '{"image_url": "data:..."}',
                field="input_reference",
            )
        reference = reference["image_url"]
    return found + ([("input_reference", reference)] if reference is not None else [])


@router.get("/v1/videos")
async def listed(request: Request) -> dict[str, Any]:
    """List videos, newest first; `after` an id, `limit` 1 to 100, `order` asc or desc."""
    state, query = state_of(request), request.query_params
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise Misuse(f"limit: found {limit!r}; allowed: 1 to 100", field="limit")
    if order not in ("asc", "desc"):
        raise Misuse(f"order: found {order!r}; allowed: asc, desc", field="order")
    entries = state.engine.jobs.all("video")[:: 1 if order == "asc" else -1]
    if after is not None:
        ids = [entry.job.id for entry in entries]
        if after not in ids:
            raise Misuse(f"after: there is no video {after!r}", field="after")
        entries = entries[ids.index(after) + 1 :]
    page = [_shown(state, entry) for entry in entries[: int(limit)]]
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
    state = state_of(request)
    return _shown(state, _entry(state, id))


@router.delete("/v1/videos/{id}")
async def delete(request: Request, id: str) -> dict[str, Any]:
    """Stop work for a video, and delete its file and its entry."""
    state = state_of(request)
    _entry(state, id)
    state.engine.cancel(id)
    entry = state.engine.jobs.forget(id)
    if entry is not None:
        await asyncio.to_thread(state.files.remove, list(entry.outputs.values()))
    return {"id": id, "object": "video.deleted", "deleted": True, "status": "deleted"}


@router.get("/v1/videos/{id}/content")
async def content(request: Request, id: str) -> FileResponse:
    """Send a video that was made."""
    entry = _entry(state_of(request), id)
    if not entry.over:
        raise HttpError("Generation is still in-progress", 404, code="video_not_ready")
    if entry.error is not None:
        raise HttpError(f"there is no video: {entry.error.message}", 404, code="video_failed")
    output = entry.outputs.get(variant(request))
    if output is None or output.path is None:
        raise HttpError(f"Video variant {variant(request)} not found", 404, field="variant")
    if not Path(output.path).is_file():
        raise HttpError("the video's file is gone", 404, code="video_not_found")
    return FileResponse(output.path, media_type="video/mp4", filename=Path(output.path).name)


def _entry(state: State, id: str) -> Entry:
    entry = state.engine.jobs.get(id, "video")
    if entry is None:
        raise HttpError("Video not found", 404, code="video_not_found")
    return entry


def _shown(state: State, entry: Entry) -> dict[str, Any]:
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
        "model": state.names[0],
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
        "puredit": statistics(state, entry) if done else None,
    }
