"""A policy server that says what a test tells it to, in the shape of `ippo-serve`'s answers, with records."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

CHAT = "/v1/chat/completions"


@dataclass
class Behaviour:
    """How it answers; a test may change it at any time."""

    status: int = 200
    message: str = "out of memory"
    """Of a failure."""
    pause: float = 0.0
    """Before the answer."""
    words: tuple[str, ...] = ("Ten ", "for ", "you.")
    text: str | None = None
    """None: the words; else the suggestion."""
    abstains: bool = False
    breaks_after: int | None = None
    """Events of a stream after which the connection breaks."""
    without_records: bool = False
    strange: dict[str, Any] = field(default_factory=dict)
    """Put over its records."""
    gate: asyncio.Event | None = None
    """Answers wait for it."""


@dataclass
class StubPolicy:
    """Use it in `async with`."""

    digest: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of requests."""
    given_up: int = 0
    """Answers that nobody waited for."""
    keep: bool = True
    """Whether it remembers what it was asked."""
    _count: int = 0

    async def __aenter__(self) -> "StubPolicy":
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post(CHAT, self._chat)
        self._server = TestServer(app)
        await self._server.start_server(shutdown_timeout=0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        """Without a path."""
        return str(self._server.make_url("")).rstrip("/")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body, how = await request.json(), self.behaviour
        if self.keep:
            self.asked.append(body)
        if how.gate is not None:
            await how.gate.wait()
        if how.pause:
            await asyncio.sleep(how.pause)
        if how.status != 200:
            error = {"message": how.message, "type": "invalid_request_error", "param": "messages", "code": None}
            return web.json_response({"error": error}, status=how.status)
        self._count += 1
        identifier = f"chatcmpl-{self.digest[-4:]}-{self._count}"
        choices = body.get("n") or 1
        records = [self._record(body, identifier, index) for index in range(choices)]
        if body.get("stream"):
            return await self._stream(request, identifier, records)
        return web.json_response(self._whole(identifier, records))

    def _record(self, body: dict[str, Any], identifier: str, index: int) -> dict[str, Any]:
        how, said, now = self.behaviour, body.get("metadata") or {}, time.time()
        text = None if how.abstains else "".join(how.words) if how.text is None else how.text
        messages = body["messages"]
        return {
            "version": 1,
            "id": identifier,
            "choice": index,
            "conversation_id": said.get("conversation_id"),
            "named": True,
            "customer_id": said.get("customer_id", ""),
            "group": said.get("group", ""),
            "turn": sum(each.get("role") == "assistant" for each in messages),
            "message": messages[-1].get("content"),
            "messages": messages,
            "context": "",
            "suggestion": text,
            "token_ids": [5, 6, 7],
            "logprobs": [-0.5, -0.25, -0.125],
            "finish_reason": "stop",
            "temperature": body.get("temperature", 1.0),
            "top_p": 1.0,
            "min_p": body.get("min_p", 0.0),
            "policy_digest": self.digest,
            "started_at": now,
            "time": now,
            **how.strange,
        }

    def _common(self, identifier: str, record: dict[str, Any], kind: str) -> dict[str, Any]:
        return {
            "id": identifier,
            "object": kind,
            "created": int(record["time"]),
            "model": self.digest,
            "dropped_turns": 0,
            "conversation_id": record["conversation_id"],
            "turn": record["turn"],
        }

    def _whole(self, identifier: str, records: list[dict[str, Any]]) -> dict[str, Any]:
        choices = [
            {
                "index": record["choice"],
                "message": {"role": "assistant", "content": record["suggestion"] or "", "refusal": None},
                "finish_reason": "stop",
                "abstained": record["suggestion"] is None,
            }
            for record in records
        ]
        answer = self._common(identifier, records[0], "chat.completion") | {"choices": choices}
        return answer if self.behaviour.without_records else answer | {"records": records}

    async def _stream(self, request: web.Request, identifier: str, records: list[dict[str, Any]]) -> web.StreamResponse:
        how = self.behaviour
        common = self._common(identifier, records[0], "chat.completion.chunk")
        words = [] if how.abstains else list(how.words) if how.text is None else [how.text]

        def chunk(delta: dict[str, Any], **more: Any) -> bytes:
            choices = [{"index": record["choice"], "delta": delta, "finish_reason": None} | more for record in records]
            return _event(common | {"choices": choices})

        events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words)]
        if not how.without_records:
            events.append(_event(common | {"choices": [], "records": records}))
        events += [chunk({}, finish_reason="stop", abstained=how.abstains), b"data: [DONE]\n\n"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, event in enumerate(events):
            if number == how.breaks_after:
                assert request.transport is not None
                request.transport.abort()
                break
            await response.write(event)
        return response


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
