"""A gateway that suggests what a test says and remembers what it is told, as the real one takes it."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web


class FakeGateway:
    """Use it in `with` to have it at `url`, in a thread of its own, or take `app()`.

    Args:
        suggests: for the newest message, the suggestion; None abstains.
        key: that requests need, if not empty.
    """

    def __init__(self, suggests: Callable[[str], str | None], key: str = "") -> None:
        self._suggests, self._key = suggests, key
        self.told: dict[str, list[Any]] = defaultdict(list)
        """By conversation: `("asks", turn, message)` and `(path, body)`."""
        self.asked: list[dict[str, Any]] = []
        """Bodies of chat requests."""
        self.refusals: list[int] = []
        """Statuses that the next requests get."""
        self.open: set[str] = set()
        self.most_open = 0
        """Conversations at once."""
        self.url = ""

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application()
        app.router.add_get("/readyz", self._ready)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/conversations/{id}/{rest:.*}", self._report)
        return app

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def told_of_one(self) -> list[Any]:
        """Of its only conversation."""
        [told] = self.told.values()
        return told

    async def _start(self) -> web.AppRunner:
        runner = web.AppRunner(self.app(), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    def _refused(self, request: web.Request) -> web.Response | None:
        status = self.refusals.pop(0) if self.refusals else 0
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            status = 401
        return web.json_response({"error": {"message": f"refused with {status}"}}, status=status) if status else None

    async def _chat(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        body = await request.json()
        self.asked.append(body)
        name, message = body["metadata"]["conversation_id"], body["messages"][-1]["content"]
        self.open.add(name)
        self.most_open = max(self.most_open, len(self.open))
        turn, text = sum(each["role"] == "assistant" for each in body["messages"]), self._suggests(message)
        self.told[name].append(("asks", turn, message))
        choice = {"message": {"content": text or ""}, "finish_reason": "stop", "abstained": text is None}
        answer = {"id": f"{name}-{turn}", "conversation_id": name, "turn": turn, "model": "m", "choices": [choice]}
        return web.json_response(answer)

    async def _report(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        name, rest = request.match_info["id"], request.match_info["rest"]
        self.told[name].append((rest, await request.json()))
        if rest == "close":
            self.open.discard(name)
        return web.json_response({"event_id": "e"})
