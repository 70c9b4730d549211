"""Markdown tables, and putting generated text between markers of a document."""

from collections.abc import Sequence
from pathlib import Path


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def replace_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` in a file.

    Raises:
        ValueError: the file has no such markers.
    """
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = path.read_text()
    if opening not in content or closing not in content:
        raise ValueError(f"{path} has no {opening} ... {closing}; add the two markers where the table belongs")
    before, rest = content.split(opening, 1)
    path.write_text(f"{before}{opening}\n{text}\n{closing}{rest.split(closing, 1)[1]}")
