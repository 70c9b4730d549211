"""When to compute: rules and their canonical order. What they decide together is in `decide`.

A rule sees where one sample stands and its counters and answers COMPUTE, SKIP or DEFER.
The first step of a sample is always computed. After it, the first answer in the
canonical order wins, whatever the order of composition:
warm-up, mask, total limit, continuous limit, accumulated limit, threshold, and at the
end the default, which computes. All of this is Python arithmetic on the CPU. Only where a
rule that judges (the threshold, or one of your own) defers is the change measured and read
back from the device; then that rule judges it.
"""

import functools
import itertools
from typing import Any, ClassVar, Protocol

import attrs

from pure.info import Answer
from pure.memory import Memory
from pure.notes import Note
from pure.step import Where

SHORTER = "use a shorter warm-up or more steps"
"""The cure where the first steps, which are computed, are all of them."""


class Rule:
    """Base of rules, which are frozen records.

    A rule of your own says where it stands with `before` or `after`, such as `before = Threshold`.

    Attributes:
        name: the reason it gives.
        before: the kind of rule it stands directly before.
        after: the kind of rule it stands directly after.
        rank: place of a kind of rule that names neither.
        history: how many of the last computed steps it finds in `memory.times`, at least 1.
    """

    name: ClassVar[str]
    before: "ClassVar[type[Rule] | None]" = None
    after: "ClassVar[type[Rule] | None]" = None
    rank: ClassVar[float]
    history: ClassVar[int] = 1

    @property
    def judges(self) -> bool:
        """Whether it has a `judge`."""
        return type(self).judge is not Rule.judge

    @property
    def measures(self) -> bool:
        """Whether it can ever ask for the change."""
        return self.judges

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return True

    @property
    def forbids(self) -> bool:
        """Whether it always answers COMPUTE."""
        return False

    def cure(self, count: int) -> str:
        """Return what to change where it computes every one of `count` steps; empty: not known."""
        return ""

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Answer for one sample; overridden by every rule."""
        raise TypeError(f"{type(self).__name__} gives no answer; override answer()")

    def judge(self, change: float, where: Where, memory: Memory) -> Answer:
        """Answer with the measured change, where `answer` deferred; overridden by rules that ask for it.

        Args:
            change: what the plan's `Probe` measures.
            where: where the sample stands.
            memory: of the sample.
        """
        raise TypeError(f"{type(self).__name__} judges no change; override judge()")


class Restraint(Rule):
    """A rule that computes or defers, never skips."""

    @property
    def may_skip(self) -> bool:
        """Say no."""
        return False


class Limit(Restraint):
    """A restraint that computes once a field of the memory reaches a limit."""

    counted: ClassVar[str]
    limit: Any

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute at the limit, else defer."""
        return Answer.COMPUTE if getattr(memory, self.counted) >= self.limit else Answer.DEFER

    @property
    def forbids(self) -> bool:
        """Whether the limit is reached from the start."""
        return self.limit <= 0

    def cure(self, count: int) -> str:
        """Return what to change."""
        return f"the {self.name} is 0, which never skips: raise it" if self.forbids else ""


class MaskSource(Protocol):
    """Where a mask comes from: a preset, bins or an explicit list."""

    def mask(self, count: int) -> tuple[int, ...] | None:
        """Return `count` entries (1 computes, 0 may skip); None turns the mask off.

        Raises:
            ValueError: there is no such mask for this step count.
        """
        ...

    def notes(self, count: int) -> tuple[Note, ...]:
        """Return how the mask of a run of `count` steps differs from what was set."""
        ...


@attrs.frozen(cache_hash=True)
class Warmup(Restraint):
    """Compute steps 0, interval, 2 interval, ... below `steps`."""

    rank: ClassVar[float] = 0
    name: ClassVar[str] = "warm-up"
    steps: int
    interval: int = 1

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute on a warm-up step, else defer."""
        warm = where.index < self.steps and where.index % self.interval == 0
        return Answer.COMPUTE if warm else Answer.DEFER

    def cure(self, count: int) -> str:
        """Return what to change."""
        return SHORTER


@attrs.frozen(cache_hash=True)
class Mask(Rule):
    """A step mask: 1 computes; 0 skips (`static`) or lets the other rules decide (`dynamic`)."""

    rank: ClassVar[float] = 1
    name: ClassVar[str] = "mask"
    source: MaskSource
    policy: str = "dynamic"

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return self.policy == "static"

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Follow the mask of this sample's own step count."""
        mask = resolve(self.source, where.count)
        return Answer.DEFER if mask is None else Entries(mask, self.policy).answer(where, memory)

    def cure(self, count: int) -> str:
        """Return what to change: the source of the mask knows it, else the mask has no zero."""
        return getattr(self.source, "cure", "give the mask a 0 where a step may be skipped")


