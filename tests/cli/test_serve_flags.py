"""What `puredit serve` makes of its flags, without a model and a port."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from pure.cli import serve
from pure.cli.commands import serve as command
from pure.engine.errors import Misuse


def values(*words: str) -> dict[str, Any]:
    """The flags as parsed."""
    return command.make_context("serve", list(words)).params


@pytest.fixture
def served(monkeypatch, tmp_path, capsys):
    """Serve with these flags on an address; return what is served, for how long it is waited, and the line."""
    monkeypatch.chdir(tmp_path)
    engine = SimpleNamespace(pipeline=SimpleNamespace(dtype=torch.bfloat16, image_count=(0, 0)), recipe=Mock())
    found: list[Any] = []

    def call(*words: str, address: tuple[Any, ...] = ("127.0.0.1", 8000)):
        taken = MagicMock(getsockname=lambda: address)
        taken.__exit__.return_value = False
        monkeypatch.setattr("pure.serving.http.server.bind", lambda host, port: taken)
        monkeypatch.setattr("pure.serving.http.app.make_app", lambda service: service)
        monkeypatch.setattr("pure.serving.http.server.run", lambda app, worker, taken, wait: found.append((app, wait)))
        monkeypatch.setattr(serve, "open_engine", lambda *_: engine)
        serve.execute(values(*words))
        service, wait = found.pop()
        return service, wait, capsys.readouterr().out

    return call


def test_what_is_served_by_default(served):
    service, wait, line = served()
    assert service.names == ("embedded",) and (service.path, service.precision) == ("embedded", "bfloat16")
    assert (service.metrics, service.requests, service.origins, wait) == (False, False, (), 10.0)
    options = service.workers.groups[0].options
    assert (options.batch, options.delay, options.queued, options.first) == (1, 0.0, 1000, False)
    assert (len(options.warm_up), options.warm_steps) == (1, 1)
    assert line == "puredit serves embedded on http://127.0.0.1:8000\n"


def test_every_flag_of_the_server_arrives(served):
    words = (
        *("--served-model-name", "one", "--model-id", "two", "--enable-metrics", "--log-requests"),
        *("--allow-origin", "http://a", "--batching-max-size", "4", "--batching-delay-ms", "250"),
        *("--max-queued-requests", "7", "--warmup-mode", "request", "--warmup-steps", "3"),
        *("--http-graceful-shutdown-timeout", "2", "--cache-dit-config", "cache.yaml"),
    )
    service, wait, line = served(*words, address=("::1", 8000, 0, 0))
    assert service.names == ("one", "two", "embedded")
    assert (service.metrics, service.requests, service.origins, wait) == (True, True, ("http://a",), 2.0)
    options = service.workers.groups[0].options
    assert (options.batch, options.delay, options.queued, options.first) == (4, 0.25, 7, True)
    assert (options.warm_up, options.warm_steps) == ((), 3)
    assert service.about["batching_max_size"] == 4 and "model_path" not in service.about and service.about["started"]
    assert service.sources.file == "cache.yaml"
    assert line == "puredit serves one on http://[::1]:8000\n"


@pytest.mark.parametrize(("count", "pictures"), [((0, 3), 0), ((2, 3), 2)])
def test_warm_ups_are_requests_of_their_sizes(count, pictures):
    engine: Any = SimpleNamespace(pipeline=SimpleNamespace(image_count=count), recipe=lambda order, caching: order)
    caching: Any = None
    found = serve._options(values("--warmup-resolutions", "64x32", "96x48"), engine, caching)
    orders: list[Any] = list(found.warm_up)
    assert [(each.options["height"], each.options["width"]) for each in orders] == [(32, 64), (48, 96)]
    assert [[image.size for image in each.options["images"]] for each in orders] == [
        [(64, 32)] * pictures, [(96, 48)] * pictures
    ]  # fmt: skip
    with pytest.raises(Misuse, match="--warmup-resolutions sets the sizes of a warm-up, and there is none"):
        serve._options(values("--warmup-resolutions", "64x32", "--warmup-mode", "request"), engine, caching)
