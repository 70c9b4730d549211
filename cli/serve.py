"""`puredit serve`: the HTTP server."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pure.cli.cache_flags import FLAGS as CACHE_FLAGS
from pure.cli.job import read_size, warmup_mode
from pure.cli.screen import Screen
from pure.cli.screen import screen as make_screen
from pure.cli.serve_options import refuse_for_server
from pure.configs import ConfigError, Effective, read_request
from pure.engine import opening as models
from pure.engine.errors import Misuse
from pure.engine.opening import base_of, open_pipeline
from pure.engine.quantizing import quantised
from pure.engine.writing import check_folder

if TYPE_CHECKING:
    from pure.engine.loaded import Recipe, Sources, Studio
    from pure.models.family import Description
    from pure.serving.engine import Settings
    from pure.serving.files import Files

__all__ = ["execute"]

NEEDED = ("fastapi", "uvicorn", "python_multipart")
BLANK = 512  # pixels on a side of the picture that warms up models which read one


def execute(values: Mapping[str, Any]) -> None:
    """Load the model and serve it until the process is stopped.

    Raises:
        Misuse: a flag or the checkpoint is wrong; found before anything is loaded wherever possible.
    """
    _require_extra()
    from pure.serving.engine import Engine
    from pure.serving.http.app import make_app
    from pure.serving.http.server import bind, run
    from pure.serving.http.state import State

    refuse_for_server(values)
    found = models.look(values["model_path"])
    sources = _sources(values)
    usual = _usual(sources, found)
    files = _files(values)  # makes folders: only once nothing is wrong
    taken = bind(values["host"], values["port"])
    screen = make_screen(values["log_level"] in ("warning", "error"))
    with taken:
        studio = _studio(values, found, sources, usual, screen)
        settings = _settings(values, studio)
        engine = Engine(studio, files, settings, screen.note)
        path = values["model_path"] or "embedded"
        names = dict.fromkeys(name for name in (values["served_model_name"], values["model_id"], path) if name)
        state = State(
            studio=studio,
            engine=engine,
            files=files,
            names=tuple(names),
            path=path,
            precision=str(studio.pipeline.dtype).removeprefix("torch."),
            about={"started": time.time(), **{k: v for k, v in values.items() if v not in (None, ())}},
            metrics=values["enable_metrics"],
            origins=values["allow_origin"],
            log=screen.note,
            requests=values["log_requests"],
        )
        host, port = taken.getsockname()[:2]
        screen.line(f"puredit serves {state.names[0]} on http://{f'[{host}]' if ':' in host else host}:{port}")
        run(make_app(state), engine, taken, values["http_graceful_shutdown_timeout"])


def _require_extra() -> None:
    """Check that the libraries of the server are there.

    Raises:
        Misuse: they are not; the message says how to install them.
    """
    try:
        for name in NEEDED:
            importlib.import_module(name)
    except ImportError as error:
        raise Misuse(f"puredit serve needs FastAPI and uvicorn ({error}); pip install 'puredit[serve]'") from error


def _sources(values: Mapping[str, Any]) -> Sources:
    """Return what the server's flags say of the cache.

    Raises:
        Misuse: `--cache-dit-params` is wrong; with the whole report.
    """
    from pure.engine.loaded import Sources

    try:
        params = read_request(values["cache_dit_params"], place="flag --cache-dit-params").settings
    except ConfigError as error:
        raise Misuse(str(error)) from error
    flags = {path: setting.value for path, setting in params.items()}
    spelling = dict.fromkeys(flags, "--cache-dit-params")
    for path, name in CACHE_FLAGS.items():
        if values.get(name) is not None:
            flags[path], spelling[path] = values[name], "--" + name.replace("_", "-")
    file = values["cache_dit_config"]
    return Sources(flags=flags, spelling=spelling, file=file, lenient=values["lenient_config"])


def _usual(sources: Sources, found: Description) -> Effective:
    """Return the configuration of a request that says nothing, so that a wrong one is found before any request.

    Raises:
        Misuse: something is; with the whole report.
    """
    try:
        return sources.choose(None, None, os.environ, models.facts_of(found, None)).effective
    except ConfigError as error:
        raise Misuse(str(error)) from error


def _files(values: Mapping[str, Any]) -> Files:
    """Return the folders of results and uploads, which are made and can be written into.

    Raises:
        Failure: one cannot.
    """
    from pure.serving.files import Files

    folders = {}
    for name in ("output_path", "input_save_path"):
        folders[name] = Path(values[name]) if values[name] else None
        if folders[name] is not None:
            check_folder(folders[name], "--" + name.replace("_", "-"))
    return Files(folders["output_path"], folders["input_save_path"])


def _studio(
    values: Mapping[str, Any], found: Description, sources: Sources, usual: Effective, screen: Screen
) -> Studio:
    """Load the checkpoint; what is said of quantisation holds for all requests.

    Raises:
        Misuse: it cannot be loaded.
    """
    from pure.engine.loaded import Studio

    opened = open_pipeline(values["model_path"], values["dit_precision"], screen.waiting, values["variant"])
    pipeline = quantised(opened, usual, screen.note)
    base = base_of(pipeline, values["enable_torch_compile"])
    return Studio(pipeline=pipeline, base=base, found=found, sources=sources)


def _settings(values: Mapping[str, Any], studio: Studio) -> Settings:
    """Return how the engine works, with the recipes to warm up with.

    Raises:
        Misuse: `--warmup` contradicts `--warmup-mode`, or a size is not possible.
    """
    from pure.serving.engine import Settings

    mode = warmup_mode(values) or "server"
    sizes = [read_size(text) for text in values["warmup_resolutions"]]
    if sizes and mode != "server":
        raise Misuse("--warmup-resolutions says how to warm up, and nothing does; leave out --warmup-mode")
    recipes = [_warm(studio, one) for one in sizes or [None]] if mode == "server" else []
    return Settings(
        batch=values["batching_max_size"],
        delay=values["batching_delay_ms"] / 1e3,
        warm_up=tuple(recipes),
        warm_steps=values["warmup_steps"],
        first=mode == "request",
    )


def _warm(studio: Studio, sides: tuple[int, int] | None) -> Recipe:
    """Return a request as it will come, of the model's own size or of another."""
    from PIL import Image

    from pure.engine.loaded import Asked

    options: dict[str, Any] = {} if sides is None else dict(zip(("height", "width"), sides, strict=True))
    height, width = sides or (BLANK, BLANK)
    images = (Image.new("RGB", (width, height)),) * studio.pictures[0]
    try:
        return studio.recipe(Asked(options=options, images=images), os.environ)
    except Misuse as error:
        raise Misuse(f"the server cannot warm up: {error.message}; --warmup-mode off leaves it out") from error
