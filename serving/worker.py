"""The worker: one thread that takes samples from the queue and has them made, batch by batch."""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import attrs

from pure.engine.engine import Engine, Recipe
from pure.engine.errors import EngineError, Failure, Misuse, Stopping
from pure.engine.maker import Hand
from pure.engine.report import finite, run_report
from pure.engine.sample import Sample
from pure.models import NotFiniteError
from pure.serving.jobs import Job, JobEntry, Store
from pure.serving.metrics import Metrics
from pure.serving.queue import Queue
from pure.serving.storage import Storage

__all__ = ["Worker", "WorkerOptions"]


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
    """Owns the thread. Handlers submit jobs and wait for their futures; nothing else crosses over.

    Args:
        engine: loaded.
        files: where results go.
        options: how it works.
        log: writes a line, a "note" or a "warning".
        hand: on the processes that make the samples.
        beside: a worker with other processes, whose jobs and counters it shares.
    """

    def __init__(
        self,
        engine: Engine,
        files: Storage,
        options: WorkerOptions,
        log: Callable[[str, str], None],
        hand: Hand,
        beside: Worker | None = None,
    ) -> None:
        self.engine, self.options, self.hand = engine, options, hand
        self.metrics = Metrics() if beside is None else beside.metrics
        self.jobs = Store(self._over) if beside is None else beside.jobs
        self.queue = Queue(options.queued)
        self.ready = threading.Event()  # set once the warm-up is done
        self.running = 0  # samples under way
        self.lost: Exception | None = None  # why nothing can be made any more
        self._files, self._log = files, log
        self._stopping = threading.Event()
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

    def submit(self, job: Job) -> Future[JobEntry]:
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

    @property
    def busy(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def stop(self, patience: float = 60.0) -> None:
        """Halt, wait for the thread to end, at most `patience` seconds, and let the other processes of its group go."""
        self.halt()
        if self._thread.is_alive():
            self._thread.join(patience)
        if self.lost is None and not self._thread.is_alive():
            self.hand.dismiss()

    def _over(self, entry: JobEntry) -> None:
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
            self.hand.warm_up(uuid.uuid4().hex, recipe, "a warm-up", self.options.warm_steps)
            self._log(f"warmed up in {time.perf_counter() - began:.1f} s", "note")
        except Exception as error:
            self._log(f"the warm-up failed: {error}", "warning")
            self._check_hand()

    def _check_hand(self) -> None:
        """Take nothing any more where the processes do not work together any more."""
        if self.hand.lost is not None:
            self.lost = self.hand.lost
            self.halt()

    def _attempt(self, samples: list[Sample]) -> list[list[Sample]]:
        """Make samples; whatever goes wrong ends their jobs, not the thread. Return what has to be made separately."""
        taken, apart = list(samples), []  # taken from the queue, and those of them that wait for a batch of their own
        try:
            self._make(taken, apart)
        except Exception as error:
            waiting = [sample for group in apart for sample in group]
            self.running = 0
            self._failed([sample for sample in taken if sample not in waiting], error)
            self._check_hand()
        finally:
            self.running = 0
        return apart if self.lost is None else []

    def _failed(self, samples: Iterable[Sample], error: Exception) -> None:
        self._log(f"{error}\n{traceback.format_exc()}", "warning")
        said = error.message if isinstance(error, EngineError) else str(error)
        message = said if isinstance(error, EngineError | NotFiniteError) else f"{type(error).__name__}: {said}"
        for sample in samples:
            self.jobs.fail(sample.job.id, Failure(f"the work failed: {message}", code="generation_failed"))

    def _make(self, taken: list[Sample], apart: list[list[Sample]]) -> None:
        """Make samples of one recipe; add to `taken` those that join, and to `apart` those that need another batch."""
        job = taken[0].job
        if self._cold:
            self._cold = False
            self._warm(job.recipe)
        run = self._begin(job, list(taken), apart)
        while run:
            run = self._without_unwanted(run)
            if not run or self._stopping.is_set():
                break
            run = self._finish(*self._step(self._with_newcomers(job, run, taken, apart)))

    def _begin(self, job: Job, samples: Sequence[Sample], apart: list[list[Sample]]) -> list[Sample]:
        """Start a batch; where prompts do not fit into one, each is to have its own."""
        wanted = [sample for sample in samples if self.jobs.wanted(sample.job.id)]
        if not wanted:
            return []
        try:
            self._mixes = self.hand.start(job.id, job.recipe, wanted)
            self._begun(job.recipe, wanted)
        except (ValueError, TypeError) as error:
            if len(wanted) > 1:
                apart += [[sample] for sample in wanted]
            else:
                self.jobs.fail(wanted[0].job.id, Misuse(str(error)))
            return []
        return wanted

    def _begun(self, recipe: Recipe, samples: Sequence[Sample]) -> None:
        """Mark the jobs of samples as in progress, with the notes on their prompts."""
        notes = self.engine.pipeline.notes(recipe.batch(samples))
        for row, sample in enumerate(samples):
            self.jobs.begin(sample.job.id, [note.text for note in notes if note.subject in (None, row)])
        self.running += len(samples)

    def _without_unwanted(self, run: list[Sample]) -> list[Sample]:
        """Drop the samples of cancelled jobs."""
        return self._keep(run, [row for row, sample in enumerate(run) if self.jobs.wanted(sample.job.id)])

    def _keep(self, run: list[Sample], rows: Sequence[int]) -> list[Sample]:
        """Return the samples at these rows only."""
        self.running = len(rows)
        if len(rows) != len(run):
            self.hand.keep(rows)
        return [run[row] for row in rows]

    def _with_newcomers(
        self, job: Job, run: list[Sample], taken: list[Sample], apart: list[list[Sample]]
    ) -> list[Sample]:
        """Let samples that wait join between steps; those that fit the recipe and not the batch are set apart."""
        room = self.options.batch - len(run)
        if room < 1 or not self._mixes or not (new := self.queue.more(job.recipe, room)):
            return run
        taken += new
        wanted = [sample for sample in new if self.jobs.wanted(sample.job.id)]
        if not wanted:
            return run
        try:
            self.hand.admit(wanted)
        except (ValueError, TypeError):  # prompts of another length: they are encoded once more, later
            apart.append(wanted)
            return run
        self._begun(job.recipe, wanted)
        return [*run, *wanted]

    def _step(self, run: list[Sample]) -> tuple[list[Sample], tuple[int, ...]]:
        done = self.hand.step()
        self.metrics.add("puredit_batches_total", samples=str(len(run)))
        for sample in run:
            self.jobs.step(sample.job.id)
        return run, done

    def _finish(self, run: list[Sample], done: Sequence[int]) -> list[Sample]:
        """Decode and hand over the samples that took their last step; return the others."""
        for row in done:
            try:
                self._hand_over(run[row], row)
            except Exception as error:  # a full disk, or latents that are not finite; the others go on
                if self.hand.lost is not None:
                    raise
                self.running -= 1
                self._failed([run[row]], error)
        return self._keep(run, [row for row in range(len(run)) if row not in done])

    def _hand_over(self, sample: Sample, row: int) -> None:
        """Decode one sample, and put it where its job wants it."""
        result = self.hand.finish(sample, row)
        report = finite({"seed": sample.seed, **run_report(result)})
        # A job's own frames per second: samples of one batch may differ in them.
        artifact = self._files.put(sample, result.frames, sample.job.recipe.fps, report)
        self.running -= 1
        if not self.jobs.finish(sample, artifact):
            self._files.remove([artifact])
