"""What an interruption does: while a command is imported it ends the process, later it is KeyboardInterrupt."""

import os
import signal

__all__ = ["INTERRUPTED", "leave_at_once", "raise_from_now_on", "was_asked"]

INTERRUPTED = 130
"""The exit code that shells report after Ctrl-C."""
asked: list[int] = []


def leave_at_once() -> None:
    """Leave at Ctrl-C and SIGTERM: nothing is lost yet, and what imports torch turns an exception into others."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else who started us has it ignored
        signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)


def raise_from_now_on() -> None:
    """Raise KeyboardInterrupt where the process would be left: there is something to put in order."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _leave:
            signal.signal(number, _raise)


def was_asked() -> bool:
    """Whether KeyboardInterrupt was raised, whatever has become of it: libraries may turn it into another error."""
    return bool(asked)


def _leave(number: int, frame: object) -> None:
    os.write(2, b"\nerror: interrupted\n")  # as click does: a terminal shows ^C before it
    os._exit(INTERRUPTED)


def _raise(number: int, frame: object) -> None:
    asked.append(number)
    raise KeyboardInterrupt
