"""The rule that several methods have in common: changes add up, and at a threshold a step is computed."""

from typing import ClassVar

import attrs

from pure.info import Answer
from pure.memory import Memory
from pure.rules import SHORTER, Rule, Threshold
from pure.step import Where

__all__ = ["Sum"]


@attrs.frozen(cache_hash=True)
class Sum(Rule):
    """Compute once the changes since the last computed step reach `threshold`; a subclass names it.

    Attributes:
        threshold: of the sum; 0 computes every step.
        warmup: first steps, all of them computed.
        ending: last steps, all of them computed.
        most: steps skipped in a row; None: no limit.
        known: first steps, all of them computed because before them no change can be told.
    """

    before: ClassVar[type[Rule] | None] = Threshold
    known: ClassVar[int] = 1
    threshold: float
    warmup: int = 1
    ending: int = 1
    most: int | None = None

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return self.threshold > 0 and self.most != 0

    @property
    def forbids(self) -> bool:
        """Whether it always answers COMPUTE."""
        return not self.may_skip

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute the first steps, the last ones, and after so many skips in a row; else ask for the change."""
        outside = where.index < max(self.warmup, self.known) or where.index >= where.count - self.ending
        limited = self.most is not None and memory.streak >= self.most
        return Answer.COMPUTE if self.threshold <= 0 or outside or limited else Answer.DEFER

    def cure(self, count: int) -> str:
        """Return what to change."""
        if self.threshold <= 0:
            return "a threshold of 0 never skips: raise it"
        if self.most == 0:
            return "with 0 skips in a row nothing is skipped: raise max_continuous"
        least = self.known + min(self.ending, 1) + 1  # whatever the warm-up
        return f"take more steps: {self.name} needs at least {least}" if count < least else SHORTER

    def judge(self, change: float, where: Where, memory: Memory) -> Answer:
        """Answer once the change is known."""
        return Answer.SKIP if memory.accumulated + change < self.threshold else Answer.COMPUTE
