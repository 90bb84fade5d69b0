"""Where a server listens."""

import socket

from aiohttp import web

from ippo_trainer.contract.errors import BadSpecError

_BACKLOG = 512


async def listen(runner: web.AppRunner, port: int, argument: str = "--port", address: str = "") -> None:
    """At an address; without one, one socket for IPv6 and IPv4 on all of them, so that port 0 gives both the same free
    one.

    Raises:
        BadSpecError: the port is taken, or none; it names the argument.
    """
    try:
        if not address and socket.has_dualstack_ipv6():
            listener = socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        else:
            listener = socket.create_server((address, port), backlog=_BACKLOG)
        await web.SockSite(runner, listener).start()
    except (OSError, OverflowError) as error:
        raise BadSpecError(
            f"cannot listen on {address and f'{address}, '}port {port}: {error}", f"Choose another {argument}."
        ) from error
