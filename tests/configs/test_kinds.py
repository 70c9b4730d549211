"""What a value may be, exactly to its ends, and how environment variables are read."""

import math
from typing import Any

import pytest

from pure.configs.kinds import (
    MOST,
    Bool,
    Callback,
    Choice,
    Counts,
    Nested,
    Real,
    StepMask,
    Text,
    ValueKind,
    Whole,
    Words,
    Wrong,
)

COUNT, LIMIT, SIZE = Whole(1, 3), Whole(0, unlimited=True), Whole(1, words=("auto",))
PRESETS = ("none", "fast")


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (COUNT, 1, 1),
        (Whole(0, 10**15), 10**14, 10**14),  # a range of its own may go beyond what is the most without one
        (COUNT, 3, 3),
        (LIMIT, MOST, MOST),
        (LIMIT, 0, 0),
        (LIMIT, -1, -1),
        (SIZE, "auto", "auto"),
        (Real(0, most=2.5), 0, 0.0),
        (Real(0, most=2.5), 2.5, 2.5),
        (Real(0, open=True), 1e-9, 1e-9),
        (Real(), -1e20, -1e20),
        (Bool(), False, False),
        (Choice(PRESETS), "none", "none"),
        (Text(most=3), "abc", "abc"),
        (Text(empty=True), " ", " "),
        (Words(), ["a", "b"], ("a", "b")),
        (Words(), [], ()),
        (Words(), ["b", "a", "b"], ("b", "a")),
        (Counts(1), [MOST, MOST], (MOST, MOST)),
        (Counts(0, first=1), [1, 0], (1, 0)),
        (Counts(0, empty=True), [], ()),
        (Counts(0, first=1, empty=True), [], ()),
        (StepMask(PRESETS), "fast", "fast"),
        (StepMask(PRESETS), "111", (1, 1, 1)),
        (StepMask(PRESETS), [1, 0], (1, 0)),
        (Nested(), {"a": [1, None, {"b": 0.5}]}, {"a": [1, None, {"b": 0.5}]}),
        (Nested(lists=True), ["a"], ("a",)),
    ],
)
def test_what_is_allowed(kind: ValueKind, value: Any, parsed: Any) -> None:
    found = kind.parse(value)
    assert found == parsed and type(found) is type(parsed)


KEYS = "keys are text, and values text, finite numbers, true, false, null, and lists and mappings of them"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": math.inf}, "the number inf for its key a"),
        ({"b": 1, "a": {"c": [1, [math.nan]]}}, "the number nan for its key a.c"),
        ({1: "a"}, "the number 1 as a key"),
        ({"a": {None: 1}}, "null as a key of a"),
        ({"a": {1, 2}}, "set {1, 2} for its key a"),
    ],
)
def test_what_is_wrong_in_a_mapping_is_named(value: Any, found: str) -> None:
    for kind in (Nested(), Nested(lists=True)):
        with pytest.raises(Wrong) as error:
            kind.parse(value)
        assert error.value.found == found
    assert Nested().parse({"a": (1.0, 0)}) == {"a": (1.0, 0)}


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        (COUNT, 0, ""),
        (COUNT, 4, ""),
        (COUNT, True, ""),
        (COUNT, 2.0, "write 2"),
        (COUNT, 2.5, ""),
        (COUNT, "2", "write 2 without quotes"),
        (COUNT, "2.0", "write 2 without quotes"),
        (COUNT, "2.5", "write 2.5 without quotes"),
        (COUNT, "1e3", "write 1000"),
        (COUNT, "1e300", ""),
        (COUNT, None, ""),
        (LIMIT, -2, "write -1 for no limit"),
        (LIMIT, MOST + 1, f"at most {MOST}"),
        (SIZE, "Auto", ""),
        (Real(0, most=2.5), -1e-9, ""),
        (Real(0, most=2.5), 2.500001, ""),
        (Real(0, open=True), 0, "leave the key out for no limit"),
        (Real(), math.nan, ""),
        (Real(), math.inf, ""),
        (Real(), 10**400, ""),
        (Real(), True, ""),
        (Real(), -1.1e30, "at most 1e+30"),
        (Real(), "1e-3", "YAML reads 1e-3 as text; write 1.0e-3"),
        (Real(), "1e+3", "YAML reads 1e+3 as text; write 1.0e+3"),
        (Real(), "1E3", "YAML reads 1E3 as text; write 1.0e+3"),
        (Real(), "1.5e3", "YAML reads 1.5e3 as text; write 1.5e+3"),
        (Bool(), 1, "write true"),
        (Bool(), 0, "write false"),
        (Bool(), 2, ""),
        (Bool(), "off", "write false without quotes"),
        (Bool(), " T ", "write true without quotes"),
        (Choice(PRESETS), False, "write none"),
        (Choice(("fast",)), False, ""),
        (Choice(PRESETS), "fst", "did you mean fast?"),
        (Text(most=3), "abcd", "it has 4 characters"),
        (Text(), " ", "it is empty; leave the key out"),
        (Text(), 7, 'write "7"'),
        (Words(), "a", 'write ["a"]'),
        (Words(), ["a", ""], ""),
        (Words(), ["a", 1], ""),
        (Counts(0, first=1), [0, 1], ""),
        (Counts(0), [], ""),
        (Counts(1), [1, 0], ""),
        (Counts(0), [1, True], ""),
        (Counts(0), "1,2", "write [1,2]"),
        (Counts(0), [1, MOST + 1], f"at most {MOST}"),
        (StepMask(PRESETS), [], ""),
        (StepMask(PRESETS), "", ""),
        (StepMask(PRESETS), [1, 2], ""),
        (StepMask(PRESETS), [1, False], ""),
        (StepMask(PRESETS), "102", ""),
        (StepMask(PRESETS), 110, "put quotes around the digits: without them they are one number"),
        (Nested(), ["a"], ""),
        (Nested(), {"a": math.inf}, KEYS),
        (Nested(), {1: "a"}, KEYS),
        (Nested(), {"a": [1, math.inf]}, KEYS),
        (Nested(lists=True), ["a", 1], ""),
        (Callback(), "print", "leave the key out"),
    ],
)
def test_what_is_not_and_the_hint(kind: ValueKind, value: Any, hint: str) -> None:
    with pytest.raises(Wrong) as error:
        kind.parse(value)
    assert str(error.value) == hint


@pytest.mark.parametrize(
    ("kind", "text", "meant"),
    [
        (COUNT, "+2", 2),
        (COUNT, " 2 ", " 2 "),
        (COUNT, "2.5", 2.5),
        (COUNT, "two", "two"),
        (Real(), "1e-3", 0.001),
        (Real(), "x", "x"),
        *((Bool(), text, True) for text in ("1", "TRUE", "yes", "Y", "t", "on ")),
        *((Bool(), text, False) for text in ("0", "False", "no", "N", "f", "off", "", "  ")),
        (Bool(), "2", "2"),
        (Counts(), "8, 3,3", [8, 3, 3]),
        (Counts(), "8;3", "8;3"),
        (Choice(PRESETS), " fast ", "fast"),
    ],
)
def test_what_an_environment_variable_means(kind: ValueKind, text: str, meant: Any) -> None:
    found = kind.read(text)
    assert found == meant and type(found) is type(meant)


def test_of_many_words_the_first_are_shown() -> None:
    words = tuple("abcdefghijklmno")
    assert Choice(words[:14]).allowed == "one of " + ", ".join(words[:14])
    assert Choice(words).allowed == "one of " + ", ".join(words[:12]) + " and 3 more"
