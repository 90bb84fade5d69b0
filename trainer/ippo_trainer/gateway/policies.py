"""Asks policy servers. What fails is tried once more where that can do no harm, and left alone for a while."""

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from ippo_trainer.contract.lines import one_line
from ippo_trainer.contract.live import Route
from ippo_trainer.data.server_log import checked
from ippo_trainer.gateway import server_sent
from ippo_trainer.gateway.server_sent import BrokenStreamError
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.names import ConversationNames

PATH = "/v1/chat/completions"
_CLIENTS_FAULT = frozenset({400, 413, 422, 429})
"""Statuses that a server gives about a request; any other says that it cannot answer at all."""
_LARGEST_REFUSAL = 64 << 10
_LONGEST = 300
_log = logging.getLogger(__name__)


class PolicyDownError(Exception):
    """A policy server does not answer."""


@dataclass(frozen=True)
class Patience:
    """Seconds that a policy server gets."""

    connect: float = 5.0
    answer: float = 120.0
    """From one piece of an answer to the next."""
    rest: float = 5.0
    """After a failure it is not asked, as long as another policy can be."""


class PassedOnError(RequestError):
    """A policy server's own words about a request."""

    def __init__(self, status: int, said: dict[str, Any]) -> None:
        super().__init__(status, "the policy server refuses it")
        self._said = said

    def body(self) -> dict[str, Any]:
        """As it came."""
        return self._said


class Policies:
    """The policy servers.

    Args:
        connections: at once.
        patience: with each.
        clock: seconds that only grow.
    """

    def __init__(
        self, connections: int, patience: Patience = Patience(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections, self._patience, self._clock = connections, patience, clock
        self._open: aiohttp.ClientSession | None = None
        self._resting: dict[str, float] = {}
        """By URL, until when."""

    async def start(self) -> None:
        """Before the first question."""
        connector = aiohttp.TCPConnector(limit=self._connections, ttl_dns_cache=5)
        limits = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=self._patience.connect, sock_read=self._patience.answer
        )
        self._open = aiohttp.ClientSession(
            connector=connector, timeout=limits, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def stop(self) -> None:
        """After the last one."""
        if self._open is not None:
            await self._open.close()

    def rests(self, route: Route) -> bool:
        """Whether it has just failed."""
        return self._resting.get(route.url, 0.0) > self._clock()

    def note(self, route: Route, failure: PolicyDownError) -> None:
        """It failed: it is left alone for a while."""
        if not self.rests(route):
            _log.warning("the policy server %s does not answer: %s", route.url, failure)
        self._resting = {url: until for url, until in self._resting.items() if until > self._clock()}
        self._resting[route.url] = self._clock() + self._patience.rest

    @asynccontextmanager
    async def asked(self, route: Route, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer from its headers on.

        Raises:
            PolicyDownError: there is none; also while it is read.
            RequestError: the server refuses the request.
        """
        response = await self._response(route, body)
        try:
            await _check(response)
            yield response
        except (aiohttp.ClientError, TimeoutError, BrokenStreamError) as error:
            raise _down(error) from error
        finally:
            # Before its end the connection is of no use any more; closing it tells the server that nobody waits.
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def whole(self, route: Route, body: bytes) -> dict[str, Any]:
        """A whole answer with its records. Raises as `asked`."""
        async with self.asked(route, body) as response:
            text = await _read(response, server_sent.LARGEST)
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PolicyDownError("its answer is not JSON") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
            raise PolicyDownError("its answer is none of a chat")
        return answer

    async def _response(self, route: Route, body: bytes) -> aiohttp.ClientResponse:
        """Asks again where a connection that was kept turns out to be closed."""
        try:
            return await self._post(route, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise _down(error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _down(error) from error
        try:
            return await self._post(route, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _down(error) from error

    async def _post(self, route: Route, body: bytes) -> aiohttp.ClientResponse:
        assert self._open is not None
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        url = URL(route.url.rstrip("/") + PATH, encoded=True)
        return await self._open.post(url, data=body, headers=headers, allow_redirects=False)


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raises PassedOnError for a refusal of the request, PolicyDownError for any other status than 200."""
    if response.status == 200:
        return
    text = await _read(response, _LARGEST_REFUSAL)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if response.status in _CLIENTS_FAULT and isinstance(said, dict) and isinstance(said.get("error"), dict):
        raise PassedOnError(response.status, said)
    raise PolicyDownError(f"it says {response.status}")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    while part := await response.content.readany():
        body += part
        if len(body) > limit:
            raise PolicyDownError(f"its answer is larger than {limit >> 10} KiB")
    return bytes(body)


def _down(error: Exception) -> PolicyDownError:
    return PolicyDownError(one_line(f"{type(error).__name__} {error}", _LONGEST))


def records_in(answer: dict[str, Any], choices: int, names: ConversationNames) -> list[dict[str, Any]]:
    """Takes the records out of an answer, one for each choice, under the names that the gateway knows.

    Raises PolicyDownError if they are not there, or readers could not read them: a line that nobody can read stops all.
    """
    records = answer.pop("records", None)
    if not isinstance(records, list) or len(records) != choices or not all(isinstance(each, dict) for each in records):
        raise PolicyDownError("its answer has no records: it is no ippo-serve of this release")
    for record in records:
        record["conversation_id"], record["named"] = names.conversation, not names.anonymous
        try:
            checked(record)
        except (ValueError, KeyError, TypeError) as error:
            raise PolicyDownError(f"its record is none of this release: {one_line(str(error), _LONGEST)}") from error
    return records
