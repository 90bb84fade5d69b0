"""Which status metrics count for a request, however it ends."""

import asyncio

import pytest
from aiohttp import web
from ippo_trainer.gateway.sending import ClientGoneError
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.middleware import CLIENT_GONE, noting

ENDS = {
    "an answer": (web.Response(status=204), 204),
    "a refusal": (RequestError(429, "too many"), 429),
    "a body that is too large": (web.HTTPRequestEntityTooLarge(1, 2), 413),
    "a bug": (ValueError("a bug"), 500),
    "a connection that is lost": (ConnectionResetError(), CLIENT_GONE),
    "a client that takes nothing": (ClientGoneError(), CLIENT_GONE),
    "a client that hangs up": (asyncio.CancelledError(), CLIENT_GONE),
}


@pytest.mark.parametrize("name", ENDS)
def test_each_end_is_counted_once_by_its_status(name: str) -> None:
    end, status = ENDS[name]
    noted: list[int] = []

    async def answer() -> web.StreamResponse:
        if isinstance(end, BaseException):
            raise end
        return end

    async def go() -> object:
        try:
            return await noting(answer(), noted.append)
        except BaseException as error:
            return error

    assert asyncio.run(go()) is end
    assert noted == [status]
