"""Notes: what is worth saying to a person, as data.

The core and the models return notes or raise; the shells print them. Nothing below the
outermost calls of the library uses `warnings`.
"""

import warnings
from collections.abc import Iterable
from typing import Literal

import attrs


@attrs.frozen
class Note:
    """One thing worth saying: a setting without effect, a prompt that was cut, a plan that cannot skip.

    Attributes:
        text: one or more plain sentences.
        kind: "warning": the result is probably not what was wanted; "note": good to know.
        subject: index of the sample it is about; None: all samples.

    >>> Note("the prompt is cut to 77 tokens", subject=1).kind
    'warning'
    """

    text: str
    kind: Literal["warning", "note"] = "warning"
    subject: int | None = None


def warn(notes: Iterable[Note], stacklevel: int = 2) -> None:
    """Turn each note into one `UserWarning`; only for the outermost calls of the library.

    Args:
        notes: the same text twice warns once.
        stacklevel: as of `warnings.warn`: 1 is the line that called `warn`, 2 its caller.
    """
    for text in dict.fromkeys(note.text for note in notes):
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)
