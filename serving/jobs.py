"""Jobs: a request, its progress and its results.

A job and its entry are frozen records; the store replaces the entry when something changes.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import attrs

from pure.engine.engine import Recipe
from pure.engine.errors import EngineError
from pure.engine.sample import Sample

__all__ = ["Artifact", "Format", "Job", "JobEntry", "Store"]

KEPT = 1000
"""Most finished jobs with an entry; the files of older ones stay."""


@attrs.frozen(kw_only=True)
class Format:
    """The format of the results.

    Attributes:
        kind: "image" or "video".
        encoding: Pillow's format of images: PNG, JPEG or WEBP.
        quality: 0 to 100; None for the default of the format.
        suffix: ending of files.
    """

    kind: str
    encoding: str = "PNG"
    quality: int | None = None
    suffix: str = ".png"


@attrs.frozen(kw_only=True, eq=False)
class Job:
    """One request: a prompt, a seed for each result, and how they are made."""

    prompt: str
    seeds: tuple[int, ...]
    recipe: Recipe
    form: Format
    id: str = attrs.field(factory=lambda: uuid.uuid4().hex)
    created: float = attrs.field(factory=time.time)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The results to make, each on its own."""
        return tuple(
            Sample(prompt=self.prompt, seed=seed, job=self, number=number) for number, seed in enumerate(self.seeds)
        )


@attrs.frozen(kw_only=True, eq=False)
class Artifact:
    """One finished result.

    Attributes:
        content: the file of an image; of a video nothing, it is on the disk.
        path: where it is on the disk; None: nowhere.
        report: times, counts and decisions.
    """

    content: bytes
    path: str | None
    report: Mapping[str, Any]


@attrs.frozen(kw_only=True, eq=False)
class JobEntry:
    """How far a job is.

    Attributes:
        job: the request.
        status: queued, in_progress, completed, failed or cancelled.
        steps: steps taken, of all samples.
        artifacts: finished results, by number.
        notes: such as a prompt that is too long.
        error: why it failed.
        started: when work began.
        ended: when it was over, whatever its outcome.
    """

    job: Job
    status: str = "queued"
    steps: int = 0
    artifacts: Mapping[int, Artifact] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()
    error: EngineError | None = None
    started: float | None = None
    ended: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.ended is not None

    @property
    def seconds(self) -> float:
        """From the first work to the end, or until now."""
        return 0.0 if self.started is None else (self.ended or time.time()) - self.started

    @property
    def progress(self) -> int:
        """0 to 99 while work goes on, 100 once it is done."""
        if self.status == "completed":
            return 100
        total = len(self.job.seeds) * self.job.recipe.request.steps
        return min(self.steps * 100 // total, 99)


class Store:
    """The entries of all jobs, by id; safe to use from several threads."""

    def __init__(self, watch: Callable[[JobEntry], None] = lambda entry: None, kept: int = KEPT) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, JobEntry] = {}
        self._futures: dict[str, Future[JobEntry]] = {}
        self._watch, self._kept = watch, kept

    def add(self, job: Job) -> Future[JobEntry]:
        """Add a job; the future has its entry once it is over."""
        with self._lock:
            self._entries[job.id] = JobEntry(job=job)
            future = self._futures[job.id] = Future()
            future.set_running_or_notify_cancel()  # a waiter that gives up does not cancel it; see `cancel`
            over = [id for id, entry in self._entries.items() if entry.over]
            for old in over[: max(len(over) - self._kept, 0)]:
                del self._entries[old]
        return future

    def get(self, id: str, kind: str) -> JobEntry | None:
        """Return an entry, None if there is no such job of this kind."""
        with self._lock:
            entry = self._entries.get(id)
        return entry if entry is not None and entry.job.form.kind == kind else None

    def all(self, kind: str) -> list[JobEntry]:
        """Return all entries of a kind, oldest first."""
        with self._lock:
            return [entry for entry in self._entries.values() if entry.job.form.kind == kind]

    def wanted(self, id: str) -> bool:
        """Whether a job is known and not over."""
        with self._lock:
            entry = self._entries.get(id)
            return entry is not None and not entry.over

    def begin(self, id: str, notes: Iterable[str] = ()) -> None:
        """Mark a job as in progress, if it is not yet, and add notes."""

        def begun(entry: JobEntry) -> JobEntry:
            all_notes = tuple(dict.fromkeys((*entry.notes, *notes)))
            return attrs.evolve(entry, status="in_progress", started=entry.started or time.time(), notes=all_notes)

        self._change(id, begun)

    def step(self, id: str) -> None:
        """Count a step of one sample."""
        self._change(id, lambda e: attrs.evolve(e, steps=e.steps + 1))

    def finish(self, sample: Sample, artifact: Artifact) -> bool:
        """Add a finished result; the last one completes the job. Return False if the job was over already."""

        def done(entry: JobEntry) -> JobEntry:
            artifacts = {**entry.artifacts, sample.number: artifact}
            complete = len(artifacts) == len(sample.job.seeds)
            over: Any = {"status": "completed", "ended": time.time()} if complete else {}
            return attrs.evolve(entry, artifacts=artifacts, **over)

        return self._change(sample.job.id, done)

    def fail(self, id: str, error: EngineError) -> None:
        """End a job as failed, if it is not over."""
        self._change(id, lambda e: attrs.evolve(e, status="failed", error=error, ended=time.time()))

    def cancel(self, id: str) -> None:
        """End a job as cancelled, if it is not over."""
        self._change(id, lambda e: attrs.evolve(e, status="cancelled", ended=time.time()))

    def forget(self, id: str) -> JobEntry | None:
        """Cancel a job and drop its entry; return what it was."""
        self.cancel(id)
        with self._lock:
            return self._entries.pop(id, None)

    def _change(self, id: str, change: Callable[[JobEntry], JobEntry]) -> bool:
        with self._lock:
            entry = self._entries.get(id)
            if entry is None or entry.over:
                return False
            entry = self._entries[id] = change(entry)
            future = self._futures.pop(id) if entry.over else None
        if future is not None:
            entry.job.recipe.request.memo.clear()  # finished jobs are remembered, their encoded pictures are not
            self._watch(entry)
            future.set_result(entry)
        return True
