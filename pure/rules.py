"""When to compute: rules, their canonical order, and the decision they take together.

A rule sees where one sample stands and its counters and answers COMPUTE, SKIP or DEFER.
The first step of a sample is always computed. After it, the first answer in the
canonical order wins, whatever the order of composition:
warm-up, mask, total limit, continuous limit, accumulated limit, threshold, and at the
end the default, which computes. All but the threshold are Python arithmetic on the CPU;
only when they all defer is the change measured and read back from the device.
"""

import functools
import itertools
from typing import Any, ClassVar, Protocol

import attrs

from pure.info import Answer
from pure.memory import Memory
from pure.notes import Note
from pure.step import Where


class Rule:
    """Base of rules, which are frozen records.

    A rule of your own says where it stands with `before` or `after`, such as `before = Threshold`.

    Attributes:
        name: the reason it gives.
        before: the kind of rule it stands directly before.
        after: the kind of rule it stands directly after.
        rank: place of a kind of rule that names neither.
    """

    name: ClassVar[str]
    before: "ClassVar[type[Rule] | None]" = None
    after: "ClassVar[type[Rule] | None]" = None
    rank: ClassVar[float]

    @property
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return True

    @property
    def forbids(self) -> bool:
        """Whether it always answers COMPUTE."""
        return False

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Answer for one sample; overridden by every rule."""
        raise TypeError(f"{type(self).__name__} gives no answer; override answer()")


class Restraint(Rule):
    """A rule that computes or defers, never skips."""

    @property
    def may_skip(self) -> bool:
        """Say no."""
        return False


class Limit(Restraint):
    """A restraint that computes once something reaches a limit."""

    limit: Any

    @property
    def forbids(self) -> bool:
        """Whether the limit is reached from the start."""
        return self.limit <= 0


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
    limit: int

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute at the limit, else defer."""
        return Answer.COMPUTE if memory.skipped >= self.limit else Answer.DEFER


@attrs.frozen(cache_hash=True)
class Continuous(Limit):
    """Compute after `limit` skips in a row."""

    rank: ClassVar[float] = 3
    name: ClassVar[str] = "continuous limit"
    limit: int

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute at the limit, else defer."""
        return Answer.COMPUTE if memory.streak >= self.limit else Answer.DEFER


@attrs.frozen(cache_hash=True)
class Accumulated(Limit):
    """Compute once the changes accepted since the last computed step add up to `limit`."""

    rank: ClassVar[float] = 4
    name: ClassVar[str] = "accumulated limit"
    limit: float

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Compute at the limit, else defer."""
        return Answer.COMPUTE if memory.accumulated >= self.limit else Answer.DEFER


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
    def may_skip(self) -> bool:
        """Whether it can ever answer SKIP."""
        return self.value > 0

    def answer(self, where: Where, memory: Memory) -> Answer:
        """Answer what needs no measurement, else defer."""
        if self.value <= 0:
            return Answer.COMPUTE
        return Answer.SKIP if self.value >= 1 else Answer.DEFER

    def judge(self, change: float) -> Answer:
        """Answer once the change is known."""
        return Answer.SKIP if self.value >= 1 or change < self.value else Answer.COMPUTE


Rules = tuple[Rule, ...]
MEASURE = "measure"


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


@functools.lru_cache(maxsize=512)
def settle(rules: Rules, count: int) -> Rules:
    """Return the rules of a run of `count` steps.

    The mask is written out, or left out where it has none for this count. The one coupling
    between rules is resolved: the mask's leading ones cap the warm-up.
    """
    mask = find(rules, Mask)
    if not isinstance(mask, Mask):
        return rules
    entries = resolve(mask.source, count)
    if entries is None:
        return tuple(rule for rule in rules if rule is not mask)
    ones = next((i for i, entry in enumerate(entries) if not entry), len(entries))
    settled: list[Rule] = []
    for rule in rules:
        if isinstance(rule, Warmup):
            rule = attrs.evolve(rule, steps=min(rule.steps, ones))
        settled.append(Entries(entries, mask.policy) if rule is mask else rule)
    return tuple(settled)


