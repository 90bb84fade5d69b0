"""What both servers do around every request: failures as answers in OpenAI's shape, statuses for metrics."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from ippo_trainer.http.errors import RequestError

_LATER = {"Retry-After": "1"}
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: _LATER, 503: _LATER}
CLIENT_GONE = 499
"""As a status in metrics: the client went away."""
_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def failures(max_body: int) -> Middleware:
    """The middleware of an application that takes bodies of so many bytes."""

    @web.middleware
    async def answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except RequestError as error:
            failure = error
        except web.HTTPException as error:
            failure = _from_http(request, error, max_body)
        except ConnectionError:
            raise
        except Exception:
            _log.exception("a request failed")
            failure = RequestError(500, "this server failed to answer; its log says why")
        return refusal(request, failure)

    return answer


async def noting(answer: Awaitable[web.StreamResponse], note: Callable[[int], None]) -> web.StreamResponse:
    """The answer to a request. Its status is noted, also where it fails or the client goes away."""
    status = CLIENT_GONE
    try:
        response = await answer
        status = response.status
        return response
    except (RequestError, web.HTTPException) as error:
        status = error.status
        raise
    except ConnectionError:
        raise
    except Exception:
        status = 500
        raise
    finally:
        note(status)


def refusal(request: web.Request, failure: RequestError) -> web.Response:
    """The answer to a request that is not carried out."""
    response = web.json_response(failure.body(), status=failure.status, headers=_HEADERS.get(failure.status))
    if request.content.exception() is not None:
        # The end of a broken body is not known, so nothing more can be read here; aiohttp would log that as a bug.
        response.force_close()
        request.content.feed_eof()
    return response


def _from_http(request: web.Request, error: web.HTTPException, max_body: int) -> RequestError:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return RequestError(413, f"the body is larger than {max_body >> 20} MiB")
    if isinstance(error, web.HTTPNotFound):
        return RequestError(404, f"there is no {request.path} here", code="not_found")
    return RequestError(error.status, f"{request.method} {request.path}: {error.reason}")
