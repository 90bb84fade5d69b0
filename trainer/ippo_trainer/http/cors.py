"""Which pages in browsers may ask (CORS, the Fetch standard). None, unless they are named.

Answers carry no `Access-Control-Allow-Credentials`: a browser sends no cookie and no login of its own. A key in an
Authorization header that a page sets itself is the page's.
"""

import re
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import hdrs, web

from ippo_trainer.http.errors import RequestError

ANY = "*"
_METHODS = "GET, POST"
_SECONDS = "600"
_HEADERS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+){0,63}")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Cors:
    """Answers preflight requests and marks answers.

    Args:
        origins: that may ask, as in `contract.origins.ORIGIN`, or `*`; none turns it off.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = {origin.lower() for origin in origins}

    def install(self, app: web.Application) -> None:
        """For all routes, before any other middleware."""
        if self._origins:
            app.middlewares.insert(0, self._preflight)
            app.on_response_prepare.append(self._mark)

    def _allowed(self, request: web.Request) -> bool:
        return ANY in self._origins or request.headers.get(hdrs.ORIGIN, "").lower() in self._origins

    async def _mark(self, request: web.Request, response: web.StreamResponse) -> None:
        if ANY in self._origins:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = ANY
        else:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
            if not self._allowed(request):
                return
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = hdrs.RETRY_AFTER

    @web.middleware
    async def _preflight(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        method = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or method is None:
            return await handler(request)
        if not self._allowed(request):
            error = RequestError(403, "pages of this origin may not ask; see spec.serve.allowedOrigins", code="origin")
            return web.json_response(error.body(), status=403)
        headers = {hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS, hdrs.ACCESS_CONTROL_MAX_AGE: _SECONDS}
        names = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").strip()
        if _HEADERS.fullmatch(names):  # clients send headers of their own, which say nothing here
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = names
        return web.Response(status=204, headers=headers)
