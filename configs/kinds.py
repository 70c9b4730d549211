"""What values a key may have: one frozen record per kind of value, strict, nothing is coerced silently.

`parse` takes what a YAML or JSON document says and returns the value in its frozen form;
`read` turns the text of an environment variable into what `parse` takes. Both raise `Wrong`.
"""

import abc
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs

from pure.checks import LARGEST, MOST
from pure.configs import numerals
from pure.configs.report import did_you_mean

__all__ = [
    "Bool", "Callback", "Choice", "Counts", "Nested", "Real", "StepMask", "Text", "Unchecked", "ValueKind", "Whole",
    "Words", "Wrong", "show",
]  # fmt: skip

TRUE = ("1", "true", "yes", "y", "t", "on")
FALSE = ("0", "false", "no", "n", "f", "off", "")


class Wrong(ValueError):
    """A value that is not allowed; its text is the hint, which may be empty, `found` a part of it that is wrong."""

    def __init__(self, hint: str = "", found: str = "") -> None:
        super().__init__(hint)
        self.found = found


def show(value: object) -> str:
    """Say what a value is, as in `found text '8'`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"text {value[:60]!r}"
    if isinstance(value, int | float):
        return f"the number {_written(value)}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list {_written(list(value))}"
    return f"{type(value).__name__} {_written(value)}"


def _written(value: object) -> str:
    """Return the beginning of a value's text; Python writes no number of more than 4300 digits."""
    try:
        return str(value)[:60]
    except ValueError:
        return "of more than 4300 digits"


@attrs.frozen
class ValueKind(abc.ABC):
    """Base of the kinds; one that allows always the same sets `wording`, any other overrides `allowed`."""

    wording: ClassVar[str] = ""

    @property
    def allowed(self) -> str:
        """What may be written."""
        return self.wording

    @abc.abstractmethod
    def parse(self, value: Any) -> Any:
        """Return the value in its frozen form.

        Raises:
            Wrong: it is not allowed.
        """

    def read(self, text: str) -> Any:
        """Return what the text of an environment variable means; `parse` checks it."""
        return text.strip()


@attrs.frozen
class Whole(ValueKind):
    """A whole number in a range, or one of some words; `unlimited` lets -1 mean no limit.

    Without `most` it is at most `bound`, far beyond what makes sense.
    """

    least: int
    most: int | None = None
    unlimited: bool = False
    words: tuple[str, ...] = ()
    bound: int = MOST

    @property
    def allowed(self) -> str:
        """The range."""
        upper = f"from {self.least} to {self.most}" if self.most is not None else f"of at least {self.least}"
        others = (*(("-1 for no limit",) if self.unlimited else ()), *self.words)
        return "".join([f"a whole number {upper}", *(f", or {other}" for other in others)])

    def parse(self, value: Any) -> Any:
        """Check type and range."""
        if isinstance(value, str) and value in self.words:
            return value
        if isinstance(value, float) and value.is_integer():
            raise Wrong(f"write {int(value)}")
        if isinstance(value, str):
            raise Wrong(numerals.unquoted(value, integral=True))
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong
        if self.unlimited and value < 0:
            if value == -1:
                return value
            raise Wrong("write -1 for no limit")
        if value > self.bound and self.most is None:
            raise Wrong(f"at most {self.bound}")
        if value < self.least or (self.most is not None and value > self.most):
            raise Wrong
        return value

    def read(self, text: str) -> Any:
        """Digits, with or without a sign; other numbers are read as well, for `parse` to refuse by name."""
        return found if (found := numerals.whole(text)) is not None else Real().read(text)


