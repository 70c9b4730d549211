"""The application: its routes, errors in one shape, and what holds for every request."""

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

from pure.checks import cut
from pure.engine.errors import EngineError, Stopping
from pure.serving.http import about, images, videos
from pure.serving.http.bodies import LIMIT
from pure.serving.http.errors import HttpError, response_to
from pure.serving.http.service import Service

__all__ = ["make_app"]

PATIENCE = 0.02
"""Seconds between looks at whether the warm-up is done."""


def make_app(service: Service) -> FastAPI:
    """Return the application in front of workers, which the caller starts and stops."""
    app = FastAPI(title="puredit", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.puredit = service
    for part in (about, images, videos):
        app.include_router(part.router)
    app.add_exception_handler(EngineError, _reported)
    app.add_exception_handler(HTTPException, _missing)
    app.add_middleware(Checks, service=service)
    if service.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(service.origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


async def _reported(request: Request, error: Any) -> JSONResponse:
    return response_to(error)


async def _missing(request: Request, error: Any) -> JSONResponse:
    """Answer what no route answers."""
    if error.status_code == 404:
        return response_to(about.absent(request.url.path))
    return response_to(HttpError(f"{request.method} {cut(request.url.path)}: {error.detail}", error.status_code))


@attrs.define(eq=False)
class Checks:
    """What holds for every request: it waits for the warm-up, its size is limited, errors have one shape, a log line.

    Attributes:
        app: the application behind it.
        service: of the server.
    """

    app: ASGIApp
    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(receive=receive, send=send)
        try:
            await self._ready(scope)
            exchange.announced(scope)
            await self.app(scope, exchange.receiving, exchange.sending)
        except EngineError as error:
            await response_to(error)(scope, receive, exchange.sending)
        except Exception as error:
            self.service.log(f"{scope['method']} {scope['path']}: {type(error).__name__}: {error}", "warning")
            if exchange.status:
                raise
            message = f"internal error: {type(error).__name__}: {error}"
            await response_to(HttpError(message, 500, code="internal_error"))(scope, receive, exchange.sending)
        finally:
            if self.service.requests:
                status = exchange.status or "closed"
                self.service.log(f"{scope['method']} {scope['path']} {status} {exchange.seconds:.3f} s", "note")

    async def _ready(self, scope: Scope) -> None:
        """Wait for the warm-up, which health checks do not."""
        workers = self.service.workers
        if scope["path"] in about.HEALTH:
            return
        while workers.alive and not workers.warm:
            await asyncio.sleep(PATIENCE)
        if not workers.alive:
            raise Stopping


@attrs.define(kw_only=True, eq=False)
class Exchange:
    """One request and its response: counts the bytes received, remembers the status sent."""

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
            Misuse: it does.
        """
        length = dict(scope["headers"]).get(b"content-length", b"0").lstrip(b"0") or b"0"
        self._count(int(length[:20]) if length.isdigit() else 0)
        self.received = 0

    async def receiving(self) -> Message:
        """Pass a message of the client on."""
        message = await self.receive()
        self._count(len(message.get("body", b"")))
        return message

    def _count(self, size: int) -> None:
        self.received += size
        if self.received > LIMIT:
            raise HttpError(f"the request is larger than {LIMIT // 2**20} MiB", 413, code="request_too_large")

    async def sending(self, message: Message) -> None:
        """Pass a message to the client on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)
