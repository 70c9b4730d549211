"""Errors that command line, server and library report, each in its own form.

Nothing here knows exit codes or HTTP statuses; `cli.main` and `serving.http.errors` map them.
"""

__all__ = ["Busy", "EngineError", "Failure", "Interrupted", "Misuse", "Stopping"]


class EngineError(Exception):
    """Base of the errors that are reported to the user; `str(error)` is the message.

    Attributes:
        message: what is wrong, where, and the cure.
        field: the option or request field that is wrong; None if it is not one.
        code: a word for programs, such as `invalid_cache_config`; None if there is none.
    """

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.field, self.code = message, field, code


class Misuse(EngineError):
    """The request is wrong or not supported; found before any work is done."""


class Failure(EngineError):
    """The work could not be done: a full disk, or a folder that cannot be written."""


class Stopping(EngineError):
    """The work is not done because the server shuts down."""

    def __init__(self, message: str = "the server is shutting down; ask again later") -> None:
        super().__init__(message, code="shutting_down")


class Busy(EngineError):
    """The work is not taken on because as much as may wait already waits."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"the queue is full: {most} requests wait; ask again later (or start the server with a larger "
            "--max-queued-requests)",
            code="queue_full",
        )


class Interrupted(EngineError):
    """Ctrl-C: finished results stay."""
