"""Stand-ins for the model: a hand that makes nothing, and the application in front of it."""

import threading
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
from starlette.testclient import TestClient

from pure import Decision, Info
from pure.configs import Facts
from pure.engine.errors import Misuse
from pure.engine.result import Result
from pure.notes import Note
from pure.serving.http.app import make_app
from pure.serving.http.service import Service
from pure.serving.storage import Storage
from pure.serving.worker import Worker, WorkerOptions
from pure.serving.workers import Workers

INFO = Info((Decision(0, True, "first step", None, 6),))


class Hand:
    """Makes nothing and keeps what it is asked; `acts` are done by name, in order, before that."""

    def __init__(self, steps: int = 2, mixes: bool = True, **acts: Any) -> None:
        self.did: list[Any] = []
        self.lost: Exception | None = None
        self._steps, self._mixes, self.acts = steps, mixes, {name: iter(each) for name, each in acts.items()}
        self.left: list[int] = []  # steps of every sample under way

    def _do(self, name: str, *args: Any) -> None:
        self.did.append((name, *args))
        act = next(self.acts.get(name, iter(())), None)
        if isinstance(act, Exception):
            if isinstance(act, RuntimeError):
                self.lost = act
            raise act
        if act is not None:
            act()

    def start(self, key: str, recipe: Any, samples: Any) -> bool:
        self._do("start", [sample.prompt for sample in samples])
        self.left = [self._steps] * len(samples)
        return self._mixes

    def admit(self, samples: Any) -> None:
        self._do("admit", [sample.prompt for sample in samples])
        self.left += [self._steps] * len(samples)

    def step(self) -> tuple[int, ...]:
        self._do("step")
        self.left = [each - 1 for each in self.left]
        return tuple(row for row, each in enumerate(self.left) if not each)

    def keep(self, rows: Any) -> None:
        self._do("keep", list(rows))
        self.left = [self.left[row] for row in rows]

    def finish(self, sample: Any, row: int) -> Result:
        self._do("finish", row)
        assert not self.left[row], "decoded after its last step"
        return Result(sample=sample, frames=np.zeros((1, 8, 8, 3), np.float32), infos=(INFO,), step_seconds=(0.5,))

    def warm_up(self, key: str, recipe: Any, prompt: str, count: int) -> None:
        self._do("warm_up", prompt, count)

    def dismiss(self) -> None:
        self._do("dismiss")


@attrs.frozen
class Asked:
    """The request of a recipe."""

    width: int
    height: int
    frames: int
    steps: int = 2
    memo: Any = attrs.field(factory=dict)
    images: Any = ()


@attrs.frozen(eq=False)
class Made:
    """A recipe."""

    order: Any
    caching: Any
    request: Asked
    fps: int | None
    notes: tuple[Note, ...] = (Note("of the recipe"), Note("of both"))
    denoiser: str = "cached"

    def batch(self, samples: Any) -> Any:
        return samples


@attrs.frozen(kw_only=True)
class Engine:
    """Makes a recipe of any order, of images or of videos."""

    video: bool
    image_count: tuple[int, int] = (0, 0)

    @property
    def pipeline(self) -> Any:
        return SimpleNamespace(image_count=self.image_count, notes=lambda samples: (Note("of both"), Note("of a run")))

    @property
    def checkpoint(self) -> Any:
        task, name = ("text-to-video", "WanPipeline") if self.video else ("text-to-image", "FluxPipeline")
        kind, family = SimpleNamespace(task=task, pipeline=name), SimpleNamespace(name="family")
        found = SimpleNamespace(kind=kind, family=family, defaults=SimpleNamespace(steps=7))
        return SimpleNamespace(
            found=found,
            video=self.video,
            name=name,
            facts=lambda steps: Facts(steps=steps or 7),
            check_pictures=self.check_pictures,
        )

    def check_pictures(self, count: int) -> None:
        if not self.image_count[0] <= count <= self.image_count[1]:
            raise Misuse(f"{count} pictures")

    def recipe(self, order: Any, caching: Any) -> Any:
        given = order.options
        if given.get("steps") == 13:
            raise Misuse("steps=13 is not possible")
        request = Asked(given.get("width", 64), given.get("height", 32), given.get("frames", 6))
        return Made(order, caching, request, (order.fps or 4) if self.video else None)


def sites(tmp_path, monkeypatch):
    """Open the application of a model of images or of videos; its worker ends with the test."""
    monkeypatch.setattr("pure.serving.storage.save", lambda path, frames, fps, quality: path.write_bytes(b"made"))
    opened: list[Worker] = []
    gate = threading.Event()

    def start(hand: Any = None, *, video: bool = False, keep: bool = True, counts: Any = (0, 0), run: bool = True,
              held: bool = False, uploads: Any = None, **more: Any) -> Any:  # fmt: skip
        """With `held` nothing is made before the gate is set."""
        engine: Any = Engine(video=video, image_count=counts)
        logged: list[Any] = []
        files = Storage(tmp_path if keep else None, uploads)
        hand = hand or Hand()
        if held:
            hand.acts["start"] = iter([lambda: gate.wait(20)])
        group = Workers(engine, files, WorkerOptions(), lambda text, kind: None, [hand])
        (worker,) = group.groups
        about: dict[str, Any] = {
            "names": ("one", "two"),
            "path": "a/model",
            "precision": "float32",
            "environ": {},
            **more,
        }
        made = Service(engine=engine, workers=group, files=files, log=lambda *line: logged.append(line), **about)
        opened.append(worker)
        if run:
            worker.start()
        client = TestClient(make_app(made), raise_server_exceptions=False)
        return SimpleNamespace(client=client, worker=worker, service=made, logged=logged, gate=gate)

    yield start
    gate.set()
    for worker in opened:
        worker.stop()


def post(at: Any, path: str = "/v1/images/generations", status: int = 200, **body: Any) -> Any:
    answer = at.client.post(path, json={"prompt": "a cat", **body})
    assert answer.status_code == status, answer.text
    return answer.json()
