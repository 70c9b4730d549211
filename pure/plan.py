"""What may be skipped, when, and how it is filled in."""

from __future__ import annotations

from typing import Any

import attrs

from pure.predictors import Predictor
from pure.rules import Rule


@attrs.frozen(kw_only=True)
class Span:
    """Which blocks always run: the first `front` and the last `back` of the stack."""

    front: int = 0
    back: int = 0


@attrs.frozen(kw_only=True)
class Probe:
    """How the change of the front residual is measured.

    Attributes:
        importance: only tokens whose own relative change exceeds this take part (0: all).
        downsample: every k-th feature takes part (1: all).
        follow: "own" measures every branch; "conditional" lets the other guidance branch
            use the change measured on the conditional one.
    """

    importance: float = 0.0
    downsample: int = 1
    follow: str = "own"


@attrs.frozen(kw_only=True)
class Plan:
    """What may be skipped (`span`), when (`rules`) and how it is filled in (`predictor`).

    A plan is edited by transforms through `set` and `add`; saying the same thing twice is
    fine, saying two different things is an error. The default plan computes everything.
    """

    span: Span | None = None
    rules: tuple[Rule, ...] = ()
    predictor: Predictor | None = None
    probe: Probe | None = None

    def set(self, **fields: Any) -> Plan:
        """Return the plan with `fields` set.

        Raises:
            ValueError: a field already holds another value.
        """
        for name, new in fields.items():
            old = getattr(self, name)
            if old is not None and old != new:
                raise ValueError(f"{name} is set twice, to {old} and to {new}; compose only one of the two")
        return attrs.evolve(self, **fields)

    def add(self, *rules: Rule) -> Plan:
        """Return the plan with `rules` added, in their canonical order.

        Raises:
            ValueError: a rule of the same kind with other settings is there already.
        """
        by_kind = {type(rule): rule for rule in self.rules}
        for rule in rules:
            old = by_kind.setdefault(type(rule), rule)
            if old != rule:
                raise ValueError(f"a rule is set twice, as {old} and as {rule}; compose only one of the two")
        return attrs.evolve(self, rules=tuple(sorted(by_kind.values(), key=lambda rule: rule.rank)))
