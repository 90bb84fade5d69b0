"""What a scripted business does with a suggestion: it sends it, sends the same in other words, or sends its own."""

import re
from collections.abc import Iterable, Sequence

from ippo_trainer.environments.streams import pick

ACCEPTED, EDITED, REJECTED = range(3)
"""Indices into `data.reactions.REACTIONS`."""


def words(text: str) -> str:
    """The words of a text in lower case, joined by single spaces."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def reaction(accepts: float, edits: float, u: float) -> int:
    """The reaction to a suggestion.

    Args:
        accepts: probability that it is sent as it is.
        edits: probability that what is not accepted is edited.
        u: in [0, 1), uniform.
    """
    if u < accepts:
        return ACCEPTED
    return EDITED if u < accepts + (1 - accepts) * edits else REJECTED


def responses(
    labels: Iterable[int],
    accepts: Iterable[Sequence[float]],
    edits: float,
    own: Iterable[int],
    draws: Iterable[float],
) -> tuple[list[int], list[int]]:
    """Reactions to suggestions, and the intents of what is sent.

    Args:
        labels: by conversation, the intent of the suggestion; one that `accepts` does not know is rejected.
        accepts: by conversation and intent, the probability that it is sent as it is.
        edits: probability that what is not accepted is edited.
        own: by conversation, what is sent in place of what is rejected.
        draws: by conversation, in [0, 1), uniform.
    """
    reactions, sent = [], []
    for label, probabilities, other, u in zip(labels, accepts, own, draws, strict=True):
        is_intent = label < len(probabilities)
        reactions.append(reaction(probabilities[label], edits, u) if is_intent else REJECTED)
        sent.append(int(other) if reactions[-1] == REJECTED else label)
    return reactions, sent


def sent_messages(
    suggestions: Sequence[str | None],
    reactions: Sequence[int],
    wordings: Sequence[Sequence[str]],
    draws: Iterable[float],
) -> list[str]:
    """What customers get: an accepted suggestion as it is, else another wording.

    Args:
        suggestions, reactions: by conversation.
        wordings: by conversation, of what is sent.
        draws: by conversation, in [0, 1), uniform.
    """
    messages = []
    for suggestion, each, texts, u in zip(suggestions, reactions, wordings, draws, strict=True):
        others = [text for text in texts if text != suggestion]
        messages.append(suggestion if each == ACCEPTED and suggestion is not None else pick(others, u))
    return messages
