"""Where things are said: results on standard output, progress and notes on standard error."""

import sys

import attrs
import rich.console
import rich.text

__all__ = ["Screen", "console", "screen"]

WIDTH = 120
STYLES = {"warning": "yellow", "note": "cyan"}


def console(stderr: bool = False) -> rich.console.Console:
    """Return a console; lines for a pipe or a file are not folded at 80 columns."""
    stream = sys.stderr if stderr else sys.stdout
    return rich.console.Console(stderr=stderr, highlight=False, width=None if stream.isatty() else WIDTH)


@attrs.frozen
class Screen:
    """Two consoles; `quiet` leaves out all but files, warnings and errors."""

    out: rich.console.Console
    notes: rich.console.Console
    quiet: bool = False

    def note(self, text: str, kind: str = "note") -> None:
        """Say something that is no result."""
        if not (self.quiet and kind == "note"):
            self.notes.print(rich.text.Text.assemble((f"{kind}: ", STYLES[kind]), text), soft_wrap=True)

    def line(self, text: str) -> None:
        """Say a result that scripts may read: one line, as it is."""
        # Not through rich: interrupted between writing and emptying its buffer, it would say the line again.
        print(text, file=self.out.file, flush=True)


def screen(quiet: bool = False) -> Screen:
    """Return the screen of this process."""
    return Screen(console(), console(stderr=True), quiet)