def decide(settled: Rules, where: Where, memory: Memory) -> tuple[Answer, str]:
    """Return the first answer of settled host rules and its reason; DEFER if the change must be measured."""
    answer, reason = _first_answer(settled, where, memory)
    if memory.computed == 0 and answer is not Answer.COMPUTE:
        return Answer.COMPUTE, "first step"
    return answer, reason


def _first_answer(settled: Rules, where: Where, memory: Memory) -> tuple[Answer, str]:
    summing = False
    for rule in settled:
        answer = rule.answer(where, memory)
        if isinstance(rule, Threshold) and (answer is Answer.DEFER or (answer is Answer.SKIP and summing)):
            return Answer.DEFER, MEASURE
        if answer is not Answer.DEFER:
            if not isinstance(answer, Answer):
                raise TypeError(_no_answer(rule, answer, where))
            return answer, rule.name
        summing = summing or isinstance(rule, Accumulated)
    return Answer.COMPUTE, "default"


def _no_answer(rule: Rule, answer: object, where: Where) -> str:
    return f"{rule} answered {answer!r} at step {where.index}; answer() must return pure.Answer.COMPUTE, SKIP or DEFER"


def judge(rules: Rules, change: float) -> tuple[Answer, str]:
    """Return the threshold's answer to a measured change."""
    threshold = find(rules, Threshold)
    if not isinstance(threshold, Threshold):
        raise AssertionError("a change was measured without a threshold")
    return threshold.judge(change), threshold.name


def measures(rules: Rules) -> bool:
    """Whether any step of any run can need a measurement."""
    threshold = find(rules, Threshold)
    if not isinstance(threshold, Threshold) or threshold.value <= 0:
        return False
    return threshold.value < 1 or find(rules, Accumulated) is not None


def can_skip(rules: Rules, count: int | None = None) -> bool:
    """Whether a run (of `count` steps, if given) can skip at all, leaving measured changes aside."""
    if count is None:
        deciding = next((rule for rule in rules if rule.may_skip or rule.forbids), None)
        return deciding is not None and deciding.may_skip
    return None in _reasons(rules, count)


def _reasons(rules: Rules, count: int) -> dict[str | None, None]:
    """Return why the steps of a run are computed, in order; None stands for a step that may be skipped."""
    seen = Memory(skipped=0, streak=0, computed=1, first=0, accumulated=0.0, times=())
    settled, found = settle(rules, count), dict[str | None, None]()
    for index in range(1, count):
        answer, reason = decide(settled, Where(index, count), seen)
        found[reason if answer is Answer.COMPUTE else None] = None
    return found


def check(rules: Rules, count: int) -> tuple[Note, ...]:
    """Check the rules against the number of steps of a run.

    Returns:
        Notes on a mask that is off or does not fit, and on rules that cannot skip a step.

    Raises:
        ValueError: the mask does not fit the step count, or is static and starts with a skip.
    """
    if not rules:
        return ()
    found: tuple[Note, ...] = ()
    mask = find(rules, Mask)
    if isinstance(mask, Mask):
        entries, found = resolve(mask.source, count), mask.source.notes(count)
        if entries is not None and mask.policy == "static" and not entries[0]:
            raise ValueError(
                f"the static mask {''.join(map(str, entries))} starts with 0, but there is nothing to reuse "
                "before the first computed step; start it with 1 or use policy='dynamic'"
            )
    reasons = _reasons(rules, count)
    if None in reasons:
        return found
    return (*found, Note(f"nothing will be skipped: {_computing(tuple(filter(None, reasons)), count)}"))


def _computing(reasons: tuple[str, ...], count: int) -> str:
    if not reasons:
        return "a run of 1 step is its first step, which is computed"
    cure = ""
    if "default" in reasons:
        cure = "; no rule skips: add dbcache(threshold=...) or a static mask"
    elif "threshold" in reasons:
        cure = "; a threshold of 0 never skips: raise it"
    elif reasons == ("warm-up",):
        cure = "; use a shorter warm-up or more steps"
    return f"{' and '.join(reasons)} {'computes' if len(reasons) == 1 else 'compute'} every one of {count} steps{cure}"
