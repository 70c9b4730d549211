"""Checks of what a record is made with: one style for all, applied when it is made.

Every check is an attrs validator. Its message names record, argument and value, and says
what is allowed: `dbcache(front=-1): the number of front blocks must be a whole number of at least 0`.
"""

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import attrs

__all__ = [
    "LARGEST_SEED",
    "Check",
    "check_argument",
    "check_streams",
    "choice",
    "cut",
    "flag",
    "function",
    "kind",
    "names",
    "narrowed",
    "nearest",
    "number",
    "optional",
    "refuse",
    "shown",
    "stream_names",
    "whole",
]

T = TypeVar("T")
Check = Callable[[Any, attrs.Attribute, Any], None]
"""An attrs validator."""
optional = attrs.validators.optional
"""Allow None, too."""

LARGEST_SEED = 2**63 - 1
"""The largest seed: what a signed 64-bit integer of a file or a request can hold."""

LARGEST = 1e30
"""Largest number, unless another is given: products of two such overflow in no type that rules compute in."""
MOST = 10**9
"""Largest whole number, unless another is given: all that are counted in a run are fewer."""


def shown(value: object, most: int = 200) -> str:
    """Return the beginning of a value as Python writes it; it writes no number of more than 4300 digits.

    >>> shown(10**5000), shown("a" * 9, most=4)
    ('a whole number of 16610 bits', "'aaa")
    """
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        return repr(value)[:most]
    except Exception:  # such a number within a list, or a record whose own text fails
        return f"some {type(value).__name__}"


def cut(text: str, most: int = 80) -> str:
    """Return the beginning of a long text, and how long it is.

    >>> cut("a" * 5000, most=3)
    'aaa... (5000 characters)'
    """
    return text if len(text) <= 2 * most else f"{text[:most]}... ({len(text)} characters)"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that begins with `word` or is written almost like it, None if none is.

    >>> nearest("--promt", ["--prompt", "--seed"])
    '--prompt'
    >>> nearest("--prompt-file", ["--prompt", "--prompt-file-path"])
    '--prompt-file-path'
    """
    known = sorted(known)
    longer = [candidate for candidate in known if len(word) > 4 and candidate.startswith(word)]
    return next(iter(longer or difflib.get_close_matches(word, known, n=1)), None)


def refuse(instance: Any, name: str, value: object, reason: str, error: type = ValueError) -> Exception:
    """Return the error for an argument of a record that is not allowed."""
    return error(f"{type(instance).__name__}({name}={shown(value)}): {reason}")


def check_argument(value: object, wanted: type | tuple[type, ...], what: str) -> None:
    """Refuse an argument of a function that is of another kind; a class is no instance of itself.

    Raises:
        TypeError: `what` is said of it, and what it is.
    """
    if not isinstance(value, wanted):
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        cure = f"; call it: {value.__name__}(...)" if isinstance(value, type) and value in kinds else ""
        raise TypeError(f"{what}, got {shown(value)}{cure}")


def whole(least: int, meaning: str, most: int = MOST) -> Check:
    """Allow whole numbers of `least` to `most`; a bool is none."""

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        good = isinstance(value, int) and not isinstance(value, bool)
        if not good or not least <= value <= most:
            short = most == MOST and not (good and value > most)
            wanted = f"of at least {least}" if short else f"of {least} to {most}"
            raise refuse(instance, attribute.name, value, f"{meaning} must be a whole number {wanted}")

    return check


def number(least: float, meaning: str, cure: str = "", most: float = LARGEST, above: bool = False) -> Check:
    """Allow numbers of `least`, or `above` it, to `most`; a bool is none.

    With `least` of -inf the range is -`most` to `most`.
    """
    bottom = -most if least == -math.inf else least

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if good and bottom <= value <= most and not (above and value == bottom):
            return
        short = most == LARGEST and not (good and value != math.inf and abs(value) > most)
        if least == -math.inf:
            wanted = "a finite number" + ("" if short else f" of {-most:g} to {most:g}")
        elif above:
            wanted = f"a finite number above {least:g}" + ("" if short else f" and at most {most:g}")
        else:
            wanted = f"a number of at least {least:g}" if short else f"a number of {least:g} to {most:g}"
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


def kind(wanted: type | tuple[type, ...], reason: str) -> Check:
    """Allow what is an instance of some types; another is a `TypeError`."""

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        if not isinstance(value, wanted):
            raise refuse(instance, attribute.name, value, reason, TypeError)

    return check


def function(reason: str) -> Check:
    """Allow what can be called and is no class; another is a `TypeError`."""

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        if isinstance(value, type) or not callable(value):
            raise refuse(instance, attribute.name, value, reason, TypeError)

    return check


def names(reason: str) -> Check:
    """Allow a tuple of strings, at least one; another is a `TypeError`."""

    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        if not isinstance(value, tuple) or not value or not all(isinstance(name, str) and name for name in value):
            raise refuse(instance, attribute.name, value, reason, TypeError)

    return check


def stream_names(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
    """Allow names of streams, "all" and None."""
    named = isinstance(value, tuple) and value and all(isinstance(name, str) for name in value)
    if value is not None and value != "all" and not named:
        raise refuse(instance, attribute.name, value, "give a tuple of stream names, 'all' or None")


def check_streams(transform: Any, denoiser: Any) -> None:
    """Refuse a predictor of streams that the denoiser does not have."""
    wanted = transform.streams
    if wanted not in (None, "all") and not set(wanted) <= set(denoiser.streams):
        name = type(transform).__name__
        raise ValueError(f"{name}(streams={wanted}): the denoiser's streams are {denoiser.streams}")


def narrowed(instance: Any, option: type[T]) -> T:
    """Return the option of the core whose fields a transform has inherited."""
    return option(**{field.name: getattr(instance, field.name) for field in attrs.fields(option)})  # type: ignore
