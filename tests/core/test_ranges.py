"""Every setting of every transform, of quantisation and of schedules: its default, and its range to the ends."""

import math
import re
from typing import Any

import attrs
import pytest

import pure
from pure import Schedule, transforms
from pure.checks import LARGEST, MOST
from pure.step import MOST_STEPS
from pure.transforms import (
    Quantization,
    adams,
    budget,
    calibrated,
    compiled,
    dbcache,
    dbprune,
    dmd,
    easycache,
    foca,
    fora,
    guided,
    hermite,
    magcache,
    newton,
    scm,
    seacache,
    speca,
    taylorseer,
    teacache,
)

Values = tuple[Any, tuple, tuple]  # default, what is allowed, what is not


def whole(default: int | None, least: int = 0, most: int = MOST) -> Values:
    return default, (least, most), (least - 1, most + 1, True, float(least), "1")


def number(default: float | None, least: float = 0.0, most: float = LARGEST, above: bool = False) -> Values:
    inner = math.nextafter(least, math.inf) if above else least
    return default, (inner, most), (math.nextafter(inner, -math.inf), math.nextafter(most, math.inf), math.nan, True)


def words(default: str, *others: str) -> Values:
    return default, (default, *others), ("other", None, [default])


def flag(default: bool) -> Values:
    return default, (True, False), (1, None, "yes")


