"""Strict JSON with limits: names that repeat, NaN, and values that are too large or too deep are refused by name."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["Invalid", "check_values", "parse_json"]

DEEPEST = 32
"""Most values inside each other."""
MOST = 100_000
"""Most brackets and commas outside of strings, which bound the number of values."""
STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
LONGEST = 200
"""Most characters of a name."""
DIGITS = 40
"""Longer whole numbers are read as floating-point numbers, which is enough to refuse them."""


class Invalid(ValueError):
    """JSON that is refused.

    Attributes:
        field: the name at the top under which the mistake is; None if it is not under one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def parse_json(text: bytes | str) -> Any:
    """Parse a JSON text.

    >>> parse_json('{"n": 2}')
    {'n': 2}

    Raises:
        Invalid: it is not JSON, not UTF-8, too large or nested too deeply, has a name twice, or holds NaN,
            Infinity or a lone surrogate.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        if _marks(text) > MOST and _marks(STRING.sub("", text)) > MOST:
            raise Invalid(f"it has more than {MOST} values")
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise Invalid(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Invalid(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise Invalid("values are nested too deeply") from error
    check_values(value)
    return value


def _marks(text: str) -> int:
    return sum(map(text.count, "[{,"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Invalid(f"{name[:LONGEST]!r} is there twice", name[:LONGEST])
        found[name] = value
    return found


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= DIGITS else float(text)


def check_values(value: Any) -> None:
    """Check that everything in a value can be written as JSON and as UTF-8, and is not nested too deeply.

    Raises:
        Invalid: something cannot; with the name at the top under which it is.
    """
    for entry, field, depth in _all(value):
        where = "" if field is None else f"{_safe(field)}: "
        if depth > DEEPEST:
            raise Invalid(f"{where}values are nested more than {DEEPEST} deep", field)
        if isinstance(entry, float) and not math.isfinite(entry):
            raise Invalid(f"{where}NaN, Infinity and numbers out of range are not allowed", field)
        if isinstance(entry, str) and _safe(entry) != entry:
            raise Invalid(f"{where}the text holds half of a character (a lone surrogate)", field)
        if isinstance(entry, dict) and (long := next((name for name in entry if len(name) > LONGEST), None)):
            raise Invalid(f"{where}a name has {len(long)} characters", field)


def _all(value: Any) -> Iterator[tuple[Any, str | None, int]]:
    """Yield every value with the name at the top it is under and its depth; names count as values."""
    waiting: list[tuple[Any, str | None, int]] = [(value, None, 0)]
    while waiting:
        entry, field, depth = waiting.pop()
        yield entry, field, depth
        if isinstance(entry, dict):
            for name, inner in entry.items():
                top = _safe(name)[:LONGEST] if field is None else field
                waiting += [(name, top, depth + 1), (inner, top, depth + 1)]
        elif isinstance(entry, list):
            waiting += [(inner, field, depth + 1) for inner in entry]


def _safe(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
