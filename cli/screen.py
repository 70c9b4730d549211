"""The two streams of a command: results on standard output, progress and notes on standard error."""

import contextlib
import os
import sys

import attrs
import rich.console
import rich.text

__all__ = ["Screen", "blank", "console", "screen"]

WIDTH = 120
STYLES = {"warning": "yellow", "note": "cyan"}


def console(stderr: bool = False) -> rich.console.Console:
    """Return a console; lines for a pipe or a file are folded only where the variable COLUMNS is set."""
    stream = sys.stderr if stderr else sys.stdout
    measured = stream.isatty() or "COLUMNS" in os.environ
    return rich.console.Console(stderr=stderr, highlight=False, width=None if measured else WIDTH)


@attrs.frozen
class Screen:
    """Two consoles; `quiet` leaves out all but files, warnings and errors."""

    out: rich.console.Console
    notes: rich.console.Console
    quiet: bool = False

    def waiting(self, text: str) -> contextlib.AbstractContextManager[object]:
        """Return a context that shows on a terminal what is waited for."""
        return self.notes.status(text) if self.notes.is_terminal else contextlib.nullcontext()

    def note(self, text: str, kind: str = "note") -> None:
        """Print a note or a warning on standard error."""
        if not (self.quiet and kind == "note"):
            self.notes.print(rich.text.Text.assemble((f"{kind}: ", STYLES[kind]), text), soft_wrap=True)

    def line(self, text: str) -> None:
        """Print a line of a result on standard output, for scripts to read."""
        # Not through rich: interrupted between writing and emptying its buffer, it would say the line again.
        print(text, file=self.out.file, flush=True)


def screen(quiet: bool = False) -> Screen:
    """Return the screen of this process."""
    return Screen(console(), console(stderr=True), quiet)


def blank() -> Screen:
    """Return a screen that shows nothing, of a process that only computes."""
    nowhere = rich.console.Console(file=open(os.devnull, "w"))
    return Screen(nowhere, nowhere, quiet=True)
