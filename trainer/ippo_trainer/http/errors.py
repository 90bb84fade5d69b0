"""Errors that a client sees, in OpenAI's shape."""

from typing import Any

_TYPES = {404: "not_found_error", 429: "rate_limit_error"}
_CODES = {404: "model_not_found", 413: "request_too_large", 429: "too_many_requests", 503: "not_ready"}


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: one line that says what is wrong and what to do.
        param: the field at fault.
        code: for programs; a usual one of the status by default.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code or _CODES.get(status)

    def body(self) -> dict[str, Any]:
        """The JSON that the client gets."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
