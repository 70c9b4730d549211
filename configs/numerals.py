"""Numbers as people type them: not by Python's grammar, which takes "1_0", " 1" and the digits of all scripts."""

import math
import re

from pure.checks import MOST

__all__ = ["real", "typed", "unquoted", "whole"]

WHOLE = re.compile(r"[+-]?[0-9]{1,400}")
DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)")
WRITTEN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")
WORDS = re.compile(r"[+-]?(nan|inf|infinity)")


def whole(text: str) -> int | None:
    """Return a whole number of digits, with or without a sign; None of other text.

    >>> whole("+28"), whole("2_8"), whole(" 28")
    (28, None, None)
    """
    return int(text) if WHOLE.fullmatch(text) else None


def real(text: str) -> float | None:
    """Return a number as JSON and YAML write it, or of the words nan and inf; None of other text, and beyond floats.

    >>> real("1.5e-3"), real("nan"), real("1e400"), real("1_0.5")
    (0.0015, nan, None, None)
    """
    text = text.lower()
    if WRITTEN.fullmatch(text):
        return found if math.isfinite(found := float(text)) else None
    return float(text) if WORDS.fullmatch(text) else None


def typed(text: str, value: float) -> bool:
    """Whether a number that YAML 1.1 reads is meant: it also reads 1_0, 017, 0x1f, 0b11 and 1:30 as numbers.

    >>> typed("15", 15), typed("017", 15), typed("1_0", 10), typed("1:30", 90), typed(".inf", float("inf"))
    (True, False, False, False, True)
    """
    if isinstance(value, int):
        return DECIMAL.fullmatch(text) is not None
    return WRITTEN.fullmatch(text.lower()) is not None or WORDS.fullmatch(text.lower().replace(".", "")) is not None


def unquoted(text: str, integral: bool = False) -> str:
    """Say how to write a number that was written as text; an `integral` one without a power.

    >>> unquoted("1e3"), unquoted("1e3", integral=True), unquoted("08")
    ('YAML reads 1e3 as text; write 1.0e+3', 'write 1000', 'write 8 without quotes')
    """
    if len(text) > 60 or (number := real(text.strip())) is None:
        return ""
    powered = "e" in text.lower() and math.isfinite(number)
    if integral and number.is_integer():
        shown = f"write {int(number)}" if abs(number) <= MOST else ""
        return shown if powered or not shown else f"{shown} without quotes"
    if powered:
        mantissa, _, power = text.lower().partition("e")
        power = power if power[:1] in "+-" else f"+{power}"
        return f"YAML reads {text} as text; write {mantissa if '.' in mantissa else mantissa + '.0'}e{power}"
    found = whole(text.strip())
    return f"write {text.strip() if found is None else found} without quotes"
