"""Composition of transforms.

A transform is a frozen record that maps a denoiser to a denoiser. `compose` applies
transforms from left to right; it flattens, drops `identity`, has `==` and a `repr` that is
the recipe. Cache transforms edit different fields of the plan and commute.
"""

import warnings
from typing import overload

import attrs

from pure.denoiser import Denoiser
from pure.experts import Experts
from pure.rules import can_skip


@attrs.frozen
class Transform:
    """Base of all transforms: subclasses are frozen records that say how they `edit` a denoiser."""

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Return the edited denoiser; overridden by every transform."""
        raise TypeError(f"{type(self).__name__} does not say how it edits a denoiser; override edit()")

    @overload
    def __call__(self, denoiser: Denoiser) -> Denoiser: ...

    @overload
    def __call__(self, denoiser: Experts) -> Experts: ...

    def __call__(self, denoiser: Denoiser | Experts) -> Denoiser | Experts:
        """Edit the denoiser, or every expert, and warn if the result asks for a cache that can never skip."""
        if isinstance(denoiser, Experts):
            return Experts({name: self(one) for name, one in denoiser.denoisers.items()})
        edited = self.edit(denoiser)
        plan = edited.plan
        if plan != denoiser.plan and not can_skip(plan.rules):
            warnings.warn(
                f"this plan can never skip a step: {plan}; add dbcache(threshold=...) or a static mask", stacklevel=2
            )
        return edited


@attrs.frozen
class Composed(Transform):
    """What `compose` returns."""

    transforms: tuple[Transform, ...] = ()

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Apply all transforms, the first one first."""
        for transform in self.transforms:
            denoiser = transform.edit(denoiser)
        return denoiser

    def __repr__(self) -> str:
        """Show the recipe, as one would type it."""
        if not self.transforms:
            return "identity"
        return f"compose({', '.join(map(repr, self.transforms))})"


identity = Composed()
"""The transform that changes nothing."""


def compose(*transforms: Transform) -> Transform:
    """Compose transforms; associative, with `identity` as the neutral element.

    >>> compose(identity, compose()) == identity
    True
    """
    flat: list[Transform] = []
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise TypeError(f"compose takes transforms, got {transform!r}")
        flat.extend(transform.transforms if isinstance(transform, Composed) else (transform,))
    return flat[0] if len(flat) == 1 else Composed(tuple(flat))
