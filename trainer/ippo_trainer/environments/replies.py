"""What a scripted business does with a suggestion: it sends it, sends the same in other words, or sends its own."""

from collections.abc import Callable, Iterable, Sequence

from ippo_trainer.environments.streams import pick

ACCEPTED, EDITED, REJECTED = range(3)
"""Indices into `data.reactions.REACTIONS`."""


def label_of(suggestion: str | None, parse: Callable[[str], int | None], abstain: int) -> int:
    """What a suggestion means, as an index into an environment's intents, of which ABSTAIN is the last; one more for
    what does not parse.

    Args:
        suggestion: None abstains.
        parse: the index of a text's intent, None where it has none.
        abstain: the index of ABSTAIN.
    """
    if suggestion is None:
        return abstain
    intent = parse(suggestion)
    return abstain + 1 if intent is None else intent


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
