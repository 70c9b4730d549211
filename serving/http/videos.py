"""Videos: jobs that clients poll."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from pure.configs.kinds import Choice, Text, Whole
from pure.engine.errors import Misuse
from pure.serving.http.asking import seeds
from pure.serving.http.bodies import read_body
from pure.serving.http.errors import HttpError
from pure.serving.http.fields import VIDEO, read_fields, read_query
from pure.serving.http.images import statistics, variant
from pure.serving.http.pictures import urls
from pure.serving.http.service import Service, memory, service_of
from pure.serving.jobs import Format, Job, JobEntry

__all__ = ["router"]

router = APIRouter()
"""The routes under /v1/videos."""


@router.post("/v1/videos")
async def create(request: Request) -> dict[str, Any]:
    """Begin a video; the picture it begins with is `input_reference` or `reference_url`."""
    service = service_of(request)
    body = await read_body(request)
    if not service.engine.checkpoint.video:
        raise Misuse(f"a {service.engine.checkpoint.name} makes images; send the prompt to /v1/images/generations")
    if service.files.folder is None:
        raise Misuse("videos need files, and this server saves none (--output-path ''); start it with a folder")
    fields = read_fields(body, VIDEO, seeds)
    sent = [*body.uploads, *urls(fields, VIDEO.urls)]
    pictures = await service.pictures(sent)
    recipe = await service.checked(fields, pictures)
    height, width = recipe.request.height, recipe.request.width
    if height % 2 or width % 2:
        raise Misuse(f"size: {width}x{height} cannot be written as a video; choose even sizes", field="size")
    form = Format(kind="video", suffix=".mp4")
    job = Job(prompt=fields["prompt"], seeds=seeds(fields), recipe=recipe, form=form)
    await service.submit(job, pictures, sent)
    return _shown(service, _entry(service, job.id))


PAGE = {"limit": Whole(1, 100), "order": Choice(("asc", "desc")), "after": Text()}


@router.get("/v1/videos")
async def listed(request: Request) -> dict[str, Any]:
    """List videos, newest first; `after` an id, `limit` 1 to 100, `order` asc or desc."""
    service, page = service_of(request), read_query(request, PAGE, limit=20, order="desc", after=None)
    entries = service.workers.jobs.all("video")[:: 1 if page["order"] == "asc" else -1]
    if page["after"] is not None:
        ids = [entry.job.id for entry in entries]
        if page["after"] not in ids:
            raise Misuse(f"after: there is no video {page['after'][:80]!r}", field="after")
        entries = entries[ids.index(page["after"]) + 1 :]
    shown = [_shown(service, entry) for entry in entries[: page["limit"]]]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(entries) > page["limit"],
    }


@router.get("/v1/videos/{id}")
async def retrieve(request: Request, id: str) -> dict[str, Any]:
    """Return status and progress of a video."""
    service = service_of(request)
    return _shown(service, _entry(service, id))


@router.delete("/v1/videos/{id}")
async def delete(request: Request, id: str) -> dict[str, Any]:
    """Stop work for a video, and delete its file and its entry."""
    service = service_of(request)
    _entry(service, id)
    await asyncio.to_thread(service.discard, id)
    return {"id": id, "object": "video.deleted", "deleted": True, "status": "deleted"}


@router.get("/v1/videos/{id}/content")
async def content(request: Request, id: str) -> FileResponse:
    """Send a video that was made."""
    entry, number = _entry(service_of(request), id), variant(request)
    if not entry.over:
        raise HttpError("Generation is still in-progress", 404, code="video_not_ready")
    if entry.error is not None:
        raise HttpError(f"there is no video: {entry.error.message}", 404, code="video_failed")
    artifact = entry.artifacts.get(number)
    if artifact is None or artifact.path is None:
        raise HttpError(f"Video variant {number} not found", 404, field="variant")
    if not Path(artifact.path).is_file():
        raise HttpError("the video's file is gone", 404, code="video_not_found")
    return FileResponse(artifact.path, media_type="video/mp4", filename=Path(artifact.path).name)


def _entry(service: Service, id: str) -> JobEntry:
    entry = service.workers.jobs.get(id, "video")
    if entry is None:
        raise HttpError("Video not found", 404, code="video_not_found")
    return entry


def _shown(service: Service, entry: JobEntry) -> dict[str, Any]:
    """Return a video as clients see it."""
    job, request = entry.job, entry.job.recipe.request
    artifacts = [artifact for _, artifact in sorted(entry.artifacts.items())]
    done = entry.status == "completed"
    urls = [
        f"/v1/videos/{job.id}/content" + (f"?variant={n}" if len(job.seeds) > 1 else "") for n in range(len(artifacts))
    ]
    seconds = request.frames / (job.recipe.fps or 1)
    error = entry.error
    return {
        "id": job.id,
        "object": "video",
        "model": service.names[0],
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
        "file_path": artifacts[0].path if done else None,
        "file_paths": [artifact.path for artifact in artifacts] if done else [],
        "num_outputs": len(job.seeds),
        "error": None if error is None else {"message": error.message, "code": error.code or "generation_failed"},
        "peak_memory_mb": memory(),
        "inference_time_s": entry.seconds,
        "puredit": statistics(service, entry) if done else None,
    }
