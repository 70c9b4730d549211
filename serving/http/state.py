"""What all routes share: the engine, the settings of the server, and waiting for a job while its client does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from fastapi import Request

from pure.engine.errors import Misuse, Stopping
from pure.engine.loaded import Asked, Recipe, Studio
from pure.engine.report import peak_memory
from pure.models import Picture
from pure.serving.engine import Engine
from pure.serving.files import Files
from pure.serving.http.asking import field_of
from pure.serving.http.bodies import Upload
from pure.serving.http.errors import HttpError
from pure.serving.http.pictures import SUFFIXES, opened
from pure.serving.jobs import Entry, Job

__all__ = ["State", "memory", "state_of"]

PIXELS = 2**24
"""Most pixels of an image or a frame: 4096x4096."""


@attrs.frozen(kw_only=True, eq=False)
class State:
    """What the routes work with.

    Attributes:
        studio: model and settings.
        engine: does the work.
        files: where files are.
        names: of the model; responses show the first, requests may give any.
        path: of the model, as it was given.
        precision: of the model, as a word.
        about: the server's flags, for `/server_info`.
        metrics: whether `/metrics` is there.
        origins: origins whose pages may read responses.
        log: writes a line, a "note" or a "warning".
        requests: whether every request is logged.
        environ: read when a request starts.
    """

    studio: Studio
    engine: Engine
    files: Files
    names: tuple[str, ...]
    path: str
    precision: str
    about: Mapping[str, Any] = attrs.field(factory=dict)
    metrics: bool = False
    origins: tuple[str, ...] = ()
    log: Callable[[str, str], None] = lambda text, kind: None
    requests: bool = False
    environ: Mapping[str, str] = attrs.field(factory=lambda: os.environ)

    async def recipe(self, asked: Asked, model: str | None) -> Recipe:
        """Check a request against model and configuration, away from the event loop.

        Raises:
            Misuse: it is wrong; nothing has been done.
        """
        try:
            recipe = await asyncio.to_thread(self.studio.recipe, asked, self.environ)
        except Misuse as error:
            raise error if error.field else Misuse(error.message, field=field_of(error.message)) from error
        _bounded(recipe)
        if model in (None, *self.names):
            return recipe
        note = f"the request names the model {model[:80]!r}; this server has only {self.names[0]!r}, which was used"
        return attrs.evolve(recipe, notes=(*recipe.notes, note))

    async def pictures(self, sent: Sequence[Upload]) -> list[Picture]:
        """Open the input pictures, away from the event loop and only if the model takes so many.

        Raises:
            Misuse: there are too many or too few, or one cannot be read.
        """
        self.studio.check_pictures(len(sent))
        return await asyncio.to_thread(lambda: [opened(one) for one in sent])

    async def keep(self, job: Job, pictures: Sequence[Picture], sent: Sequence[Upload]) -> None:
        """Write the files of a job's input pictures, if the server keeps them."""
        for number, (picture, upload) in enumerate(zip(pictures, sent, strict=True)):
            name = f"{job.id}-{number}{SUFFIXES[picture.format]}"
            await asyncio.to_thread(self.files.keep, name, upload.content)

    async def done(self, request: Request, job: Job) -> Entry:
        """Submit a job and wait for it; cancel it if the client goes away.

        Raises:
            EngineError: it failed, the client left, or the server stops.
        """
        future = asyncio.wrap_future(self.engine.submit(job))
        leaving = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({future, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not future.done():
                self.engine.cancel(job.id)
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


def state_of(request: Request) -> State:
    """Return the state of the application that answers a request."""
    return request.app.state.puredit


def memory() -> float:
    """Return the most memory used so far in MB, on the GPU if there is one."""
    found = peak_memory()
    return found.get("gpu_mb", found["process_mb"])
