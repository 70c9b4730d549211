"""`puredit serve`: the HTTP server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs

from pure.cli.cache_flags import default_sources, planned
from pure.cli.command import checkpoint_of, facts_of, read_size, warmup_mode
from pure.cli.interruption import abandon
from pure.cli.refusals import refuse
from pure.cli.screen import Screen, blank
from pure.cli.screen import screen as make_screen
from pure.configs import Facts, parallel
from pure.distributed.hosts import Hosts
from pure.distributed.mesh import Sizes
from pure.engine.caching import Caching, Sources, check_teacache
from pure.engine.checkpoint import Checkpoint
from pure.engine.engine import Engine, Order, Recipe, open_engine
from pure.engine.errors import Interrupted, Misuse
from pure.engine.extras import require
from pure.engine.hosts import agreeing, hosts_of
from pure.engine.maker import make_hands, take_orders
from pure.engine.ranks import check_shares, is_follower, notes_on, spread
from pure.engine.writing import check_folder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from pure.serving.storage import Storage
    from pure.serving.worker import WorkerOptions

__all__ = ["execute"]

GRACE = 15.0  # seconds beyond those of running requests that several processes have to end
BLANK = 512  # pixels on a side of the picture that warms up models which read one


@attrs.frozen(kw_only=True, eq=False)
class Serving:
    """A checked command: what to serve, and how.

    Attributes:
        values: of the flags.
        checkpoint: which one, and how it is loaded.
        sources: what flags and files set of the cache.
        caching: the cache of a request that sets nothing.
        facts: on the processes.
        files: where results and uploads go.
        taken: the port; None in processes that do not listen.
    """

    values: Mapping[str, Any]
    checkpoint: Checkpoint
    sources: Sources
    caching: Caching
    facts: Facts
    files: Storage
    taken: socket.socket | None


def execute(values: Mapping[str, Any]) -> None:
    """Load the model and serve it until the process is stopped.

    Raises:
        Misuse: a flag or the checkpoint is wrong; found before anything is loaded wherever possible.
        ConfigError: likewise, in the settings of the cache.
    """
    require("serve", "puredit serve")
    from pure.serving.http.server import bind

    refuse({**values, "warmup_mode": None})  # "server" is one of its modes
    checkpoint = checkpoint_of(values)
    hosts = hosts_of(values, os.environ)
    facts = facts_of(values, checkpoint, os.environ)
    sources = default_sources(planned(values, checkpoint))
    caching = Caching.of(sources.settle(os.environ, facts))  # of a request that sets nothing
    check_teacache(caching.effective, values.get("enable_teacache"), "--enable-teacache false")
    sizes = parallel(caching.effective).sizes
    check_shares(sizes, checkpoint.found)
    for size in map(read_size, values["warmup_resolutions"]):
        checkpoint.check_pixels(*size, None, flag="--warmup-resolutions")
    settings = {name: each["value"] for name, each in caching.settings.items()}
    files = _files(values)  # makes folders: only once nothing is wrong
    follows = is_follower(os.environ) or (hosts is not None and hosts.index > 0)
    taken = None if follows else bind(values["host"], values["port"])
    with taken or contextlib.nullcontext():
        serving = Serving(
            values=values,
            checkpoint=checkpoint,
            sources=sources,
            caching=caching,
            facts=facts,
            files=files,
            taken=taken,
        )
        if sizes.total == 1:
            lead(serving)
        else:
            _spread(serving, sizes, agreeing(hosts, values, checkpoint, **{"the settings of the cache": settings}))


def _spread(serving: Serving, sizes: Sizes, hosts: Hosts | None) -> None:
    """Serve from several processes. A request to terminate ends them orderly, Ctrl-C is an interruption."""
    terminated = []

    def note(number: int, frame: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, note)
    patience = serving.values["http_graceful_shutdown_timeout"] + GRACE
    timeout = serving.values["dist_timeout"]
    try:
        spread(serving, sizes, serving.checkpoint.found, lead, follow, os.environ, patience, hosts, timeout)
    finally:
        signal.signal(signal.SIGTERM, before)
    if not terminated and serving.taken is not None:
        raise Interrupted("interrupted; the server has stopped")


def lead(serving: Serving, mesh: DeviceMesh | None = None) -> None:
    """Load the model and listen; with a mesh as rank 0 of it."""
    from pure.serving.http.app import make_app
    from pure.serving.http.server import run
    from pure.serving.http.service import Service
    from pure.serving.workers import Workers

    values, taken = serving.values, serving.taken
    assert taken is not None, "rank 0 listens"
    screen = make_screen(values["log_level"] in ("warning", "error"))
    engine = _open(serving, screen, mesh)
    options = _options(values, engine, serving.caching)
    workers = Workers(engine, serving.files, options, screen.note, make_hands(engine, mesh))
    path = serving.checkpoint.path or "embedded"
    names = dict.fromkeys(name for name in (values["served_model_name"], values["model_id"], path) if name)
    service = Service(
        engine=engine,
        workers=workers,
        files=serving.files,
        sources=serving.sources,
        names=tuple(names),
        path=path,
        precision=str(engine.pipeline.dtype).removeprefix("torch."),
        about={"started": time.time(), **{k: v for k, v in values.items() if v not in (None, ())}},
        metrics=values["enable_metrics"],
        origins=values["allow_origin"],
        log=screen.note,
        requests=values["log_requests"],
        facts=serving.facts,
    )
    host, port = taken.getsockname()[:2]
    screen.line(f"puredit serves {service.names[0]} on http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        run(make_app(service), workers, taken, values["http_graceful_shutdown_timeout"])
    finally:
        if mesh is None and workers.busy:
            abandon()


def follow(serving: Serving, mesh: DeviceMesh) -> None:
    """Take part in what rank 0 orders: what the ranks after 0 do."""
    take_orders(_open(serving, blank(), mesh), mesh)


def _open(serving: Serving, screen: Screen, mesh: DeviceMesh | None) -> Engine:
    effective = serving.caching.effective
    shares = parallel(effective)
    for note in notes_on(shares.sizes, serving.facts.device):
        screen.note(note.text)
    return open_engine(serving.checkpoint, effective, screen.note, screen.waiting, shares, mesh)


def _files(values: Mapping[str, Any]) -> Storage:
    """Return the folders of results and uploads, which can be written into and are made by the first file.

    Raises:
        Failure: one cannot.
    """
    from pure.serving.storage import Storage

    folders = {}
    for name in ("output_path", "input_save_path"):
        folders[name] = Path(values[name]) if values[name] else None
        if folders[name] is not None:
            check_folder(folders[name], "--" + name.replace("_", "-"))
    return Storage(folders["output_path"], folders["input_save_path"])


def _options(values: Mapping[str, Any], engine: Engine, caching: Caching) -> WorkerOptions:
    """Return how the worker works, with the recipes to warm up with.

    Raises:
        Misuse: `--warmup` contradicts `--warmup-mode`, or a size is not possible.
    """
    from pure.serving.worker import WorkerOptions

    mode = warmup_mode(values) or "server"
    sizes = [read_size(text) for text in values["warmup_resolutions"]]
    if sizes and mode != "server":
        raise Misuse("--warmup-resolutions sets the sizes of a warm-up, and there is none; leave out --warmup-mode")
    recipes = [_warm(engine, caching, one) for one in sizes or [None]] if mode == "server" else []
    return WorkerOptions(
        batch=values["batching_max_size"],
        delay=values["batching_delay_ms"] / 1e3,
        warm_up=tuple(recipes),
        warm_steps=values["warmup_steps"],
        first=mode == "request",
        queued=values["max_queued_requests"],
    )


def _warm(engine: Engine, caching: Caching, sides: tuple[int, int] | None) -> Recipe:
    """Return a request as it will come, of the model's own size or of another."""
    from PIL import Image

    options: dict[str, Any] = {} if sides is None else dict(zip(("height", "width"), sides, strict=True))
    height, width = sides or (BLANK, BLANK)
    options["images"] = (Image.new("RGB", (width, height)),) * engine.pipeline.image_count[0]
    try:
        return engine.recipe(Order(options=options), caching)
    except Misuse as error:
        raise Misuse(f"the server cannot warm up: {error.message}; --warmup-mode off leaves it out") from error
