"""What the API server says no with, by name. Callers of the client tell errors apart by class; what a status code means
is said here, and where kopf or a connection has an answer before the client does."""

from collections.abc import Mapping

from ippo_trainer.contract.lines import one_line

MAX_TOLD = 4096
"""Bytes of what a server, or a webhook behind it, says."""


class ApiError(Exception):
    """The API server refused a request, or could not be reached.

    Args:
        message: the server's own words, on one line.
        status: HTTP status; 0 where there was no answer.
        reason: metav1.Status' reason, "" where there is none.
        retry_after: seconds that the server asks to wait.
    """

    def __init__(self, message: str, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class NotFoundError(ApiError):
    """404: no such object, namespace or kind of resource."""


class AlreadyExistsError(ApiError):
    """409 on a create: the name is taken."""


class ConflictError(ApiError):
    """409 on a write: the object changed since it was read, or is another one of that name."""


class GoneError(ApiError):
    """410: the page or version asked for is no longer kept; list again."""


class InvalidError(ApiError):
    """422 or 400: the server does not accept the object. Sending it again does not help."""


class UnauthorizedError(ApiError):
    """401: the credentials are not accepted."""


class ForbiddenError(ApiError):
    """403: RBAC, quota, admission, or the namespace is being deleted."""


class UnavailableError(ApiError):
    """408, 429, 5xx, a time-out or a lost connection. A write may or may not have happened."""


class TooLargeError(ApiError):
    """An answer is larger than what is read of one. Where it is one of a write, the write has happened."""


class FencedError(Exception):
    """This process does not hold the lease (any more), so it does not write."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
}


def refuses_object(error: ApiError) -> bool:
    """Whether the run has to say so: the object itself is refused, or somebody's webhook, without which it is not
    taken, does not answer. Repeating the request at once is of no use."""
    unanswered = error.status == 500 and "calling webhook" in str(error)
    return unanswered or (400 <= error.status < 500 and error.status not in {404, 408, 409, 410, 429})


def from_response(status: int, headers: Mapping[str, str], body: object) -> ApiError:
    """The error of a response that is no success. `body` is a metav1.Status where the server wrote one."""
    answer = body if isinstance(body, dict) else {}
    reason = str(answer.get("reason") or "")
    message = one_line(str(answer.get("message") or f"HTTP {status}"), MAX_TOLD)
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExistsError(message, status, reason)
    kind = _BY_STATUS.get(status)
    if kind is not None:
        return kind(message, status, reason)
    if status in {408, 429} or status >= 500:
        return UnavailableError(message, status, reason, _retry_after(headers, answer))
    return ApiError(message, status, reason)


def _retry_after(headers: Mapping[str, str], answer: Mapping[str, object]) -> float | None:
    """Seconds; the header's date form is not used by API servers and counts as absent."""
    details = answer.get("details")
    seconds = headers.get("Retry-After") or (details.get("retryAfterSeconds") if isinstance(details, dict) else None)
    try:
        return max(0.0, float(seconds)) if seconds is not None else None
    except (TypeError, ValueError):
        return None
