"""A live line of computed and skipped steps on a terminal; elsewhere one line at the end."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import rich
import rich.console
import rich.live
import rich.text

from pure.info import Info
from pure.loop import Frame, Observer
from pure.statistics import tally

__all__ = ["Progress", "following", "marks"]

COMPUTED, SKIPPED = ("█", "bold green"), ("░", "yellow")
PLAIN_COMPUTED, PLAIN_SKIPPED = "#", "."
REST = 36  # columns of what stands beside the marks


def marks(infos: Sequence[Info], plain: bool = False) -> list[tuple[str, str]]:
    """Return a mark and its style for every step, of the conditional branch where there are two.

    >>> from pure.info import Decision
    >>> info = Info((Decision(0, True, "warm-up", None, 3),))
    >>> marks([info], plain=True)
    [('#', 'bold green')]
    """
    computed, skipped = COMPUTED, SKIPPED
    if plain:
        computed, skipped = (PLAIN_COMPUTED, computed[1]), (PLAIN_SKIPPED, skipped[1])
    return [computed if info.decisions[0].computed else skipped for info in infos]


@contextlib.contextmanager
def following(observe: Observer | None, progress: bool, count: int) -> Iterator[Callable[[Frame], None]]:
    """Yield what is called with every frame of a run of `count` steps: the observer, and a live line if asked for."""
    seen = [observe] if observe is not None else []
    with contextlib.ExitStack() as stack:
        if progress:
            line = stack.enter_context(Progress(rich.get_console(), "steps", count))
            seen.append(lambda frame: line.update(frame.info))
        yield lambda frame: _each(seen, frame)


def _each(seen: Sequence[Observer], frame: Frame) -> None:
    for see in seen:
        see(frame)


class Progress:
    """Shows one run; a context manager whose `update` takes the info of every step as it comes."""

    def __init__(self, console: rich.console.Console, title: str, count: int, quiet: bool = False) -> None:
        self.console, self.title, self.count, self.quiet = console, title, count, quiet
        self.infos: list[Info] = []
        self.plain = not (console.encoding or "").lower().startswith("utf")
        self._live: rich.live.Live | None = None

    def __enter__(self) -> "Progress":
        """Start the live line, on a terminal only."""
        if (self.console.is_terminal or self.console.is_jupyter) and not self.quiet:
            live = rich.live.Live(self._line(), console=self.console, refresh_per_second=12)
            live.start()
            self._live = live
        return self

    def update(self, info: Info) -> None:
        """Show one more step."""
        self.infos.append(info)
        if self._live is not None:
            self._live.update(self._line())

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Leave the last state of the line on the screen."""
        if self._live is not None:
            self._live.update(self._line(), refresh=True)
            self._live.stop()
        elif not self.quiet and kind is None:
            self.console.print(self._line(), soft_wrap=True, highlight=False)

    def _line(self) -> rich.text.Text:
        counts = next(iter(tally(self.infos).values()), None)
        computed, skipped = (len(counts.computed), len(counts.skipped)) if counts else (0, 0)
        line = rich.text.Text(no_wrap=True, overflow="crop")
        line.append(f"{self.title} ", "bold")
        shown = marks(self.infos, self.plain)
        room = max(10, self.console.width - len(self.title) - REST) if self._live is not None else self.count
        if self.count > room:  # show the newest steps
            line.append("..." if len(shown) > room else "", "dim")
            shown = shown[-room:]
        for mark, style in shown:
            line.append(mark, style)
        line.append("" if self.plain else "·" * (min(self.count, room) - len(shown)), "dim")
        line.append(f" {len(self.infos)}/{self.count}")
        line.append(f"  {computed} computed", "green")
        line.append(f"  {skipped} skipped", "yellow")
        return line
