"""Kinds of values that only requests have, and reading a value that may come as text.

The kinds of `pure.configs.kinds` are strict. Forms send everything as text, so here text of the right form
counts, and so does a whole number that JSON writes as 28.0.
"""

from typing import Any

import attrs

from pure.configs.kinds import Text, Unchecked, ValueKind, Whole, Wrong
from pure.serving.http.strict_json import parse_json

__all__ = ["Many", "Size", "read_value"]


def read_value(kind: ValueKind, value: Any) -> Any:
    """Return a value of a request, JSON or the text of a form, as its kind reads it.

    >>> read_value(Whole(1, 10), "3"), read_value(Whole(1, 10), 3.0)
    (3, 3)

    Raises:
        Wrong: it is not allowed.
    """
    if isinstance(kind, Text | Size | Many | Unchecked):
        return kind.parse(value)
    if isinstance(kind, Whole) and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        if not value.strip():
            raise Wrong("it is empty; leave the field out")
        value = kind.read(value)
    return kind.parse(value)


@attrs.frozen
class Many(ValueKind):
    """One value of a kind, or a list of at most `most`; a form may hold the list as JSON."""

    kind: ValueKind
    most: int

    @property
    def allowed(self) -> str:
        """What each may be."""
        return f"{self.kind.allowed}, or a list of at most {self.most} of them"

    def parse(self, value: Any) -> tuple:
        """Check every entry."""
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parse_json(value)
            except ValueError as error:
                raise Wrong(str(error)) from error
        values = value if isinstance(value, list) else [value]
        if not 1 <= len(values) <= self.most:
            raise Wrong(f"it has {len(values)} entries")
        return tuple(read_value(self.kind, entry) for entry in values)


@attrs.frozen
class Size(ValueKind):
    """Width and height in one text; `auto` is the model's own size."""

    most: int

    @property
    def allowed(self) -> str:
        """The form and the limit."""
        return f"WIDTHxHEIGHT, like 1024x1024, each from 1 to {self.most}, or auto"

    def parse(self, value: Any) -> tuple[int, int] | None:
        """Return (width, height)."""
        if value in ("auto", ""):
            return None
        if not isinstance(value, str):
            raise Wrong
        width, cross, height = value.strip().lower().partition("x")
        if not (cross and value.isascii() and width.isdecimal() and height.isdecimal()):
            raise Wrong
        side = Whole(1, self.most)
        return side.parse(side.read(width)), side.parse(side.read(height))
