"""What an engine is: token ids in, token ids out. Text, prompts and HTTP are the chat server's, the same for all."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class ResponseSampling:
    """How the responses to a request are sampled."""

    samples: int
    max_new_tokens: int
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    seed: int
    """63 bits; equal seeds give equal responses to equal prompts (up to float rounding)."""
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest one, before temperature, are never drawn; in [0, 1]."""
    logprobs: bool = False
    """Whether pieces have to say how likely their tokens were."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next tokens of one sample; `finish` is set with its last ones. A stop token is part of them."""

    sample: int
    ids: list[int]
    finish: Finish | None
    logprobs: list[float] | None = None
    """Natural log-probability of each of `ids` as it was sampled: after min_p, temperature and top_p, 0 where the
    likeliest token is taken. None where the engine does not say, as it need not if nobody asks."""


class QueueFullError(Exception):
    """So many requests wait already that this one would wait too long."""


class RefusedError(Exception):
    """The engine cannot do what this request asks for; others it can."""


class EngineDiedError(Exception):
    """The engine failed; no request will be answered any more."""


class Engine(Protocol):
    """Generates responses. All methods are called from the event loop's thread, `load` excepted."""

    max_new_tokens: int
    """Where a response is cut, whatever a request asks for."""
    max_samples: int

    def start(self) -> None:
        """Begins to take requests."""
        ...

    def generate(self, prompt: Sequence[int], sampling: ResponseSampling) -> AsyncGenerator[Piece, None]:
        """The pieces of all samples, each sample's in order. Closing the iterator gives the request up.

        Raises:
            QueueFullError, RefusedError: at the first piece.
            EngineDiedError: at any.
        """
        ...

    def waiting(self) -> int:
        """Requests that are not worked on yet."""
        ...

    def failure(self) -> str | None:
        """Why the engine can answer nothing any more; None while it can."""
        ...

    async def stop(self) -> None:
        """Ends it. What is still open fails."""
        ...
