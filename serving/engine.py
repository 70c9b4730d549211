"""The engine: one thread that owns the device, takes samples from the queue and makes them, batch by batch."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import attrs
import torch

from pure.engine.errors import EngineError, Failure, Misuse, Stopping
from pure.engine.loaded import Recipe, Studio
from pure.engine.make import decode, warm_up
from pure.engine.report import finite, run_report
from pure.engine.result import Result
from pure.models import NotFiniteError
from pure.models import batch as batches
from pure.models.pipeline import Model
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

    @torch.no_grad()
    def _work(self) -> None:
        for recipe in self.settings.warm_up:
            self._warm(recipe)
        self.ready.set()
        while samples := self.queue.take(self.settings.batch, self.settings.delay):
            waiting = [samples]
            while waiting:
                waiting += self._attempt(waiting.pop(0))

    def _warm(self, recipe: Recipe) -> None:
        """Take the first steps of such a run; a server that cannot is a slow first request, not a dead server."""
        began = time.perf_counter()
        try:
            request = attrs.evolve(recipe.request, prompts=("a warm-up",))
            warm_up(self.studio.pipeline, self._same(recipe.denoiser), request, self.settings.warm_steps)
            self._log(f"warmed up in {time.perf_counter() - began:.1f} s", "note")
        except Exception as error:
            self._log(f"the warm-up failed: {error}", "warning")

    def _attempt(self, samples: list[Sample]) -> list[list[Sample]]:
        """Make samples; whatever goes wrong ends their jobs, not the thread. Return what has to be made separately."""
        taken, apart = list(samples), []  # what left the queue, and what of it waits for a batch of its own
        try:
            self._make(taken, apart)
        except Exception as error:
            waiting = {sample for group in apart for sample in group}
            self._times.clear()
            self._failed([sample for sample in taken if sample not in waiting], error)
        finally:
            self._times.clear()
        return apart

    def _failed(self, samples: Iterable[Sample], error: Exception) -> None:
        self._log(f"{error}\n{traceback.format_exc()}", "warning")
        said = error.message if isinstance(error, EngineError) else str(error)
        message = said if isinstance(error, EngineError | NotFiniteError) else f"{type(error).__name__}: {said}"
        for sample in samples:
            self.jobs.fail(sample.job.id, Failure(f"the work failed: {message}", code="generation_failed"))

    def _make(self, taken: list[Sample], apart: list[list[Sample]]) -> None:
        """Make samples of one recipe; add to `taken` those that join, and to `apart` those that need another batch."""
        recipe = taken[0].job.recipe
        if self._cold:
            self._cold = False
            self._warm(recipe)
        batch = self._begin(recipe, list(taken), apart)
        while batch is not None:
            batch = self._without_unwanted(batch)
            if batch is None or self._stopping.is_set():
                break
            batch = self._finish(self._step(self._with_newcomers(batch, recipe, taken, apart)))

    def _begin(
        self, recipe: Recipe, samples: Sequence[Sample], apart: list[list[Sample]]
    ) -> batches.Batch[Sample] | None:
        """Start a batch; where prompts do not fit into one, each is to have its own."""
        wanted = [sample for sample in samples if self.jobs.wanted(sample.job.id)]
        if not wanted:
            return None
        began, negative = time.perf_counter(), recipe.request.negative_prompts
        request = attrs.evolve(
            recipe.request,
            prompts=tuple(sample.job.prompt for sample in wanted),
            negative_prompts=None if negative is None else negative[:1] * len(wanted),
        )
        try:
            pipeline, seeds = self.studio.pipeline, [sample.seed for sample in wanted]
            batch = pipeline.begin(self._same(recipe.denoiser), request, seeds, wanted)
            notes = pipeline.notes(request)
        except (ValueError, TypeError) as error:
            if len(wanted) > 1:
                apart += [[sample] for sample in wanted]
            else:
                self.jobs.fail(wanted[0].job.id, Misuse(str(error)))
            return None
        seconds = self._lap(began)
        for row, sample in enumerate(wanted):
            self.jobs.begin(sample.job.id, [note.text for note in notes if note.subject in (None, row)])
            self._times[sample] = Timed(encode=seconds)
        return batch

    def _without_unwanted(self, batch: batches.Batch[Sample]) -> batches.Batch[Sample] | None:
        """Drop the samples of cancelled jobs."""
        rows = [row for row, member in enumerate(batch.members) if self.jobs.wanted(member.key.job.id)]
        for row, member in enumerate(batch.members):
            if row not in rows:
                self._times.pop(member.key, None)
        if len(rows) == len(batch.members):
            return batch
        return batches.keep(batch, rows) if rows else None

    def _with_newcomers(
        self, batch: batches.Batch[Sample], recipe: Recipe, taken: list[Sample], apart: list[list[Sample]]
    ) -> batches.Batch[Sample]:
        """Let samples that wait join between steps; those that fit the recipe and not the batch are set apart."""
        room = self.settings.batch - len(batch.members)
        if room < 1 or not batches.mixes(batch.denoiser) or not (new := self.queue.more(recipe, room)):
            return batch
        taken += new
        other = self._begin(recipe, new, apart)
        if other is None:
            return batch
        try:
            return batches.join(batch, other)
        except ValueError:  # prompts of another length: they are encoded once more, later
            for member in other.members:
                self._times.pop(member.key, None)
            apart.append([member.key for member in other.members])
            return batch

    def _step(self, batch: batches.Batch[Sample]) -> batches.Batch[Sample]:
        began = time.perf_counter()
        batch, _ = batches.advance(batch)
        seconds = self._lap(began)
        self.metrics.add("puredit_batches_total", samples=str(len(batch.members)))
        for member in batch.members:
            times = self._times[member.key]
            self._times[member.key] = attrs.evolve(times, laps=(*times.laps, seconds))
            self.jobs.step(member.key.job.id)
        return batch

    def _finish(self, batch: batches.Batch[Sample]) -> batches.Batch[Sample] | None:
        """Decode and hand over the samples that took their last step; return the others."""
        if not batch.done:
            return batch
        for row in batch.done:
            sample = batch.members[row].key
            try:
                self._hand_over(batch, row)
            except Exception as error:  # a full disk, or latents that are not finite; the others go on
                self._times.pop(sample, None)
                self._failed([sample], error)
        staying = [row for row in range(len(batch.members)) if row not in batch.done]
        return batches.keep(batch, staying) if staying else None

    def _hand_over(self, batch: batches.Batch[Sample], row: int) -> None:
        """Decode one sample alone, whatever batch it was in, and put it where its job wants it."""
        member, began = batch.members[row], time.perf_counter()
        sample, times = member.key, self._times[member.key]
        frames = decode(self.studio.pipeline, batch, row, sample.job.recipe.request)
        result = Result(
            frames=frames,
            infos=member.infos,
            step_seconds=times.laps,
            encode_seconds=times.encode,
            decode_seconds=self._lap(began),
        )
        report = finite({"seed": sample.seed, **run_report(result)})
        # A job's own frames per second: samples of one batch may differ in them.
        output = self._files.put(sample, frames, sample.job.recipe.fps, report)
        self._times.pop(sample)
        if not self.jobs.finish(sample, output):
            self._files.remove([output])

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
