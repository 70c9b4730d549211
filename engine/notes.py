"""Warnings of the core as notes of the request that they belong to."""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["collected", "listening"]


class Ears(threading.local):
    """Where the warnings of this thread go; None: wherever they went before."""

    texts: list[str] | None = None


EARS = Ears()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Let `collected` see warnings while a server runs.

    `warnings.catch_warnings` is for all threads at once; two requests would hear each other's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if EARS.texts is not None and issubclass(category, UserWarning):
                EARS.texts.append(str(message))
            else:
                before(message, category, *rest, **named)

        warnings.showwarning = show
        yield


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Collect the texts of this thread's warnings, if `listening`."""
    before, EARS.texts = EARS.texts, []
    try:
        yield EARS.texts
    finally:
        EARS.texts = before
