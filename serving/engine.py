"""The engine: one thread that owns the device, takes samples from the queue and makes them, batch by batch."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import attrs
import torch

from pure.engine import batch as batches
from pure.engine.batch import Batch
from pure.engine.errors import EngineError, Failure, Misuse, Stopping
from pure.engine.loaded import Recipe, Studio
from pure.engine.make import warm_up
from pure.engine.notes import collected
from pure.engine.report import finite, run_report
from pure.engine.result import Result
from pure.models.pipeline import Model
from pure.models.request import Request
from pure.serving.files import Files
from pure.serving.jobs import Entry, Job, Sample, Store
from pure.serving.metrics import Metrics
from pure.serving.queue import Queue

__all__ = ["Engine", "Settings"]

REMEMBERED = 16
"""Denoisers that are kept, so that an equal one of the next request compiles nothing again."""


@attrs.frozen(kw_only=True)
class Settings:
    """How the engine works.

    Attributes:
        batch: most samples taken together.
        delay: seconds a sample may wait for others of its kind.
        warm_up: recipes to warm up with before the first request.
        warm_steps: steps of a warm-up.
        first: whether the first request is preceded by a warm-up of its own recipe.
    """

    batch: int = 1
    delay: float = 0.0
    warm_up: tuple[Recipe, ...] = ()
    warm_steps: int = 1
    first: bool = False


@attrs.frozen(kw_only=True, eq=False)
class Timed:
    """A sample's times: when it began, seconds of encoding, seconds of its steps."""

    encode: float
    laps: tuple[float, ...] = ()