STREAMS = (None, ("all", ("image",), None), ((), ["image"], "image", (1,)))
ON = words("residual", "hidden")
LADDER = {"order": whole(1, 0, 3), "on": ON, "streams": STREAMS}
RATIOS = {"ratios": (1.0, 0.9)}
ANY: Values = (attrs.NOTHING, (), ())
FOLLOW = words("own", "conditional")
MEASURED = {"importance": number(0.0), "downsample": whole(1, 1), "follow": FOLLOW}
RANGES: dict[type, dict[str, Values]] = {
    dbcache: {
        "front": whole(1),
        "back": whole(0),
        "threshold": number(0.24),
        "warmup": whole(4),
        "warmup_interval": whole(1, 1),
        "max_cached": whole(None),
        "max_continuous": whole(3),
        "max_accumulated": number(None),
        **MEASURED,
    },
    dbprune: {
        "front": whole(1),
        "back": whole(0),
        "keep": ((), ((0, 3), ()), ([0], (-1,), (True,), 3)),
        "threshold": number(0.08),
        "warmup": whole(4),
        "max_cached": whole(None),
        "max_continuous": whole(None),
        **MEASURED,
    },
    easycache: {"threshold": number(0.05), "warmup": whole(10), "follow": FOLLOW},
    seacache: {
        "threshold": number(0.25),
        "power": number(3.0, most=10.0),
        "warmup": whole(1),
        "ending": whole(1),
        "max_continuous": whole(2),
    },
    speca: {
        "threshold": number(0.3),
        "decay": number(0.3, most=1.0, above=True),
        "floor": number(0.1),
        "least": whole(2, most=8),  # the default of most
        "most": whole(8),
        "back": whole(1, 1),
        "warmup": whole(4),
    },
    budget: {
        "early": number(0.15),
        "late": number(0.45),
        "front": whole(1, 1),
        "back": whole(0),
        "warmup": whole(4),
    },
    fora: {"interval": whole(3, 1, MOST_STEPS), "warmup": whole(0)},
    magcache: {
        "ratios": (attrs.NOTHING, ((1.0,), (5e-324,)), ((), (0.0,), (-1.0,), (math.inf,), (math.nan,), 3)),
        "threshold": number(0.06),
        "max_skip": whole(3),
        "retention": number(0.2, most=1.0),
    },
    teacache: {
        "threshold": number(None),
        "polynomial": (None, ((1.0, 0.0), (LARGEST,), None), ((), (math.nan,), (2 * LARGEST,), "1", (None,))),
        "warmup": whole(None),
    },
    taylorseer: LADDER,
    newton: LADDER,
    adams: LADDER,
    hermite: {**LADDER, "scale": number(0.5, most=1.0, above=True)},
    calibrated: {**LADDER, "table": ANY},
    foca: {"on": ON, "streams": STREAMS},
    dmd: {"on": ON, "streams": STREAMS, "history": whole(6, 4, 64), "rank": whole(0), "ridge": number(1e-8)},
    scm: {
        "preset": (None, ("slow", "medium", "fast", "ultra", "none"), ("slower", 1)),
        "mask": (None, (), ((), "", "102", [2], [True], [1.0], 10, b"10")),
        "compute_bins": (None, (), ([0, 1], [], [-1], [True], 4, "4")),
        "cache_bins": (None, (), ([], [-1], [True], 4, "4")),
        "steps": whole(None, 1, MOST_STEPS),
        "policy": words("dynamic", "static"),
    },
    guided: {
        "scale": (attrs.NOTHING, (-1000.0, 1000, 0), (-1000.1, 1001, math.nan, True, "2")),
        "start": (0.0, (0, 0.999), (-0.001, 1.0, 1.001, True)),
        "stop": (1.0, (0.001, 1), (0.0, -0.001, 1.001, True)),
        "lowest_sigma": number(0.0, most=1.0),
        "normalize": words("none", "token", "sample"),
        "cap": number(1.0, above=True),
    },
    compiled: {
        "backend": ("inductor", ("eager", len), (3, None, dict)),
        "mode": (None, ("max-autotune", None), (3, True)),
        "regional": flag(True),
    },
    Quantization: {
        "kind": words("float8_per_row", "int8_weight_only", "float8_weight_only", "int4_weight_only"),
        "exclude": (("embedder", "embed", "modulation", "mod"), ((), ("a",)), ("a", ("",), (1,), 3)),
        "blocks": flag(True),
        "fallback": flag(True),
        "plan": ((), ((("a", "int8_per_row"),),), ((("", "int8_per_row"),), (("a", "int9"),), (("a",),), "a")),
    },
    Schedule: {
        "shift": number(1.0, above=True),
        "dynamic": flag(False),
        "base_shift": number(0.5, -LARGEST),
        "max_shift": number(1.15, -LARGEST),
        "base_tokens": whole(256),
        "max_tokens": whole(4096, 1),
        "time_shift": words("exponential", "linear"),
        "empirical": flag(False),
        "terminal": (None, (0.0, 0.999, None), (-0.001, 1.0, 1, math.nan, True)),
        "spacing": words("count", "open", "train", "whole"),
        "train_timesteps": whole(1000, 1),
        "unit": whole(1000, 1),
    },
}
NEEDED = {guided: {"scale": 2.0}, magcache: {"ratios": (1.0,)}, calibrated: {"table": ()}}


@pytest.mark.parametrize("cls", RANGES, ids=lambda cls: cls.__name__)
def test_defaults_and_ranges_of_settings(cls: type) -> None:
    fields = {field.alias: field for field in attrs.fields(cls) if field.init}
    assert fields.keys() == RANGES[cls].keys()
    for name, (default, allowed, refused) in RANGES[cls].items():
        assert fields[name].default == default, name
        needed = {"preset": "fast"} if cls is scm and name in ("steps", "policy") else NEEDED.get(cls, {})
        for value in allowed:
            assert getattr(cls(**{**needed, name: value}), name) == value, (name, value)
        for value in refused:
            with pytest.raises((ValueError, TypeError), match=re.escape(f"{cls.__name__}(") + f".*{name}="):
                cls(**{**needed, name: value})


def test_every_transform_is_there() -> None:
    found = {getattr(transforms, name) for name in transforms.__all__}
    made = {each for each in found if isinstance(each, type) and issubclass(each, pure.Transform)}
    assert made - RANGES.keys() == {transforms.attention}