@attrs.frozen(cache_hash=True)
class Entries(Rule):
    """A mask whose entries are known: what `settle` makes of a `Mask`."""

    rank: ClassVar[float] = 1
    name: ClassVar[str] = "mask"
    entries: tuple[int, ...]
    policy: str

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return self.policy == "static"

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute at a 1; at a 0 skip or defer, as the policy says."""
        if where.index < len(self.entries) and self.entries[where.index]:
            return Answer.COMPUTE
        return Answer.SKIP if self.policy == "static" else Answer.DEFER


@functools.lru_cache(maxsize=512)
def resolve(source: MaskSource, count: int) -> tuple[int, ...] | None:
    """Return `source.mask(count)`, computed once."""
    return source.mask(count)


@attrs.frozen(cache_hash=True)
class Total(Limit):
    """Compute once `limit` steps have been skipped."""

    rank: ClassVar[float] = 2
    name: ClassVar[str] = "total limit"
    counted: ClassVar[str] = "skipped"
    limit: int


@attrs.frozen(cache_hash=True)
class Continuous(Limit):
    """Compute after `limit` skips in a row."""

    rank: ClassVar[float] = 3
    name: ClassVar[str] = "continuous limit"
    counted: ClassVar[str] = "streak"
    limit: int


@attrs.frozen(cache_hash=True)
class Accumulated(Limit):
    """Compute once the changes accepted since the last computed step add up to `limit`."""

    rank: ClassVar[float] = 4
    name: ClassVar[str] = "accumulated limit"
    counted: ClassVar[str] = "accumulated"
    limit: float


@attrs.frozen(cache_hash=True)
class Threshold(Rule):
    """Skip while the front residual changed by less than `value` since the last computed step.

    At 0 or below it always computes and at 1 or above it always skips; neither measures,
    unless `Accumulated` needs the change.
    """

    rank: ClassVar[float] = 5
    name: ClassVar[str] = "threshold"
    value: float

    @property
    def measures(self) -> bool:
        """Whether it can ever ask for the change."""
        return 0 < self.value < 1

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return self.value > 0

    @property
    def forbids(self) -> bool:
        """Whether it always answers COMPUTE."""
        return not self.may_skip

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Answer what needs no measurement, else defer."""
        if self.value <= 0:
            return Answer.COMPUTE
        return Answer.SKIP if self.value >= 1 else Answer.DEFER

    def cure(self, count: int) -> str:
        """Return what to change."""
        return "" if self.may_skip else "a threshold of 0 never skips: raise it"

    def judge(self, change: float, where: Where, memory: Memory) -> Answer:
        """Answer once the change is known."""
        return Answer.SKIP if self.value >= 1 or change < self.value else Answer.COMPUTE


Rules = tuple[Rule, ...]


def place(kind: type[Rule]) -> tuple[float, ...]:
    """Return where a kind of rule stands, as a tuple that sorts in the canonical order.

    Raises:
        TypeError: it names no place, or two.

    >>> place(Total) < place(Threshold)
    True
    """
    neighbour = kind.before or kind.after
    if neighbour is None and hasattr(kind, "rank"):
        return (kind.rank, 0)
    if neighbour is None or (kind.before and kind.after):
        raise TypeError(
            f"{kind.__name__} must say where it stands among the rules: set one of before and after to a kind of "
            "rule, such as before = pure.rules.Threshold"
        )
    return (*place(neighbour)[:-1], -1 if kind.before else 1, 0)


def ordered(rules: Rules) -> Rules:
    """Return rules of different kinds in the canonical order.

    Raises:
        ValueError: two stand at the same place, so that the order of composition would decide.
    """
    found = sorted(rules, key=lambda rule: place(type(rule)))
    for one, other in itertools.pairwise(found):
        if place(type(one)) == place(type(other)):
            raise ValueError(
                f"{one} and {other} stand at the same place among the rules, and which answers first is open; "
                f"set before or after of one of them to the kind of the other"
            )
    return tuple(found)


def find(rules: Rules, kind: type) -> Rule | None:
    """Return the rule of this kind, if the plan has one."""
    return next((rule for rule in rules if isinstance(rule, kind)), None)
