"""Where the process of `puredit` begins: before anything of weight is imported."""

import os
import signal

__all__ = ["start"]


def start() -> None:
    """Run the command line and leave with its exit code.

    While the commands are imported, an interruption or a request to terminate leaves at once: nothing is lost, and an
    exception would show where Python stood.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else who started us has it ignored
        signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    from pure.cli.main import main

    main()


def _leave(number: int, frame: object) -> None:
    os.write(2, b"\nerror: interrupted\n")  # as click does: a terminal shows ^C before it
    os._exit(128 + signal.SIGINT)  # as `main.INTERRUPTED`, which would have to be imported
