"""Several groups of processes behind one server: a worker for each; a request goes to the one with the least to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from pure.engine.engine import Engine
from pure.engine.errors import Busy
from pure.engine.maker import Hand
from pure.serving.jobs import Job, JobEntry
from pure.serving.storage import Storage
from pure.serving.worker import Worker, WorkerOptions

__all__ = ["Workers"]


class Workers:
    """The workers of all groups, which never wait for each other.

    Args:
        engine: of this process.
        files: where results go.
        options: how each worker works.
        log: writes a line, a "note" or a "warning".
        hands: on the processes of each group.
    """

    def __init__(
        self,
        engine: Engine,
        files: Storage,
        options: WorkerOptions,
        log: Callable[[str, str], None],
        hands: Sequence[Hand],
    ) -> None:
        first = Worker(engine, files, options, log, hands[0])
        self.groups = (first, *(Worker(engine, files, options, log, hand, first) for hand in hands[1:]))
        self.jobs, self.metrics = first.jobs, first.metrics
        self._most, self._choosing = options.queued, threading.Lock()
        self._given: dict[str, tuple[Job, Worker]] = {}  # jobs that are not over, and who has them

    @property
    def alive(self) -> bool:
        """Whether all of them take requests."""
        return all(one.alive for one in self.groups)

    @property
    def warm(self) -> bool:
        """Whether all of them are warmed up."""
        return all(one.ready.is_set() for one in self.groups)

    @property
    def lost(self) -> Exception | None:
        """Why one of them can make nothing any more; None: all can."""
        return next((one.lost for one in self.groups if one.lost is not None), None)

    def start(self) -> None:
        """Start all of them."""
        for one in self.groups:
            one.start()

    def submit(self, job: Job) -> Future[JobEntry]:
        """Give a job to the one that has the fewest samples to make, the first of several; see `Worker.submit`."""
        with self._choosing:
            if sum(one.queue.jobs for one in self.groups) >= self._most:
                raise Busy(self._most)
            self._given = {id: given for id, given in self._given.items() if self.jobs.wanted(id)}
            chosen = min(self.groups, key=self._load)
            future = chosen.submit(job)
            self._given[job.id] = job, chosen
            return future

    def _load(self, worker: Worker) -> int:
        """Return how many samples a worker was given whose jobs are not over."""
        return sum(len(job.seeds) for job, given in self._given.values() if given is worker)

    def cancel(self, id: str) -> None:
        """Stop work for a job, whoever has it."""
        for one in self.groups:
            one.cancel(id)

    def drain(self) -> None:
        """Take nothing any more; see `Worker.drain`."""
        for one in self.groups:
            one.drain()

    def halt(self) -> None:
        """Break off what runs too; see `Worker.halt`."""
        for one in self.groups:
            one.halt()

    @property
    def busy(self) -> bool:
        """Whether the thread of one of them has not ended."""
        return any(one.busy for one in self.groups)

    def stop(self, patience: float = 60.0) -> None:
        """Halt, wait for all threads to end, at most `patience` seconds each, and let the other processes go."""
        self.halt()
        for one in self.groups:
            one.stop(patience)
