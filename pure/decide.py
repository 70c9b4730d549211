"""What the rules of a plan decide together, step by step and for a whole run."""

import functools
from collections.abc import Iterable

import attrs

from pure.info import Answer
from pure.memory import Memory
from pure.notes import Note
from pure.rules import Accumulated, Entries, Mask, Rule, Rules, Threshold, Warmup, find, resolve
from pure.step import Step, Where

MEASURE = "measure"


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


def decide(settled: Rules, where: Where, memory: Memory, change: float | None = None) -> tuple[Answer, str]:
    """Return the first answer of settled rules and its reason; DEFER if the change must be measured first.

    Args:
        settled: the rules of the run; see `settle`.
        where: where the sample stands.
        memory: of the sample.
        change: what was measured, once that is known.

    Raises:
        TypeError: a rule gives an answer that is none.
    """
    answer, reason = _first_answer(settled, where, memory, change)
    if memory.computed == 0 and answer is not Answer.COMPUTE:
        return Answer.COMPUTE, "first step"
    return answer, reason


def _first_answer(settled: Rules, where: Where, memory: Memory, change: float | None) -> tuple[Answer, str]:
    summing = False
    for rule in settled:
        answer = _answered(rule, "answer", rule.answer(where, memory), where)
        if rule.judges and (answer is Answer.DEFER or (answer is Answer.SKIP and summing)):
            if change is None:
                return Answer.DEFER, MEASURE
            answer = _answered(rule, "judge", rule.judge(change, where, memory), where)
        if answer is not Answer.DEFER:
            return answer, rule.name
        summing = summing or isinstance(rule, Accumulated)
    return Answer.COMPUTE, "default"


def _answered(rule: Rule, method: str, answer: object, where: Where) -> Answer:
    if not isinstance(answer, Answer):
        raise TypeError(
            f"{rule} answered {answer!r} at step {where.index}; "
            f"{method}() must return pure.Answer.COMPUTE, SKIP or DEFER"
        )
    return answer


def measures(rules: Rules) -> bool:
    """Whether any step of any run can need a measurement."""
    judging = [rule for rule in rules if rule.judges and rule.may_skip]
    summing = find(rules, Accumulated) is not None  # the accepted changes, those of steps that are skipped anyway too
    return any(rule.measures for rule in rules) or (summing and bool(judging))


def remembered(rules: Rules) -> int:
    """Return how many of the last computed steps the rules look back to; 0 where there are none."""
    return max((rule.history for rule in rules), default=0)


def can_skip(rules: Rules, count: int | None = None) -> bool:
    """Whether a run (of `count` steps, if given) can skip at all, leaving measured changes aside."""
    if count is None:
        deciding = next((rule for rule in rules if rule.may_skip or rule.forbids), None)
        return deciding is not None and deciding.may_skip
    return None in _reasons(rules, count)


def _reasons(rules: Rules, count: int, steps: Iterable[Step] = ()) -> dict[str | None, None]:
    """Return why the steps of a run are computed, in order; None stands for a step that may be skipped.

    Of the steps that are given the rules see the noise levels, too.
    """
    times = (0, *(-1,) * (remembered(rules) - 1))
    seen = Memory(skipped=0, streak=0, computed=1, first=0, accumulated=0.0, times=times)
    settled, found = settle(rules, count), dict[str | None, None]()
    places = {where.index: where for step in steps if type(step.index) is int for where in step.rows(1)}
    for index in range(1, count):
        answer, reason = decide(settled, places.get(index, Where(index, count)), seen)
        found[reason if answer is Answer.COMPUTE else None] = None
    return found


def check(rules: Rules, count: int, steps: Iterable[Step] = ()) -> tuple[Note, ...]:
    """Check the rules against the number of steps of a run, and against its steps where they are known.

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
        if entries is not None and mask.policy == "static":
            found += _unasked(rules[rules.index(mask) + 1 :])
    reasons = _reasons(rules, count, steps)
    if None in reasons:
        return found
    return (*found, Note(f"nothing will be skipped: {_computing(rules, tuple(filter(None, reasons)), count)}"))


def _unasked(rules: Rules) -> tuple[Note, ...]:
    """Say which of the rules after a static mask have nothing to decide; a threshold is there for its blocks, too."""
    names = [rule.name for rule in rules if rule.may_skip and not isinstance(rule, Threshold)]
    cure = "leave one of the two out, or use a mask with policy='dynamic'"
    return tuple(Note(f"{name} has no effect: the static mask decides about every step; {cure}") for name in names)


def _computing(rules: Rules, reasons: tuple[str, ...], count: int) -> str:
    if not reasons:
        return "a run of 1 step is its first step, which is computed; take more steps"
    if "default" in reasons:
        cures = ["no rule skips: add dbcache(threshold=...) or a static mask"]
    else:
        computing = [rule for rule in rules if rule.name in reasons]
        # One that never lets a step be skipped is what to change; with it no other cure helps.
        cures = filter(None, [rule.cure(count) for rule in ([r for r in computing if r.forbids] or computing)])
    why = f"{' and '.join(reasons)} {'computes' if len(reasons) == 1 else 'compute'} every one of {count} steps"
    return "; ".join([why, *cures])
