"""Servers that real clients talk to: `puredit serve` in a process of its own, or the application in a thread."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import httpx2
import uvicorn

from pure.serving.http import server as ours

ROOT = Path(__file__).resolve().parents[2]


@attrs.define(eq=False)
class Server:
    """A server that runs: its process, its folder, and what it said."""

    process: subprocess.Popen
    folder: Path
    said: list[str]
    url: str = ""
    listener: threading.Thread = attrs.field(factory=threading.Thread)

    @classmethod
    def start(cls, model, words, environ, folder):
        """Start a server on a free port."""
        env = {name: text for name, text in os.environ.items() if not name.startswith("SGLANG_")}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environ}
        command = [sys.executable, "-m", "pure.cli.main", "serve", str(model), "--port", "0", *map(str, words)]
        process = subprocess.Popen(
            command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        server = cls(process, folder, [])
        server.listener = threading.Thread(target=server._listen, daemon=True)
        server.listener.start()
        return server

    def _listen(self):
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())

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
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            self.listener.join(10)
            if self.process.stdout is not None:
                self.process.stdout.close()


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
