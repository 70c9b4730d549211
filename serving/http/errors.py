"""Errors as HTTP responses: a status for every kind of error, and one shape of body for all."""

from typing import Any

from fastapi.responses import JSONResponse

from pure.engine.errors import Busy, EngineError, Failure, Misuse, Stopping

__all__ = ["HttpError", "body_of", "response_to", "status_of"]

STATUSES = {Misuse: 400, Stopping: 503, Busy: 503, Failure: 500}
KINDS = {501: "not_implemented_error", 503: "server_unavailable"}


class HttpError(EngineError):
    """An error with a status of its own, such as 404 or 413."""

    def __init__(self, message: str, status: int, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, field=field, code=code)
        self.status = status


def status_of(error: EngineError) -> int:
    """Return the HTTP status of an error.

    >>> status_of(Misuse("size is wrong")), status_of(HttpError("no such image", 404))
    (400, 404)
    """
    if isinstance(error, HttpError):
        return error.status
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)


def body_of(error: EngineError) -> dict[str, Any]:
    """Return the body of the response: `error` as OpenAI's clients read it, `detail` as SGLang's do.

    >>> body_of(Misuse("size is wrong", field="size"))["error"]["param"]
    'size'
    """
    status = status_of(error)
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    message = _encodable(error.message)
    param = None if error.field is None else _encodable(error.field)
    return {"error": {"message": message, "type": kind, "param": param, "code": error.code}, "detail": message}


def response_to(error: EngineError) -> JSONResponse:
    """Return the response that reports an error."""
    return JSONResponse(body_of(error), status_of(error))


def _encodable(text: str) -> str:
    """Return text that UTF-8 can encode: what a client sent may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
