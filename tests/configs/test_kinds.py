"""What a value may be, exactly to its ends, and how environment variables are read."""

import math
from typing import Any

import pytest

from pure.configs.kinds import Choice, Entries, Flag, Function, Kind, Mask, Names, Real, Text, Tree, Whole, Wrong

COUNT, LIMIT, SIZE = Whole(1, 3), Whole(0, unlimited=True), Whole(1, words=("auto",))
PRESETS = ("none", "fast")


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (COUNT, 1, 1),
        (COUNT, 3, 3),
        (LIMIT, 0, 0),
        (LIMIT, -1, -1),
        (SIZE, "auto", "auto"),
        (Real(0, most=2.5), 0, 0.0),
        (Real(0, most=2.5), 2.5, 2.5),
        (Real(0, open=True), 1e-9, 1e-9),
        (Real(), -1e20, -1e20),
        (Flag(), False, False),
        (Choice(PRESETS), "none", "none"),
        (Text(most=3), "abc", "abc"),
        (Text(empty=True), " ", " "),
        (Names(), ["a", "b"], ("a", "b")),
        (Names(), [], ()),
        (Entries(0, first=1), [1, 0], (1, 0)),
        (Entries(0, empty=True), [], ()),
        (Entries(0, first=1, empty=True), [], ()),
        (Mask(PRESETS), "fast", "fast"),
        (Mask(PRESETS), "111", (1, 1, 1)),
        (Mask(PRESETS), [1, 0], (1, 0)),
        (Tree(), {"a": [1, None, {"b": 0.5}]}, {"a": [1, None, {"b": 0.5}]}),
        (Tree(lists=True), ["a"], ("a",)),
    ],
)
def test_what_is_allowed(kind: Kind, value: Any, parsed: Any) -> None:
    found = kind.parse(value)
    assert found == parsed and type(found) is type(parsed)


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        (COUNT, 0, ""),
        (COUNT, 4, ""),
        (COUNT, True, ""),
        (COUNT, 2.0, "write 2"),
        (COUNT, 2.5, ""),
        (COUNT, "2", "write 2 without quotes"),
        (COUNT, None, ""),
        (LIMIT, -2, "write -1 for no limit"),
        (SIZE, "Auto", ""),
        (Real(0, most=2.5), -1e-9, ""),
        (Real(0, most=2.5), 2.500001, ""),
        (Real(0, open=True), 0, "leave the key out for no limit"),
        (Real(), math.nan, ""),
        (Real(), math.inf, ""),
        (Real(), 10**400, ""),
        (Real(), True, ""),
        (Real(), "1e-3", "YAML reads 1e-3 as text; write 1.0e-3"),
        (Real(), "1E3", "YAML reads 1E3 as text; write 1.0e+3"),
        (Real(), "1.5e3", "YAML reads 1.5e3 as text; write 1.5e+3"),
        (Flag(), 1, "write true"),
        (Flag(), 0, "write false"),
        (Flag(), 2, ""),
        (Flag(), "off", "write false without quotes"),
        (Flag(), " T ", "write true without quotes"),
        (Choice(PRESETS), False, "write none"),
        (Choice(("fast",)), False, ""),
        (Choice(PRESETS), "fst", "did you mean fast?"),
        (Text(most=3), "abcd", "it has 4 characters"),
        (Text(), " ", "it is empty; leave the key out"),
        (Text(), 7, 'write "7"'),
        (Names(), "a", 'write ["a"]'),
        (Names(), ["a", ""], ""),
        (Names(), ["a", 1], ""),
        (Entries(0, first=1), [0, 1], ""),
        (Entries(0), [], ""),
        (Entries(1), [1, 0], ""),
        (Entries(0), [1, True], ""),
        (Entries(0), "1,2", "write [1,2]"),
        (Mask(PRESETS), [], ""),
        (Mask(PRESETS), "", ""),
        (Mask(PRESETS), [1, 2], ""),
        (Mask(PRESETS), [1, False], ""),
        (Mask(PRESETS), "102", ""),
        (Mask(PRESETS), 110, "put quotes around the digits: without them they are one number"),
        (Tree(), ["a"], ""),
        (Tree(), {"a": math.inf}, ""),
        (Tree(), {1: "a"}, ""),
        (Tree(lists=True), ["a", 1], ""),
        (Function(), "print", "leave the key out"),
    ],
)
def test_what_is_not_and_the_hint(kind: Kind, value: Any, hint: str) -> None:
    with pytest.raises(Wrong) as error:
        kind.parse(value)
    assert str(error.value) == hint


@pytest.mark.parametrize(
    ("kind", "text", "meant"),
    [
        (COUNT, " 2 ", 2),
        (COUNT, "2.5", 2.5),
        (COUNT, "two", "two"),
        (Real(), "1e-3", 0.001),
        (Real(), "x", "x"),
        *((Flag(), text, True) for text in ("1", "TRUE", "yes", "Y", "t", "on ")),
        *((Flag(), text, False) for text in ("0", "False", "no", "N", "f", "off", "", "  ")),
        (Flag(), "2", "2"),
        (Entries(), "8, 3,3", [8, 3, 3]),
        (Entries(), "8;3", "8;3"),
        (Choice(PRESETS), " fast ", "fast"),
    ],
)
def test_what_an_environment_variable_means(kind: Kind, text: str, meant: Any) -> None:
    found = kind.read(text)
    assert found == meant and type(found) is type(meant)
