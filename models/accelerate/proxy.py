"""The object that an accelerated pipeline has in place of a component."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pure.models.adapt.forward import arguments_of

CONTEXT: contextvars.ContextVar[str] = contextvars.ContextVar("name of the cache context", default="")


class Proxy:
    """A component, except for its calls.

    Args:
        module: the component; what is read and written here is read and written there.
        step: `(arguments by name) -> what the module returns`, or None where no call of the pipeline runs.
    """

    def __init__(self, module: torch.nn.Module, step: Callable[[], Callable[[dict[str, Any]], Any] | None]) -> None:
        vars(self).update(_module=module, _step=step)

    @property
    def __class__(self) -> Any:  # type: ignore[override]  # isinstance says what it says of the module
        return type(vars(self).get("_module", self))

    def __getattr__(self, name: str) -> Any:
        if "_module" not in vars(self):  # made by __new__ alone, as unpickling does
            raise AttributeError(f"{name}: this is the place of a component without one")
        return getattr(vars(self)["_module"], name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Let `copy`, `deepcopy` and `pickle` make a plain component, without the cache."""
        return vars(self)["_module"].__reduce_ex__(protocol)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_module"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(vars(self)["_module"], name)

    def __repr__(self) -> str:
        return repr(vars(self)["_module"])

    def __dir__(self) -> list[str]:
        return dir(vars(self)["_module"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take the step of the pipeline's call that this is; outside any call just call the module."""
        module, step = vars(self)["_module"], vars(self)["_step"]()
        if step is None:
            return module(*args, **kwargs)
        return step({**dict(zip(arguments_of(bare(module)), args, strict=False)), **kwargs})

    @contextlib.contextmanager
    def cache_context(self, name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Note the name that the pipeline gives to what it does next."""
        token = CONTEXT.set(name)
        try:
            with vars(self)["_module"].cache_context(name, *args, **kwargs):
                yield
        finally:
            CONTEXT.reset(token)


def real(value: Any) -> Any:
    """Return the component that a proxy stands for; anything else as it is."""
    return vars(value)["_module"] if type(value) is Proxy else value


def bare(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module that `torch.compile` has wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)
