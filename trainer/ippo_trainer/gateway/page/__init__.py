"""The page of a gateway, for people of the business: a suggestion for a customer's message, what they do with it, and
how the conversation ended. Static files; a browser lets them load nothing else and speak to nobody but the gateway."""

from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import web

_FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def install(app: web.Application) -> None:
    """Adds the page's routes. They need no key: nothing in the files is anybody's."""
    for path, (name, kind) in _FILES.items():
        app.router.add_get(path, _handler(resources.files(__name__).joinpath(name).read_bytes(), kind))


def _handler(body: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    return answer
