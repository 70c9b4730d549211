"""Health, models and statistics of the server, and answers for routes that it does not have."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

import pure
from pure.checks import cut
from pure.links import document
from pure.serving.http.errors import HttpError
from pure.serving.http.service import Service, service_of
from pure.serving.workers import Workers

__all__ = ["HEALTH", "absent", "router"]

router = APIRouter()
"""Routes about the server."""
HEALTH = ("/health", "/health_generate", "/liveness")
"""Paths that answer at once, also while the server warms up."""
OUTPUTS = {True: "video", False: "image"}
ABSENT = {
    "/v1/meshes": "this version has no models for meshes",
    "/v1/realtime_video": "this version has no realtime models",
    "/v1/actions": "there are no models of actions in this version",
    "/openpi": "there are no models of actions in this version",
    "/vertex_generate": "use /v1/images/generations",
    "/rollout": "the server does not train; use the library",
    "/update_weights": "the weights of a running server are fixed; start another server",
    "/get_weights": "the weights of a running server are fixed",
    "/release_memory": "the model stays on its device",
    "/resume_memory": "the model stays on its device",
}
"""Beginnings of paths that SGLang has and this server does not, with the reason or the cure."""
LORA = ("/v1/set_lora", "/v1/merge_lora_weights", "/v1/unmerge_lora_weights", "/v1/list_loras")


@router.get("/liveness")
async def liveness() -> dict[str, str]:
    """Answer as long as the process runs."""
    return {"status": "ok"}


@router.get("/health_generate")
@router.get("/health")
async def health(request: Request) -> Any:
    """Return 200 if requests are taken, 503 until the warm-up is done and after the end."""
    workers = service_of(request).workers
    if not workers.alive:
        return JSONResponse({"status": "unhealthy", "error": "the engine has stopped"}, 503)
    if not workers.warm:
        return JSONResponse({"status": "warming up"}, 503)
    return {"status": "ok", **_groups(workers)}


@router.get("/models")
@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [_card(service_of(request))]}


@router.get("/v1/models/{id:path}")
async def model(request: Request, id: str) -> dict[str, Any]:
    """Describe the model."""
    service = service_of(request)
    if id not in service.names:
        raise HttpError(f"The model {cut(id)!r} does not exist", 404, field="model", code="model_not_found")
    return _card(service)


def _card(service: Service) -> dict[str, Any]:
    kind = service.engine.checkpoint.found.kind
    return {
        "id": service.names[0],
        "object": "model",
        "created": int(service.about.get("started", 0)),
        "owned_by": "puredit",
        "root": service.path,
        "parent": None,
        "max_model_len": None,
        "num_gpus": service.processes,
        "task_type": kind.task,
        "supported_task_types": [kind.task],
        "dit_precision": service.precision,
        "vae_precision": service.precision,
        "pipeline_name": kind.pipeline,
        "pipeline_class": kind.pipeline,
    }


@router.get("/v1/model_info")
@router.get("/model_info")
async def model_info(request: Request) -> dict[str, Any]:
    """Return the task and the defaults of the model."""
    service = service_of(request)
    found = service.engine.checkpoint.found
    output = OUTPUTS[service.engine.checkpoint.video]
    return {
        "model_path": service.path,
        "served_model_name": service.names[0],
        "is_generation": True,
        "model_type": "diffusion",
        "architectures": [found.kind.pipeline],
        "family": found.family.name,
        "task_type": found.kind.task,
        "supported_task_types": [found.kind.task],
        "output_types": [output],
        "is_image_gen": output == "image",
        "default_num_inference_steps": found.defaults.steps,
    }


@router.get("/server_info")
async def server_info(request: Request) -> dict[str, Any]:
    """Return the flags that the server was started with."""
    service = service_of(request)
    return {"version": pure.__version__, **service.about, "ready": service.workers.warm}


@router.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """Return the counters as JSON."""
    workers = service_of(request).workers
    return {**workers.metrics.stats(**_gauges(workers)), **_groups(workers)}


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Return the counters for Prometheus."""
    service = service_of(request)
    if not service.metrics:
        raise HttpError("there are no metrics: start the server with --enable-metrics, or see /stats", 404)
    groups = [(len(one.queue), one.running) for one in service.workers.groups]
    text = service.workers.metrics.text(groups if len(groups) > 1 else (), **_gauges(service.workers))
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _gauges(workers: Workers) -> dict[str, float]:
    """Return what waits and what is under way, in all groups."""
    groups = workers.groups
    return {"queue_length": sum(len(one.queue) for one in groups), "running": sum(one.running for one in groups)}


def _groups(workers: Workers) -> dict[str, Any]:
    """Return the same of every group, where there are several."""
    found = [{"queue_length": len(one.queue), "running": one.running} for one in workers.groups]
    return {"groups": found} if len(found) > 1 else {}


def absent(path: str) -> HttpError:
    """Return the error of a path without a route."""
    if path.startswith(LORA):
        return HttpError(
            "LoRA is not supported in this version; merge the weights into the checkpoint", 501, code="not_implemented"
        )
    for beginning, reason in ABSENT.items():
        if path.startswith(beginning):
            return HttpError(f"there is no {cut(path)} here: {reason}", 404, code="not_found")
    return HttpError(
        f"there is no {cut(path)}; the routes are listed at {document('serving.md')}", 404, code="not_found"
    )
