"""What the fields of a request may hold; forms send everything as text, so text of the right form counts."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

__all__ = ["FLAG", "OBJECT", "SIZE", "TEXT", "Kind", "many", "number", "one_of", "whole"]


@attrs.frozen
class Kind:
    """A kind of values: `read(value)` returns it, or raises ValueError; `allowed` says what there may be."""

    read: Callable[[Any], Any]
    allowed: str


def _wrong() -> ValueError:
    return ValueError("not of this kind")


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str | float) or (isinstance(value, float) and value % 1):
        raise _wrong()
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not math.isfinite(float(value)):
        raise _wrong()
    return float(value)


@attrs.frozen
class Limits:
    """Reads a number between two limits, both allowed."""

    read: Callable[[Any], Any]
    least: float
    most: float

    def __call__(self, value: Any) -> Any:
        """Return the number."""
        found = self.read(value)
        if not self.least <= found <= self.most:
            raise _wrong()
        return found


def whole(least: int = 1, most: int = 2**63 - 1) -> Kind:
    """Whole numbers between two limits."""
    upper = f" and at most {most}" if most < 2**63 - 1 else ""
    return Kind(Limits(_whole, least, most), f"a whole number of at least {least}{upper}")


def number(least: float = 0.0) -> Kind:
    """Finite numbers above a limit."""
    return Kind(Limits(_number, least, math.inf), f"a number of at least {least:g}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong()
    return value


TEXT = Kind(_text, "a text")
"""Any text."""


def _flag(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if not isinstance(value, bool):
        raise _wrong()
    return value


FLAG = Kind(_flag, "true or false")
"""A boolean."""


@attrs.frozen
class Among:
    """Reads one of several words."""

    words: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        """Return the word."""
        if value not in self.words:
            raise _wrong()
        return value


def one_of(*words: str) -> Kind:
    """One of several words."""
    return Kind(Among(words), f"one of {', '.join(words)}")


@attrs.frozen
class Each:
    """Reads one value or a list of them; a form may hold a list as JSON."""

    kind: Kind

    def __call__(self, value: Any) -> tuple:
        """Return all of them."""
        if isinstance(value, str):
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        if not values:
            raise _wrong()
        return tuple(self.kind.read(entry) for entry in values)


def many(kind: Kind) -> Kind:
    """One value of a kind, or a list of them."""
    return Kind(Each(kind), f"{kind.allowed}, or a list of such")


def _size(value: Any) -> tuple[int, int] | None:
    """Return (width, height); `auto` is the model's own."""
    if value in ("auto", ""):
        return None
    width, cross, height = _text(value).lower().partition("x")
    sides = int(width), int(height)
    if not cross or min(sides) < 1:
        raise _wrong()
    return sides


SIZE = Kind(_size, "positive WIDTHxHEIGHT, like 1024x1024, or auto")
"""Width and height in one."""


def _object(value: Any) -> Any:
    """Let an object pass; `pure.configs` reads it, text included."""
    if not isinstance(value, dict | str):
        raise _wrong()
    return value


OBJECT = Kind(_object, "an object, or one as JSON text")
"""An object that is checked elsewhere."""
