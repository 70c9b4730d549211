"""A situation as the code that makes it again."""

import enum
from collections.abc import Iterable
from typing import Any

import attrs

import pure
from pure import Composed, transforms
from pure.testing.situation import Situation
from pure.testing.toys import made_by

__all__ = ["code_of"]


def code_of(situation: Situation, law: str) -> str:
    """Return a program that tries a law, by its name, on a situation.

    Where the model is one's own it is called `model`.
    """
    needed: set[tuple[str, str]] = {("pure.testing", "LAWS"), ("pure.testing", "Situation")}
    made = made_by(situation.model)
    if made is not None:
        needed.add(("pure.testing", made.split("(")[0]))
    transform = _written(situation.transform, needed)
    seed = f", seed={situation.seed}" if situation.seed else ""
    lines = [
        *_imports(needed),
        "",
        *(() if made else (f"model = ...  # {situation.model.name}, the one that was given",)),
        "situation = Situation(",
        f"    model={made or 'model'},",
        f"    transform={transform},",
        f"    seeds={situation.seeds}, count={situation.count}{seed},",
        ")",
        f'LAWS["{law}"](situation)',
    ]
    return "\n".join(lines)


def _imports(needed: Iterable[tuple[str, str]]) -> list[str]:
    modules: dict[str, set[str]] = {}
    for module, name in needed:
        modules.setdefault(module, set()).add(name)
    return [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items())]


def _written(value: Any, needed: set[tuple[str, str]]) -> str:
    """Return the expression of a value, without the fields that have their default."""
    if isinstance(value, Composed) and not value.transforms:
        return _named(pure, "identity", needed)
    if isinstance(value, Composed):
        return f"{_named(pure, 'compose', needed)}({', '.join(_written(each, needed) for each in value.transforms)})"
    if isinstance(value, tuple | list):
        inside = ", ".join(_written(each, needed) for each in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, enum.Enum):
        return f"{_imported(type(value), needed)}.{value.name}"
    if attrs.has(type(value)) and not isinstance(value, type):
        return f"{_imported(type(value), needed)}({', '.join(_fields(value, needed))})"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _imported(value, needed)
    return repr(value)


def _fields(record: Any, needed: set[tuple[str, str]]) -> list[str]:
    found = []
    for field in attrs.fields(type(record)):
        value = getattr(record, field.name)
        default = field.default.factory() if _simple(field.default) else field.default
        if field.init and not (type(default) is type(value) and default == value):
            found.append(f"{field.alias}={_written(value, needed)}")
    return found


def _simple(default: Any) -> bool:
    return isinstance(default, attrs.Factory) and not default.takes_self  # type: ignore[arg-type]


def _imported(thing: Any, needed: set[tuple[str, str]]) -> str:
    """Return the name of a class or function, and note where it is imported from."""
    module, name = thing.__module__, thing.__qualname__
    for public in (pure, transforms):
        if name in public.__all__ and getattr(public, name) is thing:
            return _named(public, name, needed)
    if module != "builtins":
        needed.add((module, name.split(".")[0]))
    return name


def _named(public: Any, name: str, needed: set[tuple[str, str]]) -> str:
    needed.add((public.__name__, name))
    return name
