"""What the public functions return and public records hold has a type, in which there is no Any."""

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


def vague(annotation: object) -> bool:
    """Whether there is Any anywhere in a type."""
    if isinstance(annotation, list | tuple):
        return any(map(vague, annotation))
    return annotation is typing.Any or vague(typing.get_args(annotation))


def held(thing: object) -> Iterator[tuple[str, object]]:
    """The public fields of a class, those that it has from the package included, and their types."""
    for cls in inspect.getmro(thing) if inspect.isclass(thing) else ():
        if room(cls.__module__) is None or cls.__module__ == "pure.engine.notebook":  # names matplotlib's Figure
            continue
        hints = typing.get_type_hints(cls, localns=dict(public()))
        for name in inspect.get_annotations(cls):
            if not name.startswith("_"):
                yield f"{cls.__module__}.{cls.__qualname__}.{name}", hints[name]


TREE = "streams, conditioning and what is prepared of it: a tree of the family's own records, which only it looks into"
OPAQUE = "of the solver, which alone looks into it; Solver is invariant in it, so that object would fit no solver"
PARAMS = "tensors, or of experts a mapping of such: a union would ask everybody who reads one which it is"
STATES = "of one denoiser, or of experts a mapping of such: a check reads the one that it is for"
SETTINGS = "values as they are in a file, each checked by its own key"
ALLOWED = {
    **dict.fromkeys(("pure.block.Block.run", "pure.block.Ending.run", "pure.plan.Probe.of"), TREE),
    **{f"pure.denoiser.Denoiser.{name}": TREE for name in ("prepare", "embed", "head", "probe", "own", "modulated")},
    **dict.fromkeys(("pure.guidance.Branches.conditional", "pure.guidance.Branches.unconditional"), TREE),
    **dict.fromkeys(("pure.memory.State.prepared", "pure.programs.ProgramState.prepared"), TREE),
    "pure.tree.Shared.value": TREE,
    "pure.testing.situation.Model.conditioning": TREE,
    "pure.loop.Frame.carry": OPAQUE,
    "pure.testing.situation.Entry.carry": OPAQUE,
    "pure.testing.situation.Entry.before": STATES,
    "pure.testing.situation.Entry.after": STATES,
    "pure.models.pipeline.Pipeline.solver": OPAQUE,
    "pure.testing.situation.Model.solver": OPAQUE,
    "pure.models.pipeline.Pipeline.params": PARAMS,
    "pure.testing.situation.Model.params": PARAMS,
    "pure.models.pipeline.Pipeline.codec": "an autoencoder, which each family has a type for",
    "pure.models.request.Request.memo": "what `once` computed, and returns with its type",
    "pure.configs.layer.Setting.value": SETTINGS,
    "pure.configs.schema.CacheConfig.cache_options": SETTINGS,
    **{
        f"pure.configs.schema.ParallelismConfig.{name}": SETTINGS
        for name in (
            "extra_parallel_kwargs", "parallel_kwargs", "ray_init_kwargs", "ray_runtime_env", "ray_worker_options",
        )
    },
    **{
        f"pure.configs.schema.QuantizeConfig.{name}": SETTINGS
        for name in ("components_to_quantize", "precision_plan", "svdq_kwargs")
    },
}  # fmt: skip
"""The fields whose types have an Any, and why; no function returns one."""


class Sample:
    """For the check of the check."""

    field: tuple[int, ...] = ()
    _own: typing.Any = None

    def typed(self) -> int:
        return 1

    def untyped(self):
        return 1

    @property
    def anything(self) -> typing.Any:
        return 1

    @staticmethod
    def still() -> dict[str, list[typing.Any] | None]:
        return {}

    @staticmethod
    def called() -> Callable[[int, typing.Any], int]:
        return max


def test_the_check_sees(monkeypatch):
    monkeypatch.setattr("tests.structure.test_types.room", lambda name: name if name == __name__ else None)
    found = {each.__name__ for each in functions(Sample) if vague(returned(each))}
    assert found == {"untyped", "anything", "still", "called"}
    assert dict(held(Sample)) == {f"{__name__}.Sample.field": tuple[int, ...]}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_function_returns_any(package):
    names = importlib.import_module(package).__all__
    assert names
    found = {
        f"{function.__module__}.{function.__qualname__}"
        for name in names
        for function in functions(public()[name])
        if vague(returned(function))
    }
    assert not found, "say what these return, without Any anywhere in it: " + ", ".join(sorted(found))


def test_the_fields_that_may_hold_anything_are_known():
    found = {name for thing in public().values() for name, each in held(thing) if vague(each)}
    assert found == set(ALLOWED)
