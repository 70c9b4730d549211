"""What an interruption does: while a command is imported it ends the process, later it is KeyboardInterrupt.

Once the command is done, it ends the process again, and while the interpreter is taken down it does nothing.
"""

import atexit
import contextlib
import functools
import os
import signal
import sys
from typing import NoReturn

__all__ = [
    "INTERRUPTED",
    "abandon",
    "leave",
    "leave_at_once",
    "leave_from_now_on",
    "raise_from_now_on",
    "was_asked",
]

INTERRUPTED = 130
"""The exit code that shells report after Ctrl-C."""
asked: list[int] = []
abandoned: list[bool] = []


def leave_at_once() -> None:
    """Leave at Ctrl-C and SIGTERM: nothing is lost yet, and what imports torch turns an exception into others."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else who started us has it ignored
        signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    _ignore_at_the_end()


@functools.cache
def _ignore_at_the_end() -> None:
    """Register `_ignore` once, before all others, so that it runs after them."""
    atexit.register(_ignore)


def raise_from_now_on() -> None:
    """Raise KeyboardInterrupt where the process would be left: there is something to put in order."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _leave:
            signal.signal(number, _raise)


def leave_from_now_on() -> None:
    """Leave at an interruption again: the command is done, and an exception would have nobody to catch it."""
    _flush()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _raise:
            signal.signal(number, _leave)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # what cannot be written is reported at the exit
            stream.flush()


def abandon() -> None:
    """Have `leave` not wait for a thread that is in the middle of a step, which nothing can break off."""
    abandoned.append(True)


def leave(code: int) -> NoReturn:
    """Leave with an exit code."""
    if abandoned:  # taking the interpreter down under a thread that computes waits for it, or aborts
        _flush()
        os._exit(code)
    sys.exit(code)


def was_asked() -> bool:
    """Whether KeyboardInterrupt was raised, whatever has become of it: libraries may turn it into another error."""
    return bool(asked)


def _leave(number: int, frame: object) -> None:
    os.write(2, b"\nerror: interrupted\n")  # as click does: a terminal shows ^C before it
    os._exit(INTERRUPTED)


def _ignore() -> None:
    """Let an interruption do nothing: Python gives up its handlers before the libraries are taken down."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (_leave, _raise):
            signal.signal(number, signal.SIG_IGN)


def _raise(number: int, frame: object) -> None:
    asked.append(number)
    raise KeyboardInterrupt
