"""Values of flags: the kinds of `pure.configs.kinds`, as click takes them."""

import json
import math
from typing import Any

import click
from click.shell_completion import CompletionItem

from pure.checks import LARGEST_SEED
from pure.configs.kinds import Bool, Real, ValueKind, Whole, Wrong, show

__all__ = ["Json", "Value", "boolean", "count", "number", "whole"]


class Value(click.ParamType):
    """A value of one kind: text on the command line, already of its type in a file of flags.

    Attributes:
        kind: says what is allowed.
        name: stands for the value in the help text.
    """

    def __init__(self, kind: ValueKind, name: str) -> None:
        self.kind, self.name = kind, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value in its type."""
        try:
            found = self.kind.parse(self.kind.read(value) if isinstance(value, str) else value)
        except Wrong as wrong:
            hint = f"; {wrong}" if str(wrong) and (not isinstance(value, str) or "most" in str(wrong)) else ""
            self.fail(f"{_shown(value)} is not {self.kind.allowed}{hint}", param, ctx)
        return found

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the words of a boolean."""
        words = ("true", "false") if isinstance(self.kind, Bool) else ()
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _shown(value: Any) -> str:
    """Return a value as it was typed, cut where it is long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}... ({len(value)} characters)"
    return show(value) if isinstance(value, int | float) and not isinstance(value, bool) else f"{value!r:.60}"


def boolean() -> Value:
    """Return the type of a switch that takes a value; the flag alone means true."""
    return Value(Bool(), "true|false")


def whole(least: int = 1, most: int | None = None) -> Value:
    """Return the type of a whole number from `least` to `most`."""
    return Value(Whole(least, most, bound=LARGEST_SEED), "number")


def count() -> Value:
    """Return the type of a number of processes: at most what `pure.distributed.run` starts."""
    return Value(Whole(1, 256), "count")


def number(least: float = 0.0, most: float = math.inf) -> Value:
    """Return the type of a finite number from `least` to `most`."""
    return Value(Real(least, most=most), "number")


class Json(click.ParamType):
    """A JSON object on the command line, a mapping in a file."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict:
        """Return the value as a dict."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                self.fail(
                    f"{_shown(value)} is not JSON ({error}); put it in single quotes: '{{\"key\": 1}}'", param, ctx
                )
        if not isinstance(value, dict):
            self.fail(f"{_shown(value)} is {type(value).__name__}; a JSON object {{...}} is wanted", param, ctx)
        return value
