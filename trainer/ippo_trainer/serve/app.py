"""The HTTP side of a server: routes, answers whole or streamed, and when it takes requests."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress

from aiohttp import web

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.personas import context_with
from ippo_trainer.data.schema import State
from ippo_trainer.http.cors import Cors
from ippo_trainer.http.ending import Ending
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.limits import SERVED_BYTES
from ippo_trainer.http.middleware import failures, noting
from ippo_trainer.http.names import HEADER, ConversationNames, Said
from ippo_trainer.serve import answers
from ippo_trainer.serve.completion import Completion, CompletionContext
from ippo_trainer.serve.metrics import ServerMetrics
from ippo_trainer.serve.records import SuggestionState
from ippo_trainer.serve.requests import ChatRequest, parse, state_of
from ippo_trainer.serve.settings import ServedModel
from ippo_trainer.serve.suggestion_log import SuggestionLog
from ippo_trainer.text.render import ContextTooLongError, Prompt, Renderer


class ChatServer:
    """Answers requests.

    Args:
        digest: of the policy; its name in /v1/models.
        name: of the run; an alias.
        origins: of pages in browsers that may ask.
    """

    def __init__(self, digest: str, name: str, origins: Sequence[str] = ()) -> None:
        self.digest, self.name = digest, name
        self._cors = Cors(origins)
        self.context: CompletionContext | None = None
        """Set once the policy can be asked; before, requests get 503."""
        self.ending = Ending()
        self.log: SuggestionLog | None = None
        """Set before the policy can be asked, where suggestions are logged."""
        self._created = int(time.time())
        # Long conversations take a while to read. One thread: the tokenizer's settings change from text to text.
        self._prompts = ThreadPoolExecutor(1, "prompts")
        self.metrics = ServerMetrics(digest, name, lambda: self.context.engine.waiting() if self.context else 0)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=SERVED_BYTES, middlewares=[failures(SERVED_BYTES)])
        self._cors.install(app)
        self.ending.install(app)
        app.on_cleanup.append(self._end_prompts)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model}", self._model)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    def open(self, policy: ServedModel) -> None:
        """Requests are answered from now on."""
        self.context = CompletionContext(self.digest, policy.renderer, policy.engine, self.metrics, self.log)

    async def _end_prompts(self, _: web.Application) -> None:
        self._prompts.shutdown(wait=False, cancel_futures=True)

    async def _healthz(self, _: web.Request) -> web.Response:
        failure = self.context.engine.failure() if self.context else None
        return web.Response(status=503 if failure else 200, text=failure or "ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        failure = self._unready()
        return web.Response(status=503 if failure else 200, text=failure or "ok")

    async def _metrics(self, _: web.Request) -> web.Response:
        self.metrics.ready.set(self._unready() is None)
        return web.Response(body=self.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": answers.models(self.digest, self.name, self._created)})

    async def _model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["model"])
        entries = answers.models(self.digest, self.name, self._created)
        return web.json_response(next(each for each in entries if each["id"] == request.match_info["model"]))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        start, clock = time.monotonic(), time.time()
        try:
            with self.ending.request(), self.metrics.in_flight.track_inprogress():
                return await noting(
                    self._answer(request, start, clock), lambda status: self.metrics.requests.labels(str(status)).inc()
                )
        finally:
            self.metrics.seconds.observe(time.monotonic() - start)

    async def _answer(self, request: web.Request, start: float, clock: float) -> web.StreamResponse:
        try:
            body = await request.read()
        except web.RequestPayloadError as error:
            raise RequestError(400, "the body is not what Content-Encoding or Transfer-Encoding says") from error
        context = self._open_context()
        chat = parse(body)
        self._check_model(chat.model)
        loop = asyncio.get_running_loop()
        prompt, asked = await loop.run_in_executor(self._prompts, _prompt, context.renderer, chat)
        state, headers = None, {}
        if context.log is not None or chat.return_record:
            said = Said(chat.metadata or {}, chat.user, chat.safety_identifier, request.headers)
            names = ConversationNames.of(said)
            state = SuggestionState(
                names, len(asked.history), asked.customer_message, chat.messages, clock, asked.context
            )
            headers = {HEADER: names.conversation} if names.conversation.isascii() else {}
        completion = Completion(context, chat, prompt, start, state)
        if chat.stream:
            return await _streamed(request, completion, headers)
        return web.json_response(await completion.json(), headers=headers, dumps=answers.dumps)

    def _open_context(self) -> CompletionContext:
        """Raises RequestError if no requests are taken."""
        failure = self._unready() if not self.ending.draining or self.ending.closed else None
        if failure is not None or self.context is None:
            raise RequestError(503, f"this server takes no requests: {failure}")
        return self.context

    def _unready(self) -> str | None:
        if self.ending.draining:
            return "it is about to end"
        if self.context is None:
            return "the policy is being loaded"
        return self.context.engine.failure()

    def _check_model(self, model: str | None) -> None:
        if model not in (None, self.digest, self.name):
            raise RequestError(404, f"there is no model {model!r} here; this server answers to {self.name}", "model")


def _prompt(renderer: Renderer, chat: ChatRequest) -> tuple[Prompt, State]:
    """The prompt, and the state that it renders."""
    state = state_of(chat.messages, renderer.system_prompt, chat.context, renderer.reads)
    context = context_with(chat.persona_instructions, state.context)
    try:
        return renderer.prompt(*state._replace(context=context)), state
    except ContextTooLongError as error:
        raise RequestError(400, error.message, "context", "context_length_exceeded") from error
    except BadDataError as error:
        raise RequestError(400, error.message, "messages", "context_length_exceeded") from error


async def _streamed(request: web.Request, completion: Completion, headers: dict[str, str]) -> web.StreamResponse:
    """Sends server-sent events. The headers wait for the first token: until then a failure has its own status."""
    fixed = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=fixed | headers)
    try:
        async with aclosing(completion.events()) as events:
            async for data in events:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(data)
    except RequestError as error:
        if not response.prepared:
            raise
        await response.write(answers.event(error.body()))
        return response
    with suppress(ConnectionResetError):
        await response.write_eof()
    return response
