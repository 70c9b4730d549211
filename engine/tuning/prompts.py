"""What plans are tuned on: built-in prompts for every modality, a file, a sequence, or a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pure.engine.errors import Misuse
from pure.engine.reading import prompts_of, read_given

__all__ = ["BUILT_IN", "Prompts", "read"]

Prompts = str | Path | Sequence[str] | Callable[[int], Sequence[str]]
"""What `read` reads."""

LISTS = Path(__file__).with_name("lists")
BUILT_IN = ("images", "videos", "edits", "emoji")
"""Names of the lists that come with the package; emoji are what the checkpoint in the package knows."""


def read(prompts: Prompts, count: int) -> tuple[str, ...]:
    """Return the first `count` prompts.

    Args:
        prompts: a name of `BUILT_IN`, the path of a text file with one prompt a line, the prompts themselves, or
            a function that returns so many.
        count: at least 1.

    Raises:
        Misuse: there is no such file, it is no text, or there are fewer prompts, or one is no text.

    >>> read("emoji", 1)
    ('banana on a blue background',)
    """
    if isinstance(prompts, str | Path):
        known = prompts in BUILT_IN
        path, where = (LISTS / f"{prompts}.txt", f"the built-in list {prompts!r}") if known else (prompts, str(prompts))
        cure = f"; give a text file, or one of {', '.join(BUILT_IN)}"
        found = prompts_of(read_given(Path(path), "prompts", cure))
    elif callable(prompts):
        found, where = prompts(count), "the function"
    else:
        found, where = prompts, "the sequence"
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(text, str) for text in found):
        raise Misuse(f"prompts to tune with are a sequence of texts, got {found!r:.80} from {where}")
    found = tuple(dict.fromkeys(found))
    if len(found) < count:
        raise Misuse(
            f"{count} different prompts are needed and {where} has {len(found)}; give more, or fit and check with fewer"
        )
    return found[:count]
