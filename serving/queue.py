"""The queue of samples: first come, first served, but for those that fit into the batch of the first."""

import threading
import time
from collections.abc import Iterable

from pure.engine.engine import Recipe, alike
from pure.engine.errors import Busy
from pure.engine.sample import Sample

__all__ = ["Queue"]


class Queue:
    """Samples that wait; handlers put them in, the engine takes them out."""

    def __init__(self, most: int = 1000) -> None:
        """Return an empty queue in which at most `most` jobs wait."""
        self._most = most
        self._changed = threading.Condition()
        self._waiting: list[Sample] = []
        self._closed = False

    def __len__(self) -> int:
        """Return how many samples wait."""
        with self._changed:
            return len(self._waiting)

    @property
    def jobs(self) -> int:
        """How many jobs have samples that wait."""
        with self._changed:
            return len({each.job.id for each in self._waiting})

    def put(self, samples: Iterable[Sample]) -> bool:
        """Add the samples of a job at the end; False if the queue is closed and takes none.

        Raises:
            Busy: as many jobs wait as may.
        """
        with self._changed:
            if self._closed:
                return False
            if len({each.job.id for each in self._waiting}) >= self._most:
                raise Busy(self._most)
            self._waiting += samples
            self._changed.notify_all()
            return True

    def take(self, most: int, delay: float = 0.0) -> list[Sample]:
        """Wait for a sample; return it with up to `most` - 1 others of its kind, for which `delay` seconds are waited.

        Returns nothing once the queue is closed.
        """
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                until = time.monotonic() + delay
                while self._waiting and not self._closed:  # empty again where what waited was cancelled
                    first = self._waiting[0]
                    chosen = [each for each in self._waiting if alike(first.job.recipe, each.job.recipe)][:most]
                    left = until - time.monotonic()
                    if len(chosen) >= most or left <= 0:
                        self._remove(chosen)
                        return chosen
                    self._changed.wait(left)
            return []

    def more(self, recipe: Recipe, most: int) -> list[Sample]:
        """Return up to `most` samples from the front that fit a recipe, without waiting.

        Only from the front, so that samples of another kind do not wait for ever.
        """
        with self._changed:
            chosen: list[Sample] = []
            for each in self._waiting[:most]:
                if not alike(recipe, each.job.recipe):
                    break
                chosen.append(each)
            self._remove(chosen)
            return chosen

    def drop(self, id: str) -> None:
        """Take the samples of a job out."""
        with self._changed:
            self._waiting = [each for each in self._waiting if each.job.id != id]
            self._changed.notify_all()

    def close(self) -> list[Sample]:
        """Take nothing any more; return what waited."""
        with self._changed:
            self._closed, left = True, self._waiting
            self._waiting = []
            self._changed.notify_all()
            return left

    def _remove(self, chosen: list[Sample]) -> None:
        gone = {id(each) for each in chosen}
        self._waiting = [each for each in self._waiting if id(each) not in gone]
