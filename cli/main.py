"""The command `puredit`: its sub-commands, and errors as messages and exit codes."""

import errno
import itertools
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

import pure
from pure.checks import nearest
from pure.cli.commands import COMMANDS
from pure.cli.interruption import INTERRUPTED, leave, leave_at_once, leave_from_now_on, was_asked
from pure.cli.memory import keep_memory
from pure.cli.parsing import WIDEST, CommandContext
from pure.configs import ConfigError
from pure.engine.errors import EngineError, Interrupted, Misuse
from pure.engine.libraries import quiet_imports

__all__ = ["main", "run"]

FAILED, MISUSED = 1, 2
"""Exit codes; see also `INTERRUPTED`."""


class Commands(click.Group):
    """The group; an unknown command names the nearest known one."""

    context_class = CommandContext

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            guess = nearest(args[0], self.commands)
            hint = f"did you mean {guess}?" if guess else f"there are: {', '.join(sorted(self.commands))}"
            raise Misuse(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST})
@click.version_option(pure.__version__, "-V", "--version", prog_name="puredit")
def puredit() -> None:
    """Diffusion-transformer inference as pure functions."""


for command in COMMANDS:
    puredit.add_command(command)


def main() -> None:
    """Run the command line and leave with its exit code; a request to terminate is an interruption."""
    leave_at_once()
    _open_streams()
    quiet_imports()
    keep_memory(os.environ)
    try:
        code = run(sys.argv[1:])
        leave_from_now_on()
    except KeyboardInterrupt:  # a second time, while the first one was told, or just as all was done
        leave_from_now_on()
        code = _complain("interrupted", INTERRUPTED, False)
    leave(code)


def _open_streams() -> None:
    """Let what goes to a stream that the shell has closed (`>&-`) go nowhere; Python has None for it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def run(words: Sequence[str]) -> int:
    """Run the command line and return its exit code: 0, 1 failed, 2 misuse, 130 interrupted."""
    debug = not {"--debug", "--log-level=debug"}.isdisjoint(words) or ("--log-level", "debug") in itertools.pairwise(
        words
    )
    try:
        return puredit.main(list(words), prog_name="puredit", standalone_mode=False) or 0
    except Interrupted as error:
        return _complain(error.message, INTERRUPTED, debug)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", INTERRUPTED, False)
    except Exception as error:
        return _complain("interrupted", INTERRUPTED, debug) if was_asked() else _failed(error, debug)


def _failed(error: Exception, debug: bool) -> int:
    """Say what went wrong and return the exit code."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message())
            return 0
        case click.ClickException():
            return _complain(error.format_message(), error.exit_code, debug)
        case EngineError():
            return _complain(error.message, MISUSED if isinstance(error, Misuse) else FAILED, debug)
        case ConfigError():
            return _complain(str(error), error.exit_code, debug)
        case BrokenPipeError():
            _drop_output()
            return FAILED
        case OSError(errno=errno.ENOSPC, filename=None):
            # Files are named by what writes them; what is left is what the output goes to.
            _drop_output()
            return _complain(
                f"cannot write to standard output: {error.strerror}; files that were made stay", FAILED, debug
            )
    where = "" if debug else "; --debug shows where"
    return _complain(f"{type(error).__name__}: {error}{where}", FAILED, debug)


def _drop_output() -> None:
    """Drop what cannot be written to standard output: Python would try again at its end, and fail with code 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int, debug: bool) -> int:
    if "RANK" in os.environ:
        from pure.engine.ranks import is_follower

        if is_follower(os.environ):
            return code
    if debug:
        traceback.print_exc()
    click.echo(f"{click.style('error:', fg='red')} {message}", err=True)
    return code


if __name__ == "__main__":
    main()
