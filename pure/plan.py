"""What may be skipped, when, and how it is filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch

from pure.block import Params, Tree
from pure.checks import LARGEST, choice, flag, function, kind, number, optional, refuse, whole
from pure.notes import Note
from pure.predictors import Predictor
from pure.rules import Rule, ordered
from pure.step import MOST_STEPS


@attrs.frozen(kw_only=True)
class Span:
    """Which blocks always run: the first `front` and the last `back` of the stack.

    Attributes:
        front: first blocks.
        back: last blocks.
        each: the others are skipped one by one, each by the change of what enters it; else all together.
        keep: indices of others that always run, where they are skipped one by one.
    """

    front: int = attrs.field(default=0, validator=whole(0, "the number of front blocks"))
    back: int = attrs.field(default=0, validator=whole(0, "the number of back blocks"))
    each: bool = attrs.field(default=False, validator=flag)
    keep: tuple[int, ...] = attrs.field(default=(), validator=kind(tuple, "keep is a tuple of indices"))

    def left(self, size: int) -> tuple[int, ...]:
        """Return which of `size` blocks may be skipped."""
        return tuple(index for index in range(self.front, size - self.back) if index not in self.keep)

    def notes(self, size: int) -> tuple[Note, ...]:
        """Say if none of `size` blocks is left to skip."""
        if self.left(size):
            return ()
        ends = f"the first {self.front} and the last {self.back}"
        always = f"{ends} of {size} blocks always run" if size > 1 else "this model runs in one piece"
        cure = "make them fewer" if size > 1 else "choose the steps with scm(mask=..., policy='static') alone"
        return (Note(f"no block is left to skip: {always}, so that no step takes less time; {cure}"),)


def _polynomial(instance: object, attribute: attrs.Attribute, value: object) -> None:
    entries = value if isinstance(value, tuple) else ()
    good = entries and all(isinstance(each, int | float) and abs(each) <= LARGEST for each in entries)
    if value is not None and not good:  # NaN is at most nothing
        raise refuse(instance, attribute.name, value, "give a tuple of finite numbers, highest power first, or None")


@attrs.frozen(kw_only=True)
class Probe:
    """What is measured of a step, and how.

    Attributes:
        of: `(params, hidden, context) -> (B, N, D)`, what is compared: of the parameters under the
            checkpoint's names and what `Denoiser.embed` returns. None: what the front blocks add to the
            stream that the denoiser's `probe` names.
        seen: `(latents, sigma) -> (B, ...)`, what is compared, if not `of`: of the latents that enter the model,
            (B, ...), and their noise levels, (B,). A field `reads_sigma` of it that is False says that it reads
            no levels: then it is given None for them, and steps need not have any.
        gain: the change is how much the prediction will change, relative to itself, if it goes on to answer
            to what is compared as it did between the last two computed steps; needs `seen`, and "last step".
        verify: nothing is compared beforehand; after a skipped step what the back blocks added is compared with
            what the predictor makes of what they added before. Rules find the error in the `size` of the memory.
        since: "last computed" compares with the last computed step; "last step" with the last step at
            which anything was measured or computed.
        polynomial: coefficients, highest power first, of the polynomial that the change is put through;
            None: the change itself.
        importance: only tokens whose own relative change exceeds this are measured; 0 measures all.
        downsample: every k-th feature is measured; 1 measures all.
        follow: "own" measures every guidance branch; "conditional" uses the change of the
            conditional branch for both.

    Raises:
        ValueError: a value is out of range.
        TypeError: `of` is no function.
    """

    importance: float = attrs.field(default=0.0, validator=number(0.0, "the importance", "use 0 for all tokens"))
    downsample: int = attrs.field(default=1, validator=whole(1, "the downsampling factor"))
    follow: str = attrs.field(default="own", validator=choice("own", "conditional"))
    of: Callable[[Params, Tree, Tree], torch.Tensor] | None = attrs.field(
        default=None, validator=optional(function("of is a function (params, hidden, context)"))
    )
    seen: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = attrs.field(
        default=None, validator=optional(function("seen is a function (latents, sigma)"))
    )
    gain: bool = attrs.field(default=False, validator=flag)
    verify: bool = attrs.field(default=False, validator=flag)
    since: str = attrs.field(default="last computed", validator=choice("last computed", "last step"))
    polynomial: tuple[float, ...] | None = attrs.field(default=None, validator=_polynomial)

    def __attrs_post_init__(self) -> None:
        if self.of is not None and self.seen is not None:
            raise ValueError("Probe(of=..., seen=...) names two things to compare; give one of them")
        if self.gain and (self.seen is None or self.since != "last step" or self.importance or self.downsample != 1):
            raise ValueError(
                "Probe(gain=True) follows all of the latents from step to step; set seen=... and since='last step', "
                "and leave importance and downsample out"
            )

    @property
    def fronted(self) -> bool:
        """Whether it compares what the front blocks add."""
        return self.of is None and self.seen is None


@attrs.frozen(kw_only=True)
class Published:
    """What was fitted for a model by the authors of TeaCache: a field `published` of what its `modulated` is.

    Attributes:
        polynomial: coefficients, highest power first.
        threshold: of the sum of changes.
        warmup: first steps, all of them computed.
    """

    polynomial: tuple[float, ...]
    threshold: float
    warmup: int = 1


def _predictor(instance: object, attribute: attrs.Attribute, value: object) -> None:
    if isinstance(value, type) or not all(hasattr(value, name) for name in ("history", "on", "streams", "weights")):
        raise refuse(instance, attribute.name, value, "give a predictor, such as taylorseer(order=1)", TypeError)


class Conflict(ValueError):
    """Two transforms set one thing of a plan: `key`, the name of a field or a kind of rule, says which."""

    def __init__(self, key: str | type[Rule], text: str) -> None:
        super().__init__(text)
        self.key = key

    @property
    def what(self) -> str:
        """What both set, in words."""
        return WHAT[self.key] if isinstance(self.key, str) else f"the rule {self.key.name!r}"


WHAT = {
    "span": "which blocks may be skipped",
    "probe": "what is measured of a step",
    "predictor": "how skipped blocks are filled in",
}


@attrs.frozen(kw_only=True)
class Plan:
    """What may be skipped (`span`), when (`rules`) and how it is filled in (`predictor`).

    Transforms edit a plan through `set` and `add`. Setting something twice to the same value is
    fine, to different values an error, and so are the spans of two transforms that are not equal: each has rules
    that go with its own. The default plan computes everything.

    Attributes:
        owners: which transform has set what: a field, or a kind of rule; None while it edits.
    """

    span: Span | None = attrs.field(default=None, validator=optional(kind(Span, "give a pure.Span(...)")))
    rules: tuple[Rule, ...] = attrs.field(default=(), validator=kind(tuple, "rules are added with plan.add(...)"))
    predictor: Predictor | None = attrs.field(default=None, validator=optional(_predictor))
    probe: Probe | None = attrs.field(default=None, validator=optional(kind(Probe, "give a pure.Probe(...)")))
    owners: Mapping[str | type[Rule], object] = attrs.field(factory=dict, eq=False, repr=False)

    def set(self, **fields: Any) -> Plan:
        """Return the plan with `fields` set.

        Raises:
            Conflict: a field already holds another value.
            TypeError: there is no such field, or the value is of another kind.
        """
        for name, new in fields.items():
            if name not in ("span", "predictor", "probe"):
                raise TypeError(f"a plan has no field {name!r} to set: there are span, predictor and probe; see add")
            old = getattr(self, name)
            if old is not None and old != new:
                raise Conflict(name, f"{name} is set twice, to {old} and to {new}; compose only one of the two")
        return attrs.evolve(self, **fields, owners={**self.owners, **dict.fromkeys(fields)})

    def add(self, *rules: Rule) -> Plan:
        """Return the plan with `rules` added, in their canonical order.

        Raises:
            Conflict: a rule of the same kind with other settings is there already.
            ValueError: a rule of another kind stands at the same place of the order.
            TypeError: something is no rule, or a rule that is no frozen record with a name and a place.
        """
        by_kind = {type(rule): rule for rule in self.rules}
        for rule in rules:
            _check_rule(rule)
            old = by_kind.setdefault(type(rule), rule)
            if old != rule:
                said = f"a rule is set twice, as {old} and as {rule}; compose only one of the two"
                raise Conflict(type(rule), said)
        owners = {**self.owners, **dict.fromkeys(map(type, rules))}
        return attrs.evolve(self, rules=ordered(tuple(by_kind.values())), owners=owners)

    def owned(self, before: Plan, by: object) -> Plan:
        """Return the plan with a transform as the owner of all that it has set since the plan was as `before`.

        Raises:
            Conflict: another one has set the span.
        """
        # What was set by hand before stays nobody's.
        new = [key for key, owner in self.owners.items() if owner is None and before.owners.get(key, by) is not None]
        if "span" in new and before.owners.get("span", by) != by:
            raise Conflict("span", "the span is set twice; compose only one of the two")
        return attrs.evolve(self, owners={**self.owners, **dict.fromkeys(new, by)}) if new else self


def _check_rule(rule: object) -> None:
    if not isinstance(rule, Rule):
        cure = f"; call it: {rule.__name__}(...)" if isinstance(rule, type) else ""
        raise TypeError(f"a plan takes rules, got {rule!r}{cure}")
    if not isinstance(getattr(rule, "name", None), str):
        raise TypeError(f"{type(rule).__name__} has no name; set name to the reason that it gives")
    for name in ("before", "after"):
        neighbour = getattr(rule, name)
        if neighbour is not None and not (isinstance(neighbour, type) and issubclass(neighbour, Rule)):
            raise TypeError(
                f"{type(rule).__name__}.{name} is {neighbour!r}; set it to a kind of rule, such as Threshold"
            )
    if type(rule.history) is not int or not 1 <= rule.history <= MOST_STEPS:
        raise TypeError(
            f"{type(rule).__name__}.history is {rule.history!r}; set it to a whole number of steps from 1 on"
        )
    if not attrs.has(type(rule)) or type(rule).__hash__ is None:
        raise TypeError(f"{type(rule).__name__} must be a frozen record: decorate it with @attrs.frozen")
