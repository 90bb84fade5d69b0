"""What the log of a server says of a suggestion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ippo_trainer.http.names import ConversationNames
from ippo_trainer.serve.engine import ResponseSampling
from ippo_trainer.serve.suggestion_log import VERSION


@dataclass(frozen=True)
class SuggestionState:
    """What a request asks a suggestion for."""

    names: ConversationNames
    turn: int
    """Replies of the business before it."""
    message: str
    """The newest of the customer."""
    messages: list[dict[str, Any]]
    """All of them, as they came."""
    started_at: float
    """Seconds since 1970 UTC when the request came."""
    context: str = ""
    """Of the conversation, as text: by the request's `context` and its system messages."""


@dataclass(frozen=True)
class Choice:
    """One of the suggestions in an answer."""

    index: int
    text: str | None
    """None where it abstained."""
    token_ids: Sequence[int]
    logprobs: Sequence[float] | None
    finish: str
    stopped: bool
    """A stop text ended it, so its tokens spell more than its text."""


def record_of(
    state: SuggestionState, identifier: str, digest: str, sampling: ResponseSampling, choice: Choice, time: float
) -> dict[str, Any]:
    """The line of the log for a suggestion; `data.server_log` reads it.

    Args:
        state: what it was made for.
        identifier: of the answer.
        digest: of the policy.
        sampling: how it was drawn.
        choice: the suggestion.
        time: seconds since 1970 UTC when it was complete.
    """
    logprobs = None if choice.logprobs is None or not all(map(math.isfinite, choice.logprobs)) else choice.logprobs
    return {
        "version": VERSION,
        "id": identifier,
        "choice": choice.index,
        "conversation_id": state.names.conversation,
        "named": not state.names.anonymous,
        "customer_id": state.names.customer,
        "group": state.names.group,
        "turn": state.turn,
        "message": state.message,
        "messages": state.messages,
        "context": state.context,
        "suggestion": choice.text,
        "token_ids": None if choice.stopped else list(choice.token_ids),
        "logprobs": None if choice.stopped or logprobs is None else list(logprobs),
        "finish_reason": choice.finish,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "policy_digest": digest,
        "started_at": state.started_at,
        "time": time,
    }
