"""What may be skipped, when, and how it is filled in."""

from __future__ import annotations

from typing import Any

import attrs

from pure.checks import choice, kind, number, optional, refuse, whole
from pure.predictors import Predictor
from pure.rules import Rule, ordered


@attrs.frozen(kw_only=True)
class Span:
    """Which blocks always run: the first `front` and the last `back` of the stack."""

    front: int = attrs.field(default=0, validator=whole(0, "the number of front blocks"))
    back: int = attrs.field(default=0, validator=whole(0, "the number of back blocks"))


@attrs.frozen(kw_only=True)
class Probe:
    """How the change of the front residual is measured.

    Attributes:
        importance: only tokens whose own relative change exceeds this are measured; 0 measures all.
        downsample: every k-th feature is measured; 1 measures all.
        follow: "own" measures every guidance branch; "conditional" uses the change of the
            conditional branch for both.
    """

    importance: float = attrs.field(default=0.0, validator=number(0.0, "the importance", "use 0 for all tokens"))
    downsample: int = attrs.field(default=1, validator=whole(1, "the downsampling factor"))
    follow: str = attrs.field(default="own", validator=choice("own", "conditional"))


def _predictor(instance: object, attribute: attrs.Attribute, value: object) -> None:
    if isinstance(value, type) or not all(hasattr(value, name) for name in ("history", "on", "streams", "weights")):
        raise refuse(instance, attribute.name, value, "give a predictor, such as taylorseer(order=1)", TypeError)


@attrs.frozen(kw_only=True)
class Plan:
    """What may be skipped (`span`), when (`rules`) and how it is filled in (`predictor`).

    Transforms edit a plan through `set` and `add`. Setting something twice to the same value is
    fine, to different values an error. The default plan computes everything.
    """

    span: Span | None = attrs.field(default=None, validator=optional(kind(Span, "give a pure.Span(...)")))
    rules: tuple[Rule, ...] = attrs.field(default=(), validator=kind(tuple, "rules are added with plan.add(...)"))
    predictor: Predictor | None = attrs.field(default=None, validator=optional(_predictor))
    probe: Probe | None = attrs.field(default=None, validator=optional(kind(Probe, "give a pure.Probe(...)")))

    def set(self, **fields: Any) -> Plan:
        """Return the plan with `fields` set.

        Raises:
            ValueError: a field already holds another value.
            TypeError: there is no such field, or the value is of another kind.
        """
        for name, new in fields.items():
            if name not in ("span", "predictor", "probe"):
                raise TypeError(f"a plan has no field {name!r} to set: there are span, predictor and probe; see add")
            old = getattr(self, name)
            if old is not None and old != new:
                raise ValueError(f"{name} is set twice, to {old} and to {new}; compose only one of the two")
        return attrs.evolve(self, **fields)

    def add(self, *rules: Rule) -> Plan:
        """Return the plan with `rules` added, in their canonical order.

        Raises:
            ValueError: a rule of the same kind with other settings is there already, or a rule of
                another kind stands at the same place of the order.
            TypeError: something is no rule, or a rule that is no frozen record with a name and a place.
        """
        by_kind = {type(rule): rule for rule in self.rules}
        for rule in rules:
            _check_rule(rule)
            old = by_kind.setdefault(type(rule), rule)
            if old != rule:
                raise ValueError(f"a rule is set twice, as {old} and as {rule}; compose only one of the two")
        return attrs.evolve(self, rules=ordered(tuple(by_kind.values())))


def _check_rule(rule: object) -> None:
    if not isinstance(rule, Rule):
        cure = f"; call it: {rule.__name__}(...)" if isinstance(rule, type) else ""
        raise TypeError(f"a plan takes rules, got {rule!r}{cure}")
    if not isinstance(getattr(rule, "name", None), str):
        raise TypeError(f"{type(rule).__name__} has no name; set name to the reason that it gives")
    if not attrs.has(type(rule)) or type(rule).__hash__ is None:
        raise TypeError(f"{type(rule).__name__} must be a frozen record: decorate it with @attrs.frozen")
