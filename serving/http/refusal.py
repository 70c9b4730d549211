"""What a client is told when its request is not carried out: one shape for every status."""

from typing import Any

__all__ = ["Refusal", "body_of", "shutting_down"]

KINDS = {404: "invalid_request_error", 501: "not_implemented_error", 503: "server_unavailable"}


class Refusal(Exception):
    """A request that is not carried out.

    Attributes:
        status: of HTTP.
        message: what is wrong, where, and what to do.
        param: the field that is wrong, None where it is not one.
        code: a word for programs, such as `model_not_found`.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)


def shutting_down() -> Refusal:
    """Return what everything that waits is told when the server stops."""
    return Refusal("the server is shutting down; ask again later", 503, code="shutting_down")


def body_of(refusal: Refusal) -> dict[str, Any]:
    """Return the body of the response: `error` as OpenAI's clients read it, `detail` as SGLang's do.

    >>> body_of(Refusal("size is wrong", param="size"))["error"]["param"]
    'size'
    """
    kind = KINDS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return {"error": error, "detail": refusal.message}
