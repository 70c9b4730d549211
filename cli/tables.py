"""Tables on a screen of any width."""

from collections.abc import Sequence

import rich.box
import rich.console
import rich.padding
import rich.table
import rich.text

__all__ = ["print_table"]

SPACE = 3  # columns between cells
LEAST = 12  # columns that a folded cell needs


def print_table(
    console: rich.console.Console, head: Sequence[str], rows: Sequence[Sequence[str]], title: str = ""
) -> None:
    """Print rows as a table, or where it is too wide as one paragraph for each row.

    Args:
        console: where.
        head: names of the columns; all empty for a table without a head.
        rows: cells; the first one of a row is its heading in a paragraph.
        title: above the table.
    """
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    if widths[0] + sum(min(width, LEAST) for width in widths[1:]) + SPACE * len(widths) > console.width:
        _paragraphs(console, head, rows, title)
        return
    table = rich.table.Table(
        title=title or None, title_justify="left", box=rich.box.SIMPLE_HEAD, show_header=any(head), pad_edge=False
    )
    for number, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=number == 0, style=None if any(head) or number else "bold")
    for row in rows:
        table.add_row(*map(rich.text.Text, row))
    console.print(table)


def _paragraphs(console: rich.console.Console, head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    if title:
        console.print(rich.text.Text(f"\n{title}", style="italic"))
    for first, *others in rows:
        console.print(rich.text.Text(f"\n{first}", style="bold"))
        said = "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(head[1:], others, strict=True))
        console.print(rich.padding.Padding(rich.text.Text(said), (0, 0, 0, 2)))
    console.print()
