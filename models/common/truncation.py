"""Notes on prompts that are longer than what reads them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from pure.notes import Note


class Reader(Protocol):
    """What reads the prompts of a pipeline, as far as all families agree."""

    def cut(self, texts: Sequence[str], length: int, /) -> tuple[Note, ...]:
        """Return a note on each of `texts` of which only `length` tokens are read; its subject is the text's index."""
        ...


def cut(
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    most: int,
    decode: Callable[[Sequence[int]], str],
    *,
    reader: str = "the text encoder",
    before: int = 0,
    around: str = "",
    cure: str = "",
) -> tuple[Note, ...]:
    """Return a note on each text that is cut; its subject is the index of the text.

    Args:
        texts: P prompts.
        tokens: of each all its tokens, with those that stand around it.
        most: tokens of each that are read.
        decode: turns all tokens of a text into what is not read of it.
        reader: what reads.
        before: tokens before every prompt, which are not counted.
        around: what the other tokens are that are counted with the prompt.
        cure: what to do about it.

    >>> (note,) = cut(["ab", "abc"], [[1, 2], [1, 2, 3]], 2, lambda ids: "c")
    >>> note.text, note.subject
    ("the text encoder reads 2 tokens and the prompt 'abc' has 3; it does not see 'c'", 1)
    """
    return tuple(
        Note(
            f"{reader} reads {most - before} tokens and the prompt {text!r} has {len(ids) - before}{around}; "
            f"it does not see {decode(ids)!r}{cure}",
            subject=index,
        )
        for index, (text, ids) in enumerate(zip(texts, tokens, strict=True))
        if len(ids) > most
    )
