"""The engine for small models and CPUs: one thread that runs our own sampling, many requests at once."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ippo_trainer.serve.engine import EngineDiedError, Piece, QueueFullError, ResponseSampling
from ippo_trainer.serve.slots import Entry, SampledToken, Slots

# Prompt tokens that are read between two tokens of the running sequences: a long queue must not make those wait.
_PREFILL_TOKENS = 2048
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _EngineRequest:
    prompt: Sequence[int]
    sampling: ResponseSampling
    pieces: "asyncio.Queue[Piece | EngineDiedError]" = field(default_factory=asyncio.Queue)
    unfinished: int = 0

    def __post_init__(self) -> None:
        self.unfinished = self.sampling.samples


@dataclass(frozen=True)
class EngineLimits:
    """What an engine holds at most."""

    max_prompt_tokens: int
    max_new_tokens: int
    rows: int
    """Sequences that run at once; a request takes one per sample."""
    max_waiting: int
    """Requests that wait for free rows; beyond, QueueFullError."""

    @property
    def capacity(self) -> int:
        """Tokens of a prompt and its response."""
        return self.max_prompt_tokens + self.max_new_tokens


class TransformersEngine:
    """Runs a model in this process.

    Args:
        model: a causal LM that `models.verify` accepts.
        limits: of sequences and requests.
        stop_ids, pad_id: as `Slots`.
        threads: of torch; OpenMP counts them for each calling thread, so they are set in the engine's own.
    """

    def __init__(
        self,
        model: Any,
        limits: EngineLimits,
        stop_ids: frozenset[int],
        pad_id: int,
        threads: int = 1,
    ) -> None:
        self.max_new_tokens = limits.max_new_tokens
        self.max_samples = limits.rows
        self._slots = Slots(model, limits.rows, limits.capacity, stop_ids, pad_id)
        self._max_waiting = limits.max_waiting
        self._threads = threads
        self._waiting: deque[_EngineRequest] = deque()
        self._running: set[_EngineRequest] = set()
        self._abandoned: set[_EngineRequest] = set()
        """Running requests whose clients went away."""
        self._ending = False
        self._failure: str | None = None
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """As `Engine`."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def generate(self, prompt: Sequence[int], sampling: ResponseSampling) -> AsyncGenerator[Piece, None]:
        """As `Engine`."""
        request = _EngineRequest(prompt, sampling)
        with self._changed:
            if self._failure is not None:
                raise EngineDiedError(self._failure)
            if len(self._waiting) >= self._max_waiting:
                raise QueueFullError
            self._waiting.append(request)
            self._changed.notify()
        unfinished = sampling.samples
        try:
            while unfinished:
                piece = await request.pieces.get()
                if isinstance(piece, EngineDiedError):
                    raise piece
                unfinished -= piece.finish is not None
                yield piece
        finally:
            if unfinished:
                self._abandon(request)

    def waiting(self) -> int:
        """As `Engine`."""
        return len(self._waiting)

    def failure(self) -> str | None:
        """As `Engine`."""
        return self._failure

    async def stop(self) -> None:
        """As `Engine`."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _abandon(self, request: _EngineRequest) -> None:
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)
            else:
                self._abandoned.add(request)
                self._changed.notify()

    def _work(self) -> None:
        try:
            torch.set_num_threads(self._threads)
            with torch.inference_mode():
                while self._turn():
                    pass
            self._fail("the server ends")
        except Exception as error:
            _log.exception("the engine failed")
            self._fail(f"{type(error).__name__}: {error}")

    def _turn(self) -> bool:
        """One token of every running sequence; False at the engine's end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending or self._waiting or self._slots.running or self._abandoned)
            if self._ending:
                return False
            abandoned, self._abandoned = self._abandoned & self._running, set()
            self._running -= abandoned
        for request in abandoned:
            self._slots.drop(request)
        with self._changed:
            joining = self._next()
            self._running.update(joining)
        if joining:
            self._slots.join([Entry(request, request.prompt, request.sampling) for request in joining])
        if self._slots.running:
            self._deliver(self._slots.step())
        return True

    def _next(self) -> list[_EngineRequest]:
        """The waiting requests that join now: first come, first served, as far as rows and the prefill allow."""
        joining: list[_EngineRequest] = []
        free, longest = self._slots.free, 0
        while self._waiting:
            request = self._waiting[0]
            longest = max(longest, len(request.prompt))
            free -= request.sampling.samples
            if free < 0 or (joining and longest * (len(joining) + 1) > _PREFILL_TOKENS):
                break
            joining.append(self._waiting.popleft())
        return joining

    def _deliver(self, tokens: list[SampledToken]) -> None:
        assert self._loop is not None
        pieces: list[tuple[_EngineRequest, Piece]] = []
        for each in tokens:
            request = each.owner
            assert isinstance(request, _EngineRequest)
            stopped = each.token in self._slots.stop_ids
            finish: Any = ("stop" if stopped else "length") if each.ended else None
            pieces.append((request, Piece(each.sample, [each.token], finish, [each.logprob])))
            request.unfinished -= each.ended
            if not request.unfinished:
                self._running.discard(request)
        self._loop.call_soon_threadsafe(_hand_out, pieces)

    def _fail(self, why: str) -> None:
        with self._changed:
            self._failure = why
            failures = [*self._waiting, *self._running]
            self._waiting.clear()
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_hand_out, [(request, EngineDiedError(why)) for request in failures])


def _hand_out(pieces: Sequence[tuple[_EngineRequest, Piece | EngineDiedError]]) -> None:
    for request, piece in pieces:
        request.pieces.put_nowait(piece)
