"""Servers that real clients talk to: `puredit serve` in a process of its own, or the application in a thread."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import attrs
import httpx2
import uvicorn

from pure.serving.http import server as ours
from tests.support.forked import Command, start


@attrs.define(eq=False)
class Server:
    """A server that runs: its process and its folder."""

    process: Command
    folder: Path
    url: str = ""

    @classmethod
    def start(cls, model, words, environ, folder):
        """Start a server on a free port."""
        env = {name: text for name, text in os.environ.items() if not name.startswith("SGLANG_")}
        started = start(["serve", str(model), "--port", "0", *map(str, words)], folder, environ={**env, **environ})
        return cls(started, folder)

    @property
    def said(self):
        """The lines that it printed."""
        return [*self.process.out.read_text().splitlines(), *self.process.err.read_text().splitlines()]

    def ready(self, limit=240.0):
        """Wait until it is healthy; return itself."""
        until = time.monotonic() + limit
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(r"puredit serves .* on (http://\S+)", "\n".join(self.said))
            if found:
                self.url = found.group(1)
                if httpx2.get(f"{self.url}/health").status_code == 200:
                    return self
            time.sleep(0.05)
        raise AssertionError("the server did not start:\n" + "\n".join(self.said))

    def get(self, path, **options):
        return httpx2.get(self.url + path, timeout=60, **options)

    def until(self, wanted, limit=20.0):
        """Wait until the statistics are as wanted."""
        until = time.monotonic() + limit
        while not wanted(found := self.get("/stats").json()):
            assert time.monotonic() < until, found
            time.sleep(0.02)

    def end(self, number=signal.SIGTERM):
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        try:
            return self.process.wait()
        finally:
            self.process.process.kill()
            self.process.process.join()


@attrs.define(eq=False)
class Threaded:
    """An application on a port of its own, served by a thread of this process."""

    url: str
    server: ours.Server
    thread: threading.Thread

    @classmethod
    def start(cls, app, engine):
        taken = ours.bind("127.0.0.1", 0)
        config = uvicorn.Config(app, log_config=None, lifespan="off")
        server = ours.Server(config, engine, patience=0.1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        return cls(f"http://127.0.0.1:{taken.getsockname()[1]}", server, thread)

    def end(self):
        self.server.should_exit = True
        self.thread.join(30)
