"""The prompts of a command: those of `--prompt`, then those of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pure.checks import cut
from pure.engine.errors import Misuse

__all__ = ["read_prompts"]


def read_prompts(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return all prompts that the flags `prompt` and `prompt_file_path` give.

    Raises:
        Misuse: there is none, one is no text, or the file cannot be read or holds none.
    """
    prompts, file = list(values["prompt"]), values["prompt_file_path"]
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Misuse(f"--prompt-file-path {cut(str(file))} cannot be read: {reason}") from error
        found = prompts_of(text)
        if not found:
            raise Misuse(f"--prompt-file-path {file} holds no prompt; write one per line (a line with # is a comment)")
        prompts += found
    if not prompts:
        raise Misuse('there is nothing to draw; give --prompt "a red apple" or --prompt-file-path FILE')
    for text in (*prompts, values.get("negative_prompt") or ""):
        check_text(text)
    return tuple(prompts)


def check_text(text: str) -> None:
    """Refuse a prompt that is no text: bytes of another encoding, or half a character.

    Raises:
        Misuse: it is.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Misuse(
            f"the prompt {text[:60]!r} holds what is no character (number {error.start + 1}: a lone surrogate, or a "
            "byte that is not UTF-8); type it in a terminal that uses UTF-8"
        ) from error


def prompts_of(text: str) -> list[str]:
    r"""Return the prompts in a text: one a line, without empty lines and comments.

    A line that begins with # is a comment; a prompt that begins with # is written with \# in front.

    >>> prompts_of("# animals\na cat\n\n  \\#1 dog  \n")
    ['a cat', '#1 dog']
    """
    lines = (line.strip() for line in text.splitlines())
    return [line.removeprefix("\\") if line.startswith("\\#") else line for line in lines if line and line[0] != "#"]
