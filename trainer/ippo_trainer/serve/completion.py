"""One chat completion: from a prompt, by the engine's tokens, to the text of each choice."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ippo_trainer.http.errors import RequestError
from ippo_trainer.serve import answers
from ippo_trainer.serve.engine import Engine, EngineDiedError, Piece, QueueFullError, RefusedError
from ippo_trainer.serve.metrics import ServerMetrics
from ippo_trainer.serve.records import Choice, SuggestionState, record_of
from ippo_trainer.serve.requests import ChatRequest
from ippo_trainer.serve.suggestion_log import SuggestionLog
from ippo_trainer.serve.text_stream import TextStream
from ippo_trainer.text.render import Prompt, Renderer


@dataclass(frozen=True)
class CompletionContext:
    """What every completion of a server needs."""

    digest: str
    """Of the policy; its name in answers to requests that name no model."""
    renderer: Renderer
    engine: Engine
    metrics: ServerMetrics
    log: SuggestionLog | None = None


class Completion:
    """The choices of one request.

    Args:
        context: of the server.
        request: what was asked for.
        prompt: rendered from the request's messages.
        start: when the request came, by `time.monotonic`.
        state: what records say of the request; None where nobody asks for them.

    Raises:
        RequestError: the request asks for more than the engine can do.
    """

    def __init__(
        self,
        context: CompletionContext,
        request: ChatRequest,
        prompt: Prompt,
        start: float,
        state: SuggestionState | None = None,
    ) -> None:
        engine = context.engine
        self._context, self._request, self._prompt, self._start = context, request, prompt, start
        sampling = request.sampling(engine.max_new_tokens, engine.max_samples)
        self._sampling = replace(sampling, logprobs=state is not None)
        self._streams = [TextStream(context.renderer, request.stop) for _ in range(self._sampling.samples)]
        self._logprobs: list[list[float] | None] = [[] for _ in self._streams]
        self._finishes: dict[int, str] = {}
        self._state = state
        self._records: list[dict[str, Any]] = []
        """Of the choices, once all are complete."""
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        place = None if state is None else {"conversation_id": state.names.conversation, "turn": state.turn}
        model = request.model or context.digest
        self._head = answers.Head(self._id, int(time.time()), model, prompt.dropped_turns, place)

    async def json(self) -> dict[str, Any]:
        """The answer as a whole. Raises RequestError if the engine gives none."""
        async with aclosing(self._parts()) as parts:
            async for _ in parts:
                pass
        finishes = [self._finishes[index] for index in range(len(self._streams))]
        answer = self._head.whole(self._streams, finishes, self._usage())
        return answer | {"records": self._records} if self._request.return_record else answer

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events, from the first token on. Raises RequestError if the engine fails."""
        data = b"".join(map(self._head.opening, range(len(self._streams))))
        async with aclosing(self._parts()) as parts:
            async for index, text, finish in parts:
                if self._request.return_record and self._records:
                    data += self._head.records(self._records)  # before the end: a gateway logs it first
                data += self._head.part(index, text) if text else b""
                if finish is not None:
                    data += self._head.end(index, finish, self._streams[index].abstains)
                if data:
                    yield data
                data = b""
        options = self._request.stream_options
        if options is not None and options.include_usage:
            yield self._head.counts(self._usage())
        yield answers.DONE

    def _usage(self) -> dict[str, int]:
        return answers.usage(len(self._prompt.ids), sum(stream.tokens for stream in self._streams))

    async def _parts(self) -> AsyncGenerator[tuple[int, str, str | None], None]:
        """(choice, more text, how it ended) until all choices have ended."""
        metrics = self._context.metrics
        metrics.tokens.labels("prompt").inc(len(self._prompt.ids))
        unfinished, is_first = set(range(len(self._streams))), True
        try:
            async with aclosing(self._context.engine.generate(self._prompt.ids, self._sampling)) as pieces:
                async for piece in pieces:
                    if is_first:
                        metrics.first_token.observe(time.monotonic() - self._start)
                        is_first = False
                    metrics.tokens.labels("completion").inc(len(piece.ids))
                    if piece.sample not in unfinished:
                        continue  # a stop text has ended it
                    text, finish = self._push(piece)
                    if finish is not None:
                        unfinished.discard(piece.sample)
                        self._finishes[piece.sample] = finish
                    if not unfinished:
                        self._write()  # before the client can go away
                    yield piece.sample, text, finish
                    if not unfinished:
                        return
        except QueueFullError as error:
            raise RequestError(429, "too many requests wait already; try again, or add replicas") from error
        except RefusedError as error:
            raise RequestError(400, f"the engine refuses this request: {' '.join(str(error).split())}") from error
        except EngineDiedError as error:
            raise RequestError(503, f"the engine failed: {error}", code="engine_failed") from error

    def _push(self, piece: Piece) -> tuple[str, str | None]:
        stream, logprobs = self._streams[piece.sample], self._logprobs[piece.sample]
        if logprobs is not None and piece.logprobs is not None:
            logprobs += piece.logprobs
        else:
            self._logprobs[piece.sample] = None
        text = stream.push(piece.ids, piece.finish is not None)
        return text, "stop" if stream.stopped else piece.finish

    def _write(self) -> None:
        """Records the choices, all of which are complete, and logs them."""
        log, state = self._context.log, self._state
        if state is None:
            return
        now, digest = time.time(), self._context.digest
        for index, (stream, logprobs) in enumerate(zip(self._streams, self._logprobs, strict=True)):
            text = None if stream.abstains else stream.text
            choice = Choice(index, text, stream.ids, logprobs, self._finishes[index], stream.stopped)
            self._records.append(record_of(state, self._id, digest, self._sampling, choice, now))
            if log is not None:
                log.add(self._records[-1])
