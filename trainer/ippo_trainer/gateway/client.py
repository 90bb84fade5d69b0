"""A client of the gateway: asks for suggestions, and reports what became of them.

What fails because of the moment (no connection, 429, 503) is tried again. A report is tried again under the idempotency
key of its first try, so that it counts once however often it arrives.

    async with GatewayClient("http://localhost:8080") as gateway:
        suggestion = await gateway.chat([{"role": "user", "content": "Is there tea?"}], Whose("c1"))
        await gateway.react("c1", suggestion.turn, Reaction("accepted", suggestion_id=suggestion.id))
        await gateway.close_conversation("c1", outcome=True)
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp

from ippo_trainer.data.reactions import Reaction as ReactionKind

_LATER = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of the moment."""
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
_DATA, _DONE = b"data: ", b"[DONE]"
_LINE = 16 << 20
"""Bytes of the longest line of a streamed answer."""

_T = TypeVar("_T")


class GatewayError(Exception):
    """The gateway did not do what it was asked.

    Args:
        status: of HTTP; 0 where nothing answered.
        message: one line of the gateway's.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if status else message)
        self.status, self.message = status, message


class _LaterError(Exception):
    """A try that failed because of the moment."""

    def __init__(self, failure: GatewayError, asked: str = "") -> None:
        super().__init__(failure.message)
        self.failure, self.pause = failure, float(asked) if asked.isdecimal() else 0.0


@dataclass(frozen=True)
class Tries:
    """How often a request is made, and how long each may take."""

    most: int = 5
    seconds: float = 120.0
    """Of one."""
    pause: float = 0.25
    """Seconds before the second; each pause is twice the one before, and at least what `Retry-After` says."""
    longest_pause: float = 5.0


@dataclass(frozen=True)
class Whose:
    """Whose a request is."""

    conversation: str = ""
    """Its id; where it is empty the gateway makes one, and the request is a conversation of its own."""
    customer: str = ""
    group: str = ""


@dataclass(frozen=True)
class GatewaySuggestion:
    """An answer of the policy."""

    id: str
    """Names it in reactions."""
    conversation: str
    turn: int
    """Replies of the business before it."""
    text: str | None
    """None: it suggests nothing."""
    finish_reason: str
    policy_digest: str
    logged: bool
    """False where the gateway had no room to log it: then nothing learns from it."""


@dataclass(frozen=True)
class Reaction:
    """What the business did with a suggestion."""

    kind: ReactionKind
    sent: str | None = None
    """What the customer got instead; None where that is the suggestion, or nothing."""
    suggestion_id: str = ""
    at: float | None = None
    """Seconds since 1970 UTC; now if left out."""


class GatewayClient:
    """Speaks to one gateway. Use it in `async with`.

    Args:
        url: of the gateway, without a path.
        key: its API key, where it asks for one.
        tries: of each request.

    Every method raises GatewayError if the gateway refuses, or nothing answers in all tries.
    """

    def __init__(self, url: str, key: str = "", tries: Tries = Tries()) -> None:
        self._url, self._tries = url.rstrip("/"), tries
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._open: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        limits = aiohttp.ClientTimeout(total=self._tries.seconds, sock_connect=min(10.0, self._tries.seconds))
        self._open = aiohttp.ClientSession(headers=self._headers, timeout=limits, read_bufsize=1 << 16)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], whose: Whose = Whose(), options: Mapping[str, Any] | None = None
    ) -> GatewaySuggestion:
        """A suggestion for the newest message.

        Args:
            messages: of the conversation so far, as OpenAI's API has them.
            whose: the conversation and the customer.
            options: more fields of the request, such as `max_tokens` or `context`.
        """
        body = _chat_body(messages, whose, options)
        answer = await self._send("POST", "/v1/chat/completions", body)
        try:
            choice = answer["choices"][0]
            text = None if choice.get("abstained") else choice["message"]["content"]
            return _suggestion(answer, text, choice["finish_reason"])
        except (KeyError, IndexError, TypeError) as error:
            raise _strange(200) from error

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], whose: Whose = Whose(), options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[str | GatewaySuggestion, None]:
        """As `chat`: the parts of the text as they come, then the suggestion. What has begun is not tried again."""
        body = _chat_body(messages, whose, options) | {"stream": True}
        response = await self._tried(lambda: self._begin("POST", "/v1/chat/completions", body))
        text, finish, abstained, chunk = "", "", False, dict[str, Any]()
        async with response, aclosing(_chunks(response)) as chunks:
            async for each in chunks:
                chunk |= each
                for choice in each["choices"][:1]:
                    part = choice["delta"].get("content") or ""
                    finish, abstained = (
                        choice.get("finish_reason") or finish,
                        abstained or choice.get("abstained", False),
                    )
                    text += part
                    if part:
                        yield part
        if not finish:
            raise GatewayError(0, "the answer broke off")
        yield _suggestion(chunk, None if abstained else text, finish)

    async def react(self, conversation: str, turn: int, reaction: Reaction, key: str = "") -> str:
        """Reports what became of a suggestion; returns the event's id.

        Args:
            conversation: its id.
            turn: of the suggestion.
            reaction: to it.
            key: of idempotency; made if left out. Here and below the same key is the same report.
        """
        body = {"reaction": reaction.kind, "sent": reaction.sent, "suggestion_id": reaction.suggestion_id or None}
        return await self._report(f"{_conversation(conversation)}/turns/{turn}/reaction", body, reaction.at, key)

    async def outcome(self, conversation: str, outcome: bool, at: float | None = None, key: str = "") -> str:
        """Reports whether the conversation led to the outcome; returns the event's id."""
        return await self._report(f"{_conversation(conversation)}/outcome", {"outcome": outcome}, at, key)

    async def complain(self, conversation: str, at: float | None = None, key: str = "") -> str:
        """Reports a complaint about the conversation; returns the event's id."""
        return await self._report(f"{_conversation(conversation)}/complaint", {}, at, key)

    async def close_conversation(
        self, conversation: str, outcome: bool | None = None, at: float | None = None, key: str = ""
    ) -> str:
        """Reports that the conversation is over, with its outcome if that is known; returns the event's id."""
        return await self._report(f"{_conversation(conversation)}/close", {"outcome": outcome}, at, key)

    async def customer_outcome(self, customer: str, outcome: bool, at: float | None = None, key: str = "") -> str:
        """As `outcome`, of the customer's conversations, for systems that know nothing of conversations."""
        return await self._report("/v1/outcomes", {"customer_id": customer, "outcome": outcome}, at, key)

    async def customer_complaint(self, customer: str, at: float | None = None, key: str = "") -> str:
        """As `complain`, of a customer."""
        return await self._report("/v1/complaints", {"customer_id": customer}, at, key)

    async def erase(self, conversation: str) -> str:
        """Erases a conversation: nothing of it counts any more. `ippo erase` takes its texts out."""
        answer = await self._send("DELETE", _conversation(conversation), {})
        return str(answer["event_id"])

    async def _report(self, path: str, body: dict[str, Any], at: float | None, key: str) -> str:
        said = {name: value for name, value in (body | {"time": at}).items() if value is not None}
        answer = await self._send("POST", path, said, {"Idempotency-Key": key or uuid.uuid4().hex})
        if "event_id" not in answer:
            raise _strange(200)
        return str(answer["event_id"])

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON of the answer."""

        async def attempt() -> dict[str, Any]:
            async with await self._begin(method, path, body, headers) as response:
                try:
                    value = await response.json()
                except _BROKEN as error:
                    raise _LaterError(_no_answer(error)) from error
                except (aiohttp.ContentTypeError, ValueError) as error:
                    raise _strange(response.status) from error
            return value if isinstance(value, dict) else {}

        return await self._tried(attempt)

    async def _begin(
        self, method: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """An answer as soon as its headers are there. Raises _LaterError where another try may help."""
        try:
            response = await self._session.request(method, self._url + path, json=body, headers=headers)
        except _BROKEN as error:
            raise _LaterError(_no_answer(error)) from error
        if response.status < 400:
            return response
        async with response:
            failure = GatewayError(response.status, await _message(response))
            if response.status in _LATER:
                raise _LaterError(failure, response.headers.get("Retry-After", ""))
            raise failure

    async def _tried(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """What the first attempt returns that does not fail because of the moment."""
        number = 0
        while True:
            try:
                return await attempt()
            except _LaterError as later:
                number += 1
                if number >= self._tries.most:
                    raise later.failure from later
                pause = max(self._tries.pause * 2 ** (number - 1), later.pause)
            await asyncio.sleep(min(pause, self._tries.longest_pause))

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._open is None:
            raise RuntimeError("use the client in `async with`")
        return self._open


def _chat_body(
    messages: Sequence[Mapping[str, Any]], whose: Whose, options: Mapping[str, Any] | None
) -> dict[str, Any]:
    names = {"conversation_id": whose.conversation, "customer_id": whose.customer, "group": whose.group}
    said = {name: value for name, value in names.items() if value}
    return {"messages": [dict(message) for message in messages], **(options or {}), "metadata": said}


def _conversation(identifier: str) -> str:
    return f"/v1/conversations/{quote(identifier, safe='')}"


def _suggestion(answer: Mapping[str, Any], text: str | None, finish: str) -> GatewaySuggestion:
    return GatewaySuggestion(
        answer["id"],
        answer["conversation_id"],
        answer["turn"],
        text,
        finish,
        answer["model"],
        answer.get("logged", True),
    )


async def _chunks(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON of each server-sent event, up to the end."""
    try:
        while line := await response.content.readuntil(b"\n", max_size=_LINE):
            data = line.removeprefix(_DATA).strip()
            if not line.startswith(_DATA) or data == _DONE:
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise GatewayError(503, str(chunk["error"]["message"]))
            yield chunk
    except _BROKEN as error:
        raise GatewayError(0, "the answer broke off") from error


async def _message(response: aiohttp.ClientResponse) -> str:
    """What is wrong, by the gateway's word."""
    try:
        return str((await response.json())["error"]["message"])
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        return response.reason or "no reason"


def _strange(status: int) -> GatewayError:
    return GatewayError(status, "what answers is no gateway; check the URL")


def _no_answer(error: BaseException) -> GatewayError:
    return GatewayError(0, f"nothing answers: {type(error).__name__} {error}".strip())
