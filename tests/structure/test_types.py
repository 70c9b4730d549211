"""What the public functions return has a type, which is not Any."""

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator

import pytest

from tests.structure.house import room

PACKAGES = ("pure", "pure.transforms", "pure.models", "pure.distributed", "pure.configs", "pure.testing")


@functools.cache
def public() -> dict[str, object]:
    """The public things of all packages; annotations may name those that are imported for type checkers only."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        found |= {name: getattr(module, name) for name in module.__all__}
    return found


def functions(thing: object) -> Iterator[Callable]:
    """A function itself; of a class its public methods and properties, and those that it has from the package."""
    if inspect.isfunction(thing):
        yield thing
    for cls in inspect.getmro(thing) if inspect.isclass(thing) else ():
        if room(cls.__module__) is None:
            continue
        for name, member in vars(cls).items():
            if name.startswith("_") and name != "__call__":
                continue
            inner = (
                getattr(member, "fget", None) or getattr(member, "__func__", None) or getattr(member, "func", member)
            )
            if inspect.isfunction(inner):
                yield inner


def returned(function: Callable) -> object:
    """What a function says it returns; Any where it says nothing."""
    return typing.get_type_hints(function, localns=dict(public())).get("return", typing.Any)


class Sample:
    """For the check of the check."""

    def typed(self) -> int:
        return 1

    def untyped(self):
        return 1

    @property
    def anything(self) -> typing.Any:
        return 1

    @staticmethod
    def still() -> typing.Any:
        return 1


def test_the_check_sees(monkeypatch):
    monkeypatch.setattr("tests.structure.test_types.room", lambda name: name if name == __name__ else None)
    assert {each.__name__ for each in functions(Sample) if returned(each) is typing.Any} == {
        "untyped",
        "anything",
        "still",
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_function_returns_any(package):
    names = importlib.import_module(package).__all__
    assert names
    vague = {
        f"{function.__module__}.{function.__qualname__}"
        for name in names
        for function in functions(public()[name])
        if returned(function) is typing.Any
    }
    assert not vague, "say what these return: " + ", ".join(sorted(vague))
