"""Dealing batches to groups of processes: each takes the next one when it is free, and results come in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from pure.engine.maker import Hand

__all__ = ["Dealer"]

B = TypeVar("B")
R = TypeVar("R")


class Dealer(Generic[B, R]):
    """Deals batches to hands. The first hand works in the thread that iterates, the others in threads of their own.

    Args:
        hands: one for each group of processes.
        batches: in order.
        prepare: what a hand does first.
        make: a hand's runs of a batch, each of which yields results as it goes.
    """

    def __init__(
        self,
        hands: Sequence[Hand],
        batches: Sequence[B],
        prepare: Callable[[Hand], None],
        make: Callable[[Hand, B], Iterable[Iterable[R]]],
    ) -> None:
        self._hands, self._batches, self._prepare, self._make = hands, batches, prepare, make
        self._changed = threading.Condition()
        self._taken = 0  # batches that a hand has taken
        self._given = 0  # batches that were yielded
        self._made: dict[int, list[list[R]] | BaseException] = {}

    def __iter__(self) -> Iterator[Iterable[Iterable[R]]]:
        """Yield the runs of every batch, in order; what the first hand makes in its turn is made as it is read."""
        for hand in self._hands[1:]:
            threading.Thread(target=self._work, args=(hand,), daemon=True).start()
        self._prepare(self._hands[0])
        while self._given < len(self._batches):
            if self._given in self._made:
                yield self._give(self._given)
            elif (number := self._take()) is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._given in self._made)
            elif number == self._given:
                self._given += 1
                yield self._make(self._hands[0], self._batches[number])
            else:
                self._made[number] = self._all(self._hands[0], number)

    def left(self) -> Iterator[Iterable[Iterable[R]]]:
        """Yield what is made and was not yielded, in order: where something stopped the rest."""
        with self._changed:
            numbers = sorted(n for n, made in self._made.items() if n >= self._given and isinstance(made, list))
        for number in numbers:
            yield self._give(number)

    def _give(self, number: int) -> Iterable[Iterable[R]]:
        self._given = number + 1
        made = self._made.pop(number)
        if isinstance(made, BaseException):
            raise made
        return made

    def _take(self) -> int | None:
        with self._changed:
            number, self._taken = self._taken, min(self._taken + 1, len(self._batches))
            return number if number < len(self._batches) else None

    def _all(self, hand: Hand, number: int) -> list[list[R]] | BaseException:
        try:
            return [list(run) for run in self._make(hand, self._batches[number])]
        except Exception as error:
            return error

    def _work(self, hand: Hand) -> None:
        """Make one batch after the other, in a thread of its own; an error takes the place of a batch."""
        begun = False
        while (number := self._take()) is not None:
            try:
                if not begun:
                    self._prepare(hand)
                begun, made = True, self._all(hand, number)
            except Exception as error:
                made = error
            with self._changed:
                self._made[number] = made
                self._changed.notify_all()
            if isinstance(made, BaseException):
                return
