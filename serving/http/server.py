"""The process: a port, an event loop in front of the workers, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pure.engine.errors import Failure, Interrupted, Misuse
from pure.serving.workers import Workers

__all__ = ["bind", "run"]

LAST = 5.0  # seconds that a step has to end once what runs was broken off; a step cannot be


def bind(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded; port 0 takes a free one.

    Raises:
        Failure: something listens there already, or one may not.
        Misuse: there is no such host.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise Misuse(
            f"--host {host} is unknown: {error}; 127.0.0.1 is this machine, 0.0.0.0 all its addresses"
        ) from error
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(2048)
    except OSError as error:
        taken.close()
        raise Failure(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port (0 takes a free "
            "one), or stop what listens there"
        ) from error
    return taken


class Server(uvicorn.Server):
    """Uvicorn's server, which stops the workers first when it shuts down, and shuts down where one of them is lost."""

    def __init__(self, config: uvicorn.Config, workers: Workers, patience: float) -> None:
        super().__init__(config)
        self.workers, self.patience = workers, patience

    async def on_tick(self, counter: int) -> bool:
        """Return whether to shut down, several times a second."""
        return await super().on_tick(counter) or self.workers.lost is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what waits, let what runs finish for a while, then break it off."""
        self.workers.drain()
        ending = asyncio.create_task(self._end())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end(self) -> None:
        await asyncio.sleep(self.patience)
        self.workers.halt()


def run(app: FastAPI, workers: Workers, taken: socket.socket, patience: float) -> None:
    """Serve until a signal comes: SIGTERM ends the server orderly, Ctrl-C is an interruption.

    Args:
        app: from `make_app`.
        workers: not started yet.
        taken: from `bind`.
        patience: seconds that running requests have to finish.

    Raises:
        Interrupted: Ctrl-C.
        Failure: a group of processes does not work together any more.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(patience) + 5,
    )
    server = Server(config, workers, patience)
    with _signals(server) as caught:
        workers.start()
        try:
            server.run(sockets=[taken])
        finally:
            workers.stop(LAST)
    if workers.lost is not None:
        raise Failure(f"the server has stopped: {workers.lost}") from workers.lost
    if signal.SIGINT in caught:
        raise Interrupted("interrupted; the server has stopped")


@contextlib.contextmanager
def _signals(server: uvicorn.Server) -> Iterator[list[int]]:
    """Note the signals that come before uvicorn listens to them, and those it hands back at its end."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        server.should_exit = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
