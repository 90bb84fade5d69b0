"""A few pairs of conversations for people to read."""

from collections.abc import Sequence
from typing import Any

from ippo_trainer.data.context import CONTEXT
from ippo_trainer.data.schema import Conversation

PAIRS = 8
ALWAYS = 4
_LONGEST, _MOST_TOOLS = 4000, 8
"""Characters of a text, and messages of tools before one suggestion: a catalogue is read, not counted."""
_PER_KIND = {(True, False): 2, (False, True): 1, (True, True): 1}


def transcripts(
    candidate: Sequence[Conversation], current: Sequence[Conversation], seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """The content of `transcripts.json`: the same eight seeds for both policies.

    The first four customers are always there: `evaluate` puts those first that are the same in every iteration, so that
    the first policy can be read beside the last one. Then up to two pairs that the candidate alone won, and one each
    that the current policy alone won and that both won, so that rare outcomes can be read. They illustrate, they do not
    represent.
    """
    indices = list(range(min(ALWAYS, len(seeds))))
    room = dict(_PER_KIND)
    pairs = list(enumerate(zip(candidate, current, strict=True)))
    for index, (a, b) in pairs[ALWAYS:]:
        if room.get((a.outcome, b.outcome), 0):
            room[a.outcome, b.outcome] -= 1
            indices.append(index)
    indices += [index for index, _ in pairs if index not in indices]
    order = sorted(indices[:PAIRS])
    return {
        "candidate": [_transcript(candidate[index], seeds[index]) for index in order],
        "current": [_transcript(current[index], seeds[index]) for index in order],
    }


def _transcript(conversation: Conversation, seed: int) -> dict[str, Any]:
    turns = [
        {
            "customer": turn.customer_message,
            "suggestion": turn.suggestion,
            "reaction": turn.reaction,
            "sent": turn.sent_message,
        }
        | ({"tools": [text[:_LONGEST] for text in turn.tool_messages[:_MOST_TOOLS]]} if turn.tool_messages else {})
        for turn in conversation.turns
    ]
    # JSON's readers in browsers round integers above 2^53, so a seed is text.
    context = {CONTEXT: conversation.context[:_LONGEST]} if conversation.context else {}
    return {"seed": str(seed), "outcome": conversation.outcome} | context | {"turns": turns}
