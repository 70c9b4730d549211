"""Mistakes and mishaps as the command line reports them, and their exit codes."""

import difflib
from collections.abc import Iterable

import click

__all__ = ["INTERRUPTED", "Failure", "Interrupted", "Misuse", "nearest"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Failure(click.ClickException):
    """The run could not be carried out: a full disk, a folder that cannot be written. Exit code 1."""

    exit_code = 1


class Misuse(click.ClickException):
    """What was asked for is wrong or not available; found before any work is done. Exit code 2."""

    exit_code = 2


class Interrupted(click.ClickException):
    """Ctrl-C: what is finished stays. Exit code 130."""

    exit_code = INTERRUPTED


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word closest to `word`, None if none is close.

    >>> nearest("--promt", ["--prompt", "--seed"])
    '--prompt'
    >>> nearest("--prompt-file", ["--prompt", "--prompt-file-path"])
    '--prompt-file-path'
    """
    known = sorted(known)
    longer = [candidate for candidate in known if len(word) > 4 and candidate.startswith(word)]
    close = longer or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return close[0] if close else None
