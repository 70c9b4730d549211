"""Readers of prompts: how many tokens of one each encoder reads, and notes on prompts that have more.

Shapes: P texts, T tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from pure.checks import cut
from pure.notes import Note


def as_it_is(text: str) -> str:
    """Return the text."""
    return text


@attrs.frozen
class Window:
    """The tokens that one encoder reads of a prompt.

    Attributes:
        tokenizer: turns a text into tokens.
        most: T, tokens that are read, with those that stand around the prompt.
        written: from a prompt to the text that is read, such as a conversation it stands in.
        before: tokens before every prompt, which notes do not count.
        last: tokens at the end that truncation keeps, because they mark the end of the prompt.
        options: of the tokenizer.
        reader: name of the encoder in notes.
        around: remark on tokens that are counted with the prompt.
        cure: remark on how to read more.
    """

    tokenizer: Any
    most: int
    written: Callable[[str], str] = as_it_is
    before: int = 0
    last: int = 1
    options: Mapping[str, Any] = attrs.field(factory=dict)
    reader: str = "the text encoder"
    around: str = ""
    cure: str = ""

    def tokens(self, texts: Sequence[str]) -> Any:
        """Return `input_ids` and `attention_mask` (P, T) of texts, by padding or truncation."""
        whole, length = [self.written(text) for text in texts], self.most
        return self.tokenizer(
            whole, padding="max_length", max_length=length, truncation=True, return_tensors="pt", **self.options
        )

    def cut(self, texts: Sequence[str]) -> tuple[Note, ...]:
        """Return a note on each text that is cut; its subject is the index of the text."""
        tokens = self.tokenizer([self.written(text) for text in texts], **self.options).input_ids
        return tuple(
            Note(
                f"{self.reader} reads {self.most - self.before} tokens and the prompt {cut(text)!r} has "
                f"{len(ids) - self.before}{self.around}; it does not see {cut(self._lost(ids))!r}{self.cure}",
                subject=index,
            )
            for index, (text, ids) in enumerate(zip(texts, tokens, strict=True))
            if len(ids) > self.most
        )

    def _lost(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids[self.most - self.last :], skip_special_tokens=self.last > 0)


@attrs.frozen(kw_only=True, eq=False)
class Reader:
    """Base of what reads the prompts of a pipeline; a family adds how.

    Attributes:
        tokenizer: turns texts into tokens.
        text_encoder: reads the tokens.
    """

    tokenizer: Any
    text_encoder: Any

    def windows(self, length: int) -> tuple[Window, ...]:
        """Return what each encoder reads of prompts of `length` tokens at most; nothing where they are read whole."""
        return ()

    def cut(self, texts: Sequence[str], length: int) -> tuple[Note, ...]:
        """Return a note on each text that an encoder does not read whole; its subject is the index of the text."""
        return tuple(note for window in self.windows(length) for note in window.cut(texts))
