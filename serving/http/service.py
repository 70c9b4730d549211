"""What all routes share: the engine, the settings of the server, and waiting for a job while its client does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import attrs
from fastapi import Request

from pure.configs import ConfigError, Facts
from pure.engine.caching import OVERRIDE, Caching, Sources, check_teacache
from pure.engine.engine import Engine, Order, Recipe
from pure.engine.errors import Misuse, Stopping
from pure.engine.report import peak_memory
from pure.models import Picture
from pure.notes import Note
from pure.serving.http.asking import field_of, order_of
from pure.serving.http.bodies import Upload
from pure.serving.http.errors import HttpError
from pure.serving.http.pictures import SUFFIXES, opened
from pure.serving.jobs import Job, JobEntry
from pure.serving.storage import Storage
from pure.serving.workers import Workers

__all__ = ["Service", "memory", "service_of"]

PIXELS = 2**24
"""Most pixels of an image or a frame: 4096x4096."""


@attrs.frozen(kw_only=True, eq=False)
class Service:
    """What the routes work with.

    Attributes:
        engine: the loaded model.
        workers: do the work.
        files: where files are.
        sources: what the server's flags and file set of the cache.
        names: of the model; responses show the first, requests may give any.
        path: of the model, as it was given.
        precision: of the model, as a word.
        about: the server's flags, for `/server_info`.
        metrics: whether `/metrics` is there.
        origins: origins whose pages may read responses.
        log: writes a line, a "note" or a "warning".
        requests: whether every request is logged.
        environ: read when a request starts.
        facts: on the processes; None: there is one.
    """

    engine: Engine
    workers: Workers
    files: Storage
    sources: Sources = attrs.field(factory=Sources)
    names: tuple[str, ...]
    path: str
    precision: str
    about: Mapping[str, Any] = attrs.field(factory=dict)
    metrics: bool = False
    origins: tuple[str, ...] = ()
    log: Callable[[str, str], None] = lambda text, kind: None
    requests: bool = False
    environ: Mapping[str, str] = attrs.field(factory=lambda: os.environ)
    facts: Facts | None = None

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return 1 if self.facts is None else self.facts.processes * self.facts.groups

    def recipe(
        self, order: Order, params: Any = None, enable: bool | None = None, attention: str | None = None
    ) -> Recipe:
        """Check an order against configuration and model.

        Args:
            order: what to make.
            params: `cache_dit_params`.
            enable: `enable_cache_dit`.
            attention: `attention_backend_override`.

        Raises:
            Misuse: something in it is wrong or cannot be done; with the whole report.
        """
        facts = self.engine.checkpoint.facts(order.options.get("steps"))
        if self.facts is not None:
            facts = attrs.evolve(self.facts, steps=facts.steps)
        try:
            caching = Caching.of(self.sources.settle(self.environ, facts, params, enable, attention))
        except ConfigError as error:
            if f"flag {OVERRIDE}" in str(error):
                raise Misuse(str(error).replace(f"flag {OVERRIDE}", OVERRIDE), field=OVERRIDE) from error
            raise Misuse(str(error), field="cache_dit_params", code="invalid_cache_config") from error
        return self.engine.recipe(order, caching)

    async def checked(self, fields: Mapping[str, Any], pictures: Sequence[Picture]) -> Recipe:
        """Check the fields of a request, away from the event loop.

        Raises:
            Misuse: they are wrong; nothing has been done.
        """
        settings = (fields.get(name) for name in ("cache_dit_params", "enable_cache_dit", OVERRIDE))
        model = fields.get("model")
        try:
            recipe = await asyncio.to_thread(self.recipe, order_of(fields, pictures), *settings)
        except Misuse as error:
            raise error if error.field else Misuse(error.message, field=field_of(error.message)) from error
        check_teacache(recipe.caching.effective, fields.get("enable_teacache"), "enable_teacache: false")
        _bounded(recipe)
        if model in (None, *self.names):
            return recipe
        note = f"the request names the model {model[:80]!r}; this server has only {self.names[0]!r}, which was used"
        return attrs.evolve(recipe, notes=(*recipe.notes, Note(note)))

    async def pictures(self, sent: Sequence[Upload]) -> list[Picture]:
        """Open the input pictures, away from the event loop and only if the model takes so many.

        Raises:
            Misuse: there are too many or too few, or one cannot be read.
        """
        self.engine.checkpoint.check_pictures(len(sent))
        return await asyncio.to_thread(lambda: [opened(one) for one in sent])

    async def submit(self, job: Job, pictures: Sequence[Picture], sent: Sequence[Upload]) -> Future[JobEntry]:
        """Queue a job, and write the files of its input pictures if the server keeps them.

        Raises:
            EngineError: it is not taken, or a file cannot be written; nothing of it is left.
        """
        future = self.workers.submit(job)
        names = [f"{job.id}-{number}{SUFFIXES[picture.format]}" for number, picture in enumerate(pictures)]
        try:
            for name, upload in zip(names, sent, strict=True):
                await asyncio.to_thread(self.files.keep, name, upload.content)
        except BaseException:  # a client that is gone, too
            self.discard(job.id)
            self.files.drop(names)
            raise
        return future

    def discard(self, id: str) -> None:
        """Stop work for a job, and delete its files and its entry."""
        self.workers.cancel(id)
        entry = self.workers.jobs.forget(id)
        if entry is not None:
            self.files.remove(entry.artifacts.values())

    async def done(self, request: Request, job: Job, accepted: Future[JobEntry]) -> JobEntry:
        """Wait for a job that was accepted; cancel it if the client goes away.

        Raises:
            EngineError: it failed, the client left, or the server stops.
        """
        future = asyncio.wrap_future(accepted)
        leaving = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({future, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not future.done():
                self.workers.cancel(job.id)
        if not future.done():
            raise HttpError("the client closed the connection", 499, code="client_closed_request")
        entry = future.result()
        if entry.error is not None:
            raise entry.error
        if entry.status != "completed":
            raise Stopping()
        return entry


def _bounded(recipe: Recipe) -> None:
    """Check that an image or a frame has not too many pixels; the library limits the latents.

    Raises:
        Misuse: it has.
    """
    width, height = recipe.request.width, recipe.request.height
    if width * height > PIXELS:
        raise Misuse(
            f"size: {width}x{height} is {width * height} pixels; allowed: at most {PIXELS} (4096x4096)", field="size"
        )


async def _gone(request: Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def service_of(request: Request) -> Service:
    """Return the service of the application that answers a request."""
    return request.app.state.puredit


def memory() -> float:
    """Return the most memory used so far in MB, on the GPU if there is one."""
    found = peak_memory()
    return found.get("gpu_mb", found["process_mb"])
