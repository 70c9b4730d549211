"""The application: routes, errors in one shape, and what every request passes on its way in."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import attrs
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pure.engine.errors import Failure
from pure.serving.http import about, images, videos
from pure.serving.http.bodies import LIMIT
from pure.serving.http.refusal import Refusal, body_of, shutting_down
from pure.serving.http.state import Desk

__all__ = ["make_app"]

PATIENCE = 0.02
"""Seconds between looks at whether the warm-up is done."""


def make_app(desk: Desk) -> FastAPI:
    """Return the application in front of an engine, which the caller starts and stops."""
    app = FastAPI(title="puredit", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    for part in (about, images, videos):
        app.include_router(part.router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _missing)
    app.add_exception_handler(Failure, _failed)
    app.add_middleware(Gate, desk=desk)
    if desk.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(desk.origins), allow_methods=["*"], allow_headers=["*"])
    return app


def _response(refusal: Refusal) -> JSONResponse:
    return JSONResponse(body_of(refusal), refusal.status)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return _response(error)


async def _missing(request: Request, error: Any) -> JSONResponse:
    """Answer what no route answers."""
    if error.status_code == 404:
        return _response(about.absent(request.url.path))
    return _response(Refusal(f"{request.method} {request.url.path}: {error.detail}", error.status_code))


async def _failed(request: Request, error: Any) -> JSONResponse:
    """Answer when the disk refuses."""
    return _response(Refusal(error.format_message(), 500, code="storage_failed"))


@attrs.define(eq=False)
class Gate:
    """What every request passes: waiting for the warm-up, the limit of sizes, the log; errors get out in one shape.

    Attributes:
        app: what comes after.
        desk: of the server.
    """

    app: ASGIApp
    desk: Desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        passage = Passage(receive=receive, send=send)
        try:
            await self._ready(scope)
            passage.announced(scope)
            await self.app(scope, passage.receiving, passage.sending)
        except Refusal as refusal:
            await _response(refusal)(scope, receive, passage.sending)
        except Exception as error:
            self.desk.log(f"{scope['method']} {scope['path']}: {type(error).__name__}: {error}", "warning")
            if passage.status:
                raise
            await _response(Refusal(f"internal error: {type(error).__name__}: {error}", 500, code="internal_error"))(
                scope, receive, passage.sending
            )
        finally:
            if self.desk.requests:
                status = passage.status or "closed"
                self.desk.log(f"{scope['method']} {scope['path']} {status} {passage.seconds:.3f} s", "note")

    async def _ready(self, scope: Scope) -> None:
        """Wait for the warm-up, which health checks do not."""
        engine = self.desk.engine
        if scope["path"] in about.HEALTH:
            return
        while engine.alive and not engine.ready.is_set():
            await asyncio.sleep(PATIENCE)
        if not engine.alive:
            raise shutting_down()


@attrs.define(kw_only=True, eq=False)
class Passage:
    """One request on its way: counts the bytes that come in, notes the status that goes out."""

    receive: Receive
    send: Send
    received: int = 0
    status: int = 0
    began: float = attrs.field(factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began

    def announced(self, scope: Scope) -> None:
        """Refuse a body that says it is too large.

        Raises:
            Refusal: it does.
        """
        length = dict(scope["headers"]).get(b"content-length", b"0")
        self._count(int(length) if length.isdigit() else 0)
        self.received = 0

    async def receiving(self) -> Message:
        """Pass a message of the client on."""
        message = await self.receive()
        self._count(len(message.get("body", b"")))
        return message

    def _count(self, size: int) -> None:
        self.received += size
        if self.received > LIMIT:
            raise Refusal(f"the request is larger than {LIMIT // 2**20} MiB", 413, code="request_too_large")

    async def sending(self, message: Message) -> None:
        """Pass a message to the client on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)
