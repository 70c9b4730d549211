"""Reading text files that people write, such as prompts: one a line."""

from pathlib import Path

from pure.checks import cut
from pure.configs.reading import read_text
from pure.engine.errors import Misuse

__all__ = ["prompts_of", "read_given"]


def read_given(path: Path, what: str, cure: str = "") -> str:
    """Return the text of a file that a flag or an argument names.

    Args:
        path: of the file.
        what: whose file it is, as the message names it.
        cure: end of the message.

    Raises:
        Misuse: it cannot be read, or is not UTF-8.
    """
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Misuse(f"{what} {cut(str(path))} cannot be read: {reason}{cure}") from error


def prompts_of(text: str) -> list[str]:
    r"""Return the prompts in a text: one a line, without empty lines and comments.

    A line that begins with # is a comment; a prompt that begins with # is written with \# in front.

    >>> prompts_of("# animals\na cat\n\n  \\#1 dog  \n")
    ['a cat', '#1 dog']
    """
    lines = (line.strip() for line in text.splitlines())
    return [line.removeprefix("\\") if line.startswith("\\#") else line for line in lines if line and line[0] != "#"]
