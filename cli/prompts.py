"""The prompts of a command: those of `--prompt`, then those of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pure.engine.errors import Misuse
from pure.engine.reading import prompts_of, read_given

__all__ = ["read_prompts"]


def read_prompts(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return all prompts that the flags `prompt` and `prompt_file_path` give.

    Raises:
        Misuse: there is none, one is no text, or the file cannot be read or holds none.
    """
    prompts, file = list(values["prompt"]), values["prompt_file_path"]
    if file is not None:
        found = prompts_of(read_given(Path(file), "--prompt-file-path"))
        if not found:
            raise Misuse(f"--prompt-file-path {file} holds no prompt; write one per line (a line with # is a comment)")
        prompts += found
    if not prompts:
        raise Misuse('there is no prompt; give --prompt "a red apple" or --prompt-file-path FILE')
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
