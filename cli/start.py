"""Where the process of `puredit` begins: before anything of weight is imported."""

from pure.cli.interruption import leave_at_once

__all__ = ["start"]


def start() -> None:
    """Run the command line and leave with its exit code."""
    leave_at_once()
    from pure.cli.main import main

    main()
