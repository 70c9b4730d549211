"""The worker: one thread that owns the device, takes samples from the queue and makes them, batch by batch."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import attrs

from pure.engine import denoising
from pure.engine.denoising import Denoising
from pure.engine.engine import Engine, Recipe
from pure.engine.errors import EngineError, Failure, Misuse, Stopping
from pure.engine.report import finite, run_report
from pure.engine.sample import Sample
from pure.models import NotFiniteError
from pure.models import batch as batches
from pure.models.pipeline import Model
from pure.serving.jobs import Entry, Job, Store
from pure.serving.metrics import Metrics
from pure.serving.queue import Queue
from pure.serving.storage import Storage

__all__ = ["Worker", "WorkerOptions"]

REMEMBERED = 16
"""Denoisers that are kept, so that an equal one of the next request compiles nothing again."""


@attrs.frozen(kw_only=True)
class WorkerOptions:
    """How the worker works.

    Attributes:
        batch: most samples taken together.
        delay: seconds a sample may wait for others of its kind.
        warm_up: recipes to warm up with before the first request.
        warm_steps: steps of a warm-up.
        first: whether the first request is preceded by a warm-up of its own recipe.
        queued: most jobs that wait.
    """

    batch: int = 1
    delay: float = 0.0
    warm_up: tuple[Recipe, ...] = ()
    warm_steps: int = 1
    first: bool = False
    queued: int = 1000


class Worker:
    """Owns the thread. Handlers submit jobs and wait for their futures; nothing else crosses over."""

    def __init__(
        self,
        engine: Engine,
        files: Storage,
        options: WorkerOptions = WorkerOptions(),
        log: Callable[[str, str], None] = lambda text, kind: None,
    ) -> None:
        self.engine, self.options, self.metrics = engine, options, Metrics()
        self.jobs, self.queue = Store(self._over), Queue(options.queued)
        self.ready = threading.Event()
        self.running = 0  # samples under way
        self._files, self._log = files, log
        self._stopping = threading.Event()
        self._denoisers: list[Model] = []
        self._cold = options.first
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # ------------------------------------------------------------------ what handlers call

    def start(self) -> None:
        """Start the thread: warm up, then take samples."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes requests."""
        return self._thread.is_alive() and not self._stopping.is_set()

    def submit(self, job: Job) -> Future[Entry]:
        """Queue a job; the future has its entry once it is over.

        Raises:
            Stopping: nothing is taken any more.
            Busy: as many wait as may.
        """
        future = self.jobs.add(job)
        try:
            if not self.queue.put(job.samples):
                raise Stopping()
        except EngineError:
            self.jobs.forget(job.id)
            raise
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
            self._files.remove(entry.artifacts.values())

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        for recipe in self.options.warm_up:
            self._warm(recipe)
        self.ready.set()
        while samples := self.queue.take(self.options.batch, self.options.delay):
            waiting = [samples]
            while waiting:
                waiting += self._attempt(waiting.pop(0))

    def _warm(self, recipe: Recipe) -> None:
        """Take the first steps of a run; where that fails the server still starts, with a slow first request."""
        began = time.perf_counter()
        try:
            denoising.warm_up(self.engine, self._known(recipe), "a warm-up", self.options.warm_steps)
            self._log(f"warmed up in {time.perf_counter() - began:.1f} s", "note")
        except Exception as error:
            self._log(f"the warm-up failed: {error}", "warning")

    def _attempt(self, samples: list[Sample]) -> list[list[Sample]]:
        """Make samples; whatever goes wrong ends their jobs, not the thread. Return what has to be made separately."""
        taken, apart = list(samples), []  # taken from the queue, and those of them that wait for a batch of their own
        try:
            self._make(taken, apart)
        except Exception as error:
            waiting = [sample for group in apart for sample in group]
            self.running = 0
            self._failed([sample for sample in taken if sample not in waiting], error)
        finally:
            self.running = 0
        return apart

    def _failed(self, samples: Iterable[Sample], error: Exception) -> None:
        self._log(f"{error}\n{traceback.format_exc()}", "warning")
        said = error.message if isinstance(error, EngineError) else str(error)
        message = said if isinstance(error, EngineError | NotFiniteError) else f"{type(error).__name__}: {said}"
        for sample in samples:
            self.jobs.fail(sample.job.id, Failure(f"the work failed: {message}", code="generation_failed"))

    def _make(self, taken: list[Sample], apart: list[list[Sample]]) -> None:
        """Make samples of one recipe; add to `taken` those that join, and to `apart` those that need another batch."""
        recipe = self._known(taken[0].job.recipe)
        if self._cold:
            self._cold = False
            self._warm(recipe)
        run = self._begin(recipe, list(taken), apart)
        while run is not None:
            run = self._without_unwanted(run)
            if run is None or self._stopping.is_set():
                break
            run = self._finish(self._step(self._with_newcomers(run, taken, apart)))

    def _begin(self, recipe: Recipe, samples: Sequence[Sample], apart: list[list[Sample]]) -> Denoising | None:
        """Start a batch; where prompts do not fit into one, each is to have its own."""
        wanted = [sample for sample in samples if self.jobs.wanted(sample.job.id)]
        if not wanted:
            return None
        try:
            run = denoising.begin(self.engine, recipe, wanted)
            notes = self.engine.pipeline.notes(recipe.batch(wanted))
        except (ValueError, TypeError) as error:
            if len(wanted) > 1:
                apart += [[sample] for sample in wanted]
            else:
                self.jobs.fail(wanted[0].job.id, Misuse(str(error)))
            return None
        for row, sample in enumerate(wanted):
            self.jobs.begin(sample.job.id, [note.text for note in notes if note.subject in (None, row)])
        self.running += len(wanted)
        return run

    def _without_unwanted(self, run: Denoising) -> Denoising | None:
        """Drop the samples of cancelled jobs."""
        return self._keep(run, [row for row, sample in enumerate(run.samples) if self.jobs.wanted(sample.job.id)])

    def _keep(self, run: Denoising, rows: Sequence[int]) -> Denoising | None:
        """Return the run with these rows only; None without any."""
        self.running = len(rows)
        return denoising.keep(run, rows) if rows else None

    def _with_newcomers(self, run: Denoising, taken: list[Sample], apart: list[list[Sample]]) -> Denoising:
        """Let samples that wait join between steps; those that fit the recipe and not the batch are set apart."""
        room = self.options.batch - len(run.samples)
        if (
            room < 1
            or not batches.mixes(run.batch.denoiser)
            or not (new := self.queue.more(run.samples[0].job.recipe, room))
        ):
            return run
        taken += new
        other = self._begin(run.recipe, new, apart)
        if other is None:
            return run
        try:
            return denoising.join(run, other)
        except ValueError:  # prompts of another length: they are encoded once more, later
            self.running = len(run.samples)
            apart.append(list(other.samples))
            return run

    def _step(self, run: Denoising) -> Denoising:
        run, _ = denoising.step(run)
        self.metrics.add("puredit_batches_total", samples=str(len(run.samples)))
        for sample in run.samples:
            self.jobs.step(sample.job.id)
        return run

    def _finish(self, run: Denoising) -> Denoising | None:
        """Decode and hand over the samples that took their last step; return the others."""
        done = run.batch.done
        for row in done:
            try:
                self._hand_over(run, row)
            except Exception as error:  # a full disk, or latents that are not finite; the others go on
                self.running -= 1
                self._failed([run.samples[row]], error)
        return self._keep(run, [row for row in range(len(run.samples)) if row not in done])

    def _hand_over(self, run: Denoising, row: int) -> None:
        """Decode one sample, and put it where its job wants it."""
        sample, result = run.samples[row], denoising.result(self.engine, run, row)
        report = finite({"seed": sample.seed, **run_report(result)})
        # A job's own frames per second: samples of one batch may differ in them.
        artifact = self._files.put(sample, result.frames, sample.job.recipe.fps, report)
        self.running -= 1
        if not self.jobs.finish(sample, artifact):
            self._files.remove([artifact])

    def _known(self, recipe: Recipe) -> Recipe:
        """Return the recipe with an equal denoiser that was used before, which may be compiled; else remember its."""
        for known in self._denoisers:
            if known == recipe.denoiser:
                return attrs.evolve(recipe, denoiser=known)
        self._denoisers = [*self._denoisers[1 - REMEMBERED :], recipe.denoiser]
        return recipe
