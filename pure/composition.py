"""Composition of transforms.

A transform is a frozen record that maps a denoiser to a denoiser. `compose` applies
transforms from left to right; it flattens, drops `identity`, has `==` and a `repr` that is
the recipe. Cache transforms edit different fields of the plan and commute.
"""

from typing import Self, overload

import attrs

from pure.checks import cut, nearest
from pure.denoiser import Denoiser
from pure.experts import Experts
from pure.plan import Conflict


def _recipe(self: "Transform") -> str:
    """Show the settings that are not the defaults, as one would type them."""
    fields = [(field, getattr(self, field.name)) for field in attrs.fields(type(self)) if field.init and field.repr]
    given = [(field, value) for field, value in fields if not _equal(value, field.default)]
    shown = [f"{f.alias}={f.repr(value) if callable(f.repr) else repr(value)}" for f, value in given]
    name = type(self).__qualname__.rpartition("<locals>.")[2]  # with the classes it stands in, as one would type it
    return f"{name}({', '.join(shown)})"


def _equal(value: object, usual: object) -> bool:
    """Whether a setting is its default; arrays, which have no one answer, are shown."""
    try:
        return bool(value == usual)
    except (TypeError, ValueError, RuntimeError):
        return False


@attrs.frozen
class Transform:
    """Base of all transforms: subclasses are frozen records that say how they `edit` a denoiser."""

    def __new__(cls, *args: object, **settings: object) -> Self:
        """Say what a transform takes where it is given something else: its settings, by name."""
        own = "__attrs_attrs__" in vars(cls)  # else its __init__ may take anything
        fields = [field for field in attrs.fields(cls) if field.init] if own else []
        places = sum(not field.kw_only for field in fields)
        unknown = sorted(settings.keys() - {field.alias for field in fields})
        if fields and (len(args) > places or unknown):
            named = ", ".join(f"{field.alias}=..." for field in fields)
            near = nearest(unknown[0], [f.alias for f in fields]) if unknown else None
            hint = f"there is no {cut(unknown[0])!r}{f', did you mean {near!r}?' if near else ''}; " if unknown else ""
            raise TypeError(f"{cls.__name__}: {hint}settings are given by name: {cls.__name__}({named})")
        return super().__new__(cls)

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        """Let every transform show what differs from its defaults, unless it says otherwise."""
        if cls.__repr__.__code__.co_filename.startswith("<attrs generated"):
            cls.__repr__ = _recipe

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Return the edited denoiser; overridden by every transform."""
        raise TypeError(f"{type(self).__name__} does not say how it edits a denoiser; override edit()")

    @overload
    def __call__(self, denoiser: Denoiser) -> Denoiser: ...

    @overload
    def __call__(self, denoiser: Experts) -> Experts: ...

    def __call__(self, denoiser: Denoiser | Experts) -> Denoiser | Experts:
        """Edit the denoiser, or every expert.

        Raises:
            TypeError: this is given something else, or the transform makes something else of it.
        """
        if isinstance(denoiser, Experts):
            return Experts({name: self(one) for name, one in denoiser.denoisers.items()})
        if not isinstance(denoiser, Denoiser):
            has = isinstance(getattr(denoiser, "denoiser", None), Denoiser | Experts)
            cure = "pass its .denoiser" if has else "for a diffusers pipeline there is pure.accelerate"
            raise TypeError(f"{self} transforms a Denoiser or Experts, got {type(denoiser).__name__}; {cure}")
        for transform in single_transforms(self):
            denoiser = _edited(transform, denoiser)
        return denoiser


def _edited(transform: Transform, denoiser: Denoiser) -> Denoiser:
    """Return the edited denoiser, whose plan knows which transform has set what.

    Raises:
        ValueError: another transform has set the same to another value; the message names both.
        TypeError: the transform makes something else of it.
    """
    before = denoiser.plan
    try:
        edited = transform.edit(denoiser)
        if not isinstance(edited, Denoiser):
            raise TypeError(f"{type(transform).__name__}.edit must return a Denoiser, got {type(edited).__name__}")
        plan = edited.plan.owned(before, transform)
    except Conflict as conflict:
        other = before.owners.get(conflict.key)
        if other is None:  # set by hand, which has no name
            raise
        raise ValueError(both(other, transform, conflict.what)) from conflict
    return edited if plan is edited.plan else attrs.evolve(edited, plan=plan)


def both(one: object, other: object, what: str) -> str:
    """Say that two transforms cannot be composed, as both set `what`."""
    return f"{cut(repr(one), 100)} and {cut(repr(other), 100)} both set {what}; compose only one of the two"


@attrs.frozen
class Composed(Transform):
    """Transforms that are applied in turn, the first one first: what `compose` returns."""

    transforms: tuple[Transform, ...] = ()

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Apply all transforms, the first one first."""
        return self(denoiser)

    def __repr__(self) -> str:
        """Show the recipe, as one would type it."""
        if not self.transforms:
            return "identity"
        return f"compose({', '.join(map(repr, self.transforms))})"


identity = Composed()
"""The transform that changes nothing."""


def compose(*transforms: Transform) -> Transform:
    """Compose transforms; associative, with `identity` as the neutral element.

    Raises:
        TypeError: something is no transform.

    >>> compose(identity, compose()) == identity
    True
    """
    flat: list[Transform] = []
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise TypeError(not_a_transform("compose", transform))
        flat.extend(single_transforms(transform))
    return flat[0] if len(flat) == 1 else Composed(tuple(flat))


def single_transforms(transform: Transform) -> tuple[Transform, ...]:
    """Return the transforms that a composed one applies, in order; of another one itself."""
    return transform.transforms if isinstance(transform, Composed) else (transform,)


def not_a_transform(where: str, got: object) -> str:
    """Say what `where` got instead of a transform, and the cure."""
    if isinstance(got, type) and issubclass(got, Transform):
        return f"{where} takes transforms, got the class {got.__name__}; call it: {got.__name__}(...)"
    return f"{where} takes transforms, such as dbcache(), got {type(got).__name__}: {got!r:.200}"