class Engine:
    """Owns the thread. Handlers submit jobs and wait for their futures; nothing else crosses over."""

    def __init__(
        self,
        studio: Studio,
        files: Files,
        settings: Settings = Settings(),
        log: Callable[[str, str], None] = lambda text, kind: None,
    ) -> None:
        self.studio, self.settings, self.metrics = studio, settings, Metrics()
        self.jobs, self.queue = Store(self._over), Queue()
        self.ready = threading.Event()
        self._files, self._log = files, log
        self._stopping = threading.Event()
        self._denoisers: list[Model] = []
        self._times: dict[Sample, Timed] = {}
        self._cold = settings.first
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # ------------------------------------------------------------------ what handlers call

    def start(self) -> None:
        """Start the thread: warm up, then take samples."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes requests."""
        return self._thread.is_alive() and not self._stopping.is_set()

    @property
    def running(self) -> int:
        """How many samples are under way."""
        return len(self._times)

    def submit(self, job: Job) -> Future[Entry]:
        """Queue a job; the future has its entry once it is over.

        Raises:
            Stopping: nothing is taken any more.
        """
        future = self.jobs.add(job)
        if not self.queue.put(job.samples):
            self.jobs.forget(job.id)
            raise Stopping()
        return future

    def cancel(self, id: str) -> None:
        """Stop work for a job: at once if it waits, after the step under way if it runs."""
        self.jobs.cancel(id)
        self.queue.drop(id)

    def drain(self) -> None:
        """Take nothing any more and refuse what waits; what runs goes on."""
        for sample in self.queue.close():
            self.jobs.fail(sample.job.id, Stopping())

    def halt(self) -> None:
        """Drain, and refuse what runs too: its waiters learn it at once, the thread after its step."""
        self._stopping.set()
        self.drain()
        for entry in (*self.jobs.all("image"), *self.jobs.all("video")):
            self.jobs.fail(entry.job.id, Stopping())

    def stop(self, patience: float = 60.0) -> None:
        """Halt, and wait for the thread to end."""
        self.halt()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _over(self, entry: Entry) -> None:
        """Count a job that is over; of one that was not completed no file stays."""
        self.metrics.over(entry)
        if entry.status != "completed":
            self._files.remove(entry.outputs.values())

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        for recipe in self.settings.warm_up:
            self._warm(recipe)
        self.ready.set()
        while samples := self.queue.take(self.settings.batch, self.settings.delay):
            waiting = [samples]
            while waiting:
                self._attempt(waiting.pop(0), waiting)

    def _warm(self, recipe: Recipe) -> None:
        """Take the first steps of such a run; a server that cannot is a slow first request, not a dead server."""
        began = time.perf_counter()
        try:
            request = attrs.evolve(recipe.request, prompts=("a warm-up",))
            warm_up(self.studio.pipeline, self._same(recipe.denoiser), request, self.settings.warm_steps)
            self._log(f"warmed up in {time.perf_counter() - began:.1f} s", "note")
        except Exception as error:
            self._log(f"the warm-up failed: {error}", "warning")

    def _attempt(self, samples: list[Sample], waiting: list[list[Sample]]) -> None:
        """Make samples; whatever goes wrong ends their jobs, not the thread.

        What has to be made separately is put into `waiting` at once, so that it is not lost if a step fails.
        """
        try:
            self._make(samples, waiting)
        except Exception as error:
            affected = {*samples, *self._times}
            self._times.clear()
            self._failed(affected, error)
        finally:
            self._times.clear()

    def _failed(self, samples: Iterable[Sample], error: Exception) -> None:
        self._log(f"{error}\n{traceback.format_exc()}", "warning")
        message = error.message if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        for sample in samples:
            self.jobs.fail(sample.job.id, Failure(f"the work failed: {message}", code="generation_failed"))

    def _make(self, samples: list[Sample], waiting: list[list[Sample]]) -> None:
        recipe = samples[0].job.recipe
        if self._cold:
            self._cold = False
            self._warm(recipe)
        batch, apart = self._begin(recipe, samples)
        waiting += apart
        while batch is not None:
            batch = self._without_unwanted(batch)
            if batch is None or self._stopping.is_set():
                break
            batch, late = self._with_newcomers(batch, recipe)
            waiting += late
            batch = self._finish(self._step(batch))

    def _begin(self, recipe: Recipe, samples: Sequence[Sample]) -> tuple[Batch | None, list[list[Sample]]]:
        """Start a batch; where prompts do not fit into one, start the first and return the others."""
        wanted = [sample for sample in samples if self.jobs.wanted(sample.job.id)]
        if not wanted:
            return None, []
        began = time.perf_counter()
        try:
            with collected() as warned:
                batch = batches.begin(self.studio.pipeline, recipe.request, self._same(recipe.denoiser), wanted)
        except (ValueError, TypeError) as error:
            if len(wanted) > 1:
                return None, [[sample] for sample in wanted]
            self.jobs.fail(wanted[0].job.id, Misuse(str(error)))
            return None, []
        seconds = self._lap(began)
        for sample in wanted:
            others = {repr(one.job.prompt) for one in wanted} - {repr(sample.job.prompt)}
            # A warning that quotes another prompt is not about this one.
            self.jobs.begin(sample.job.id, [text for text in warned if not any(one in text for one in others)])
            self._times[sample] = Timed(encode=seconds)
        return batch, []

    def _without_unwanted(self, batch: Batch) -> Batch | None:
        """Drop the samples of cancelled jobs."""
        slots = [i for i, member in enumerate(batch.members) if self.jobs.wanted(member.sample.job.id)]
        for member in batch.members:
            if not self.jobs.wanted(member.sample.job.id):
                self._times.pop(member.sample, None)
        if len(slots) == len(batch.members):
            return batch
        return batches.stay(batch, slots) if slots else None

    def _with_newcomers(self, batch: Batch, recipe: Recipe) -> tuple[Batch, list[list[Sample]]]:
        """Let samples that wait join between steps; return those that fit the recipe and not the batch."""
        room = self.settings.batch - len(batch.members)
        if room < 1 or not batches.mixes(batch.denoiser) or not (new := self.queue.more(recipe, room)):
            return batch, []
        other, apart = self._begin(recipe, new)
        if other is None:
            return batch, apart
        try:
            return batches.joined(batch, other), apart
        except ValueError:  # prompts of another length: they are encoded once more, later
            for member in other.members:
                self._times.pop(member.sample, None)
            return batch, [*apart, [member.sample for member in other.members]]

    def _step(self, batch: Batch) -> Batch:
        began = time.perf_counter()
        batch = batches.taken(self.studio.pipeline, batch)
        seconds = self._lap(began)
        self.metrics.add("puredit_batches_total", samples=str(len(batch.members)))
        for member in batch.members:
            times = self._times[member.sample]
            self._times[member.sample] = attrs.evolve(times, laps=(*times.laps, seconds))
            self.jobs.step(member.sample.job.id)
        return batch

    def _finish(self, batch: Batch) -> Batch | None:
        """Decode and hand over the samples that took their last step; return the others."""
        done = [i for i, member in enumerate(batch.members) if member.place == len(batch.steps)]
        if not done:
            return batch
        latents = self.studio.pipeline.solver.latents(batch.carry)
        for slot in done:
            try:
                self._hand_over(batch.members[slot], latents[slot : slot + 1])
            except Exception as error:  # a full disk, for instance; the others go on
                self._times.pop(batch.members[slot].sample, None)
                self._failed([batch.members[slot].sample], error)
        staying = [i for i in range(len(batch.members)) if i not in done]
        return batches.stay(batch, staying) if staying else None

    def _hand_over(self, member: batches.Member, latents: torch.Tensor) -> None:
        """Decode one sample and put it where its job wants it."""
        result = self._decoded(member.sample.job.recipe.request, latents, member)
        report = finite({"seed": member.sample.seed, **run_report(result)})
        # A job's own frames per second: samples of one batch may differ in them.
        output = self._files.put(member.sample, result.frames, member.sample.job.recipe.fps, report)
        self._times.pop(member.sample)
        if not self.jobs.finish(member.sample, output):
            self._files.remove([output])

    def _decoded(self, request: Request, latents: torch.Tensor, member: batches.Member) -> Result:
        """Decode one sample alone, whatever batch it was in."""
        began, pipeline = time.perf_counter(), self.studio.pipeline
        with torch.no_grad():
            pixels = pipeline.decoded(pipeline.finished(latents, request), request)[0]
        frames = pixels if pixels.ndim == 4 else pixels[None]
        shown = frames.permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()
        times = self._times[member.sample]
        return Result(
            frames=shown,
            infos=member.infos,
            step_seconds=times.laps,
            encode_seconds=times.encode,
            decode_seconds=self._lap(began),
        )

    def _same(self, denoiser: Model) -> Model:
        """Return an equal denoiser that was used before, which may be compiled already; else this one, remembered."""
        for known in self._denoisers:
            if known == denoiser:
                return known
        self._denoisers = [*self._denoisers[1 - REMEMBERED :], denoiser]
        return denoiser

    def _lap(self, began: float) -> float:
        """Return the seconds since `began`, once the device has finished."""
        if self.studio.pipeline.device.type == "cuda":
            torch.cuda.synchronize(self.studio.pipeline.device)
        return time.perf_counter() - began