@attrs.frozen
class Real(ValueKind):
    """A finite number, of at least or more than `least`, and at most `most`."""

    least: float = -math.inf
    open: bool = False
    most: float = math.inf

    @property
    def allowed(self) -> str:
        """The range."""
        if self.least == -math.inf:
            return "a finite number"
        upper = f" and at most {self.most:g}" if self.most < math.inf else ""
        return f"a finite number {'above' if self.open else 'of at least'} {self.least:g}{upper}"

    def parse(self, value: Any) -> float:
        """Check type and range."""
        if isinstance(value, str):
            raise Wrong(numerals.unquoted(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong
        try:
            number = float(value)
        except OverflowError:
            raise Wrong from None
        if number > self.most:
            raise Wrong
        if LARGEST < abs(number) < math.inf:
            raise Wrong(f"at most {LARGEST:g}")
        if not math.isfinite(number) or number < self.least or (self.open and number == self.least):
            raise Wrong("leave the key out for no limit" if self.open else "")
        return number

    def read(self, text: str) -> Any:
        """A number as JSON and YAML write it, or "nan" and "inf"; text stays text, and what is beyond the largest."""
        return found if (found := numerals.real(text)) is not None else text


@attrs.frozen
class Bool(ValueKind):
    """True or false."""

    wording: ClassVar[str] = "true or false"

    def parse(self, value: Any) -> bool:
        """Check the type."""
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in (*TRUE, *FALSE):
            raise Wrong(f"write {'true' if value.strip().lower() in TRUE else 'false'} without quotes")
        if value in (0, 1):
            raise Wrong(f"write {'true' if value else 'false'}")
        raise Wrong

    def read(self, text: str) -> Any:
        """By the grammar of boolean variables; any other text stays text, which `parse` refuses."""
        word = text.strip().lower()
        return True if word in TRUE else False if word in FALSE else text


@attrs.frozen
class Choice(ValueKind):
    """One of some words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The words, or the first of many."""
        more = f" and {len(self.words) - 12} more" if len(self.words) > 14 else ""
        return "one of " + ", ".join(self.words[:12] if more else self.words) + more

    def parse(self, value: Any) -> str:
        """Check membership."""
        if value is False and "none" in self.words:
            raise Wrong("write none")
        if not isinstance(value, str) or value not in self.words:
            if str(value).lower() in ("none", "null"):
                raise Wrong("leave the key out")
            raise Wrong(did_you_mean(value, self.words) if isinstance(value, str) else "")
        return value


@attrs.frozen
class Text(ValueKind):
    """Text, of at most `most` characters, that is not empty unless `empty` allows it."""

    empty: bool = False
    most: int | None = None

    @property
    def allowed(self) -> str:
        """The length."""
        return "text" if self.most is None else f"text of at most {self.most} characters"

    def parse(self, value: Any) -> str:
        """Check the type."""
        if not isinstance(value, str):
            if isinstance(value, bool):
                raise Wrong("put it in quotes: YAML reads yes, no, on and off as true and false")
            raise Wrong(f'write "{value}"' if isinstance(value, int | float) else "")
        if not value.strip() and not self.empty:
            raise Wrong("it is empty; leave the key out")
        if self.most is not None and len(value) > self.most:
            raise Wrong(f"it has {len(value)} characters")
        return value


@attrs.frozen
class Words(ValueKind):
    """A list of texts; `names`: those that there are, `others`: known ones that cannot be had, and why."""

    names: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()

    @property
    def allowed(self) -> str:
        """What may be written."""
        return "a list of " + (" and ".join(map(repr, self.names)) or "names")

    def parse(self, value: Any) -> tuple[str, ...]:
        """Check every entry."""
        if isinstance(value, str):
            raise Wrong(f'write ["{value[:60]}"]')
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
            raise Wrong
        if self.names and (unknown := [name for name in value if name not in self.names]):
            raise Wrong(dict(self.others).get(unknown[0], f"there is no {unknown[0][:60]!r}"))
        return tuple(dict.fromkeys(value))


@attrs.frozen
class Counts(ValueKind):
    """A list of whole numbers of at least `least`; `first`: the least of the first one."""

    least: int = 0
    first: int = 0
    empty: bool = False

    @property
    def allowed(self) -> str:
        """What may be written."""
        first = f", the first of at least {self.first}" if self.first > self.least else ""
        return f"a list of whole numbers of at least {self.least}{first}, such as [8, 3, 3, 2, 2]"

    def parse(self, value: Any) -> tuple[int, ...]:
        """Check every entry."""
        if isinstance(value, str):
            raise Wrong("" if isinstance(self.read(value), str) else f"write [{value[:60]}]")
        if not isinstance(value, list | tuple) or (not value and not self.empty):
            raise Wrong
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= self.least for n in value):
            raise Wrong
        if max(value, default=0) > MOST:
            raise Wrong(f"at most {MOST}")
        if value and value[0] < self.first:
            raise Wrong
        return tuple(value)

    def read(self, text: str) -> Any:
        """Numbers separated by commas."""
        found = [numerals.whole(part.strip()) for part in text.split(",")]
        return text if None in found else found


@attrs.frozen
class StepMask(ValueKind):
    """A step mask: a preset, a list of 0 and 1, or a string of them (which becomes the list)."""

    presets: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The three forms."""
        return f'one of {", ".join(self.presets)}, a list of 0 and 1, or a text of them such as "110010"'

    def parse(self, value: Any) -> str | tuple[int, ...]:
        """Check the form."""
        if isinstance(value, str) and value in self.presets:
            return value
        if isinstance(value, str):
            if value and set(value) <= {"0", "1"}:
                return tuple(int(digit) for digit in value)
            raise Wrong(did_you_mean(value, self.presets))
        if isinstance(value, int) and not isinstance(value, bool):
            raise Wrong("put quotes around the digits: without them they are one number")
        if not isinstance(value, list | tuple) or not value:
            raise Wrong
        if not all(isinstance(n, int) and not isinstance(n, bool) and n in (0, 1) for n in value):
            raise Wrong
        return tuple(value)


@attrs.frozen
class Nested(ValueKind):
    """A mapping that is passed on as it is; `lists`: a list will do too."""

    lists: bool = False

    @property
    def allowed(self) -> str:
        """What may be written."""
        return "a mapping" + (" or a list of names" if self.lists else "")

    def parse(self, value: Any) -> Any:
        """Check that it is plain data."""
        if self.lists and isinstance(value, list):
            return Words().parse(value)
        if not isinstance(value, dict):
            raise Wrong
        if wrong := next(_not_plain(value, ""), None):
            raise Wrong(f"keys are text, and values {PLAIN}", wrong)
        return value


@attrs.frozen
class Callback(ValueKind):
    """A Python function: it cannot be written in a configuration."""

    wording: ClassVar[str] = "null: a Python function cannot be written in a configuration"

    def parse(self, value: Any) -> Any:
        """Refuse."""
        raise Wrong("leave the key out")


@attrs.frozen
class Unchecked(ValueKind):
    """A value that is checked elsewhere, such as a whole `cache_dit_params`."""

    wording: ClassVar[str] = "an object, or one as JSON text"

    def parse(self, value: Any) -> Any:
        """Let it pass."""
        return value

    def read(self, text: str) -> Any:
        """As it is, so that places in it are right."""
        return text


PLAIN = "text, finite numbers, true, false, null, and lists and mappings of them"


def _not_plain(value: Any, path: str) -> Iterator[str]:
    """Yield what is no plain data in a value, with the keys that lead to it."""
    where = f" for its key {path}" if path else ""
    if isinstance(value, dict):
        for key, entry in value.items():
            if isinstance(key, str):
                yield from _not_plain(entry, f"{path}.{key}" if path else key)
            else:
                yield f"{show(key)} as a key" + where.replace("for its key", "of")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _not_plain(entry, path)
    elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
        yield show(value) + where
