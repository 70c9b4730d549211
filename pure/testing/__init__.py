"""The laws that transforms and denoisers are held to, for those of your own.

    from pure.testing import check_laws

    def test_mine():
        check_laws(mine(0.5))  # a transform; or a Model, or a denoiser with its inputs

A law is a function of a `Situation` and raises an AssertionError where it does not hold; `LAWS` has all by name.
`check_laws` tries them on situations that were chosen and on some that hypothesis draws, the same every time, and
shows the smallest one in which a law fails as code to paste. What draws needs the extra: pip install
'puredit[testing]'.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from pure.testing.checking import LawBroken, check_laws
    from pure.testing.laws import LAWS, Law, applies
    from pure.testing.recipes import RECIPES
    from pure.testing.situation import Entry, Model, Situation
    from pure.testing.strategies import batches, denoisers, plans, situations, states, steps, transforms
    from pure.testing.toys import CLOSED, EXPERTS, RANDOM, STREAMS, experts_model, random_model, streams_model

__all__ = [
    "CLOSED",
    "EXPERTS",
    "LAWS",
    "RANDOM",
    "RECIPES",
    "STREAMS",
    "Entry",
    "Law",
    "LawBroken",
    "Model",
    "Situation",
    "applies",
    "batches",
    "check_laws",
    "denoisers",
    "experts_model",
    "plans",
    "random_model",
    "situations",
    "states",
    "steps",
    "streams_model",
    "transforms",
]

# Imported where they are first read: what draws needs hypothesis.
_MODULES = {
    "checking": "LawBroken check_laws",
    "laws": "LAWS Law applies",
    "recipes": "RECIPES",
    "situation": "Entry Model Situation",
    "strategies": "batches denoisers plans situations states steps transforms",
    "toys": "CLOSED EXPERTS RANDOM STREAMS experts_model random_model streams_model",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = _importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ModuleNotFoundError(
            f"pure.testing.{name} draws with hypothesis, which is not installed; pip install 'puredit[testing]'",
            name="hypothesis",
        ) from error
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
