"""Checks of a transform's arguments: one style for all, applied when the record is made.

Every check is an attrs validator. Its message names transform, argument and value, and says
what is allowed: `dbcache(front=-1): the number of front blocks must be a whole number of at least 0`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from pure.denoiser import Denoiser

__all__ = [
    "Check",
    "check_fields",
    "check_streams",
    "choice",
    "flag",
    "narrowed",
    "number",
    "optional",
    "refuse",
    "stream_names",
    "whole",
]

T = TypeVar("T")
Check = Callable[[Any, attrs.Attribute, Any], None]
"""An attrs validator."""
optional = attrs.validators.optional
"""Allow None, too."""


def refuse(instance: Any, name: str, value: object, reason: str) -> ValueError:
    """Return the error for an argument of a transform that is not allowed."""
    return ValueError(f"{type(instance).__name__}({name}={value!r:.200}): {reason}")


def whole(least: int, meaning: str, most: int | None = None) -> Check:
    """Allow whole numbers of `least` to `most`; a bool is none."""
    wanted = f"of at least {least}" if most is None else f"of {least} to {most}"

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not good or (most is not None and value > most):
            raise refuse(instance, attribute.name, value, f"{meaning} must be a whole number {wanted}")

    return check


def number(least: float, meaning: str, cure: str = "", most: float = math.inf) -> Check:
    """Allow finite numbers of `least` to `most`; a bool is none."""
    wanted = "a finite number" if least == -math.inf else f"a number of at least {least:g}"
    wanted = wanted if most == math.inf else f"a number of {least:g} to {most:g}"

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not least <= value <= most or not abs(value) < math.inf:
            rest = f"; {cure}" if cure else ""
            raise refuse(instance, attribute.name, value, f"{meaning} must be {wanted}{rest}")

    return check


def choice(*allowed: str) -> Check:
    """Allow some strings."""

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise refuse(instance, attribute.name, value, f"choose one of {list(allowed)}")

    return check


def flag(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
    """Allow True and False."""
    if not isinstance(value, bool):
        raise refuse(instance, attribute.name, value, "choose True or False")


def stream_names(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
    """Allow names of streams, "all" and None."""
    named = isinstance(value, tuple) and value and all(isinstance(name, str) for name in value)
    if value is not None and value != "all" and not named:
        raise refuse(instance, attribute.name, value, "give a tuple of stream names, 'all' or None")


def check_streams(transform: Any, denoiser: Denoiser) -> None:
    """Refuse a predictor of streams that the denoiser does not have."""
    wanted = transform.streams
    if wanted not in (None, "all") and not set(wanted) <= set(denoiser.streams):
        name = type(transform).__name__
        raise ValueError(f"{name}(streams={wanted}): the denoiser's streams are {denoiser.streams}")


def check_fields(instance: Any, checks: Mapping[str, Check]) -> None:
    """Apply checks to fields by name: for transforms that inherit their fields from an option of the core."""
    for field in attrs.fields(type(instance)):
        checks[field.name](instance, field, getattr(instance, field.name))


def narrowed(instance: Any, option: type[T]) -> T:
    """Return the option of the core whose fields a transform has inherited."""
    return option(**{field.name: getattr(instance, field.name) for field in attrs.fields(option)})  # type: ignore
