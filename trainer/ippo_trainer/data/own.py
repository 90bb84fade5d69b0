"""Which part of the logged conversations is the policy's own: returns and states of others say nothing about it."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from itertools import takewhile

from ippo_trainer.data.schema import PEOPLE, Conversation, Turn

EXPLORER = "explorer"


@dataclass(frozen=True, slots=True)
class OwnPart:
    """Conversations that a policy held, or began to hold, and what is left out of the log."""

    conversations: list[Conversation]
    others: int
    """Conversations that somebody else began."""
    handed_over: int
    """Conversations that the policy began and somebody else went on with: censored where they changed hands."""


def before_outcome(conversation: Conversation) -> Conversation:
    """The conversation without the turns that came after its outcome: they are past the end of the problem."""
    before = list(takewhile(lambda turn: not turn.outcome, conversation.turns))
    return conversation if len(before) == len(conversation.turns) else replace(conversation, turns=before)


def explored(turn: Turn) -> bool:
    """Whether the suggestion came from the exploring policy instead of pi_i."""
    return turn.behaviour == "explore"


def writer_of(turn: Turn) -> str:
    """Who suggested: a persona, the explorer, a policy's digest, or a writer of a log."""
    if explored(turn):
        return turn.writer or EXPLORER
    return turn.policy_digest if turn.behaviour == "policy" else turn.writer or PEOPLE


def persona_of(conversation: Conversation) -> str:
    """Of what a run collected: the persona of the first turn that has one; empty where none has."""
    return next((turn.writer for turn in conversation.turns if explored(turn) and turn.writer), "")


def by_policy(digest: str) -> Callable[[Turn], bool]:
    """Whether a turn is this policy's own; exploring turns count as its own."""
    # The explorer has a digest of its own; what matters is that the run's coin chose it.
    return lambda turn: explored(turn) or (turn.behaviour == "policy" and turn.policy_digest == digest)


def by_writers(writers: Collection[str] | None) -> Callable[[Turn], bool]:
    """Whether a turn of a log is one of these writers', whom the policy imitates; None: of anybody."""
    return lambda turn: writers is None or writer_of(turn) in writers


def own_part(conversations: Iterable[Conversation], owns: Callable[[Turn], bool]) -> OwnPart:
    """What the policy held of each conversation, up to the outcome.

    What follows after somebody else's turn is unknown of this policy, so a conversation is censored in front of it: it
    is no failure, and the states before are real. Turns whose policy is not known are somebody else's.

    Args:
        conversations: of a log.
        owns: whether a turn is the policy's own: `by_policy` or `by_writers`.
    """
    own_parts: list[Conversation] = []
    others = handed_over = 0
    for conversation in map(before_outcome, conversations):
        turns = list(takewhile(owns, conversation.turns))
        if len(turns) == len(conversation.turns):
            own_parts.append(conversation)
        elif turns:
            handed_over += 1
            own_parts.append(replace(conversation, turns=turns, outcome=False, censored=True, went_on=True))
        else:
            others += 1
    return OwnPart(own_parts, others, handed_over)


def all_own(conversations: Iterable[Conversation]) -> list[Conversation]:
    """The conversations up to their outcomes, with every turn as the policy's own: a policy that is all the writers."""
    return [
        replace(each, turns=[replace(turn, behaviour="policy") if explored(turn) else turn for turn in each.turns])
        for each in map(before_outcome, conversations)
    ]


def foreign_as_explored(conversations: Iterable[Conversation], owns: Callable[[Turn], bool]) -> list[Conversation]:
    """The conversations up to their outcomes, with others' turns as exploring ones: each is an honest sample of what it
    leads to, and what follows it is not the policy's."""
    return [
        replace(each, turns=[turn if owns(turn) else _foreign(turn) for turn in each.turns])
        for each in map(before_outcome, conversations)
    ]


def _foreign(turn: Turn) -> Turn:
    return replace(turn, behaviour="explore", writer=writer_of(turn))


def foreign_share(conversations: Iterable[Conversation], owns: Callable[[Turn], bool]) -> float:
    """Share of turns up to the outcomes that others wrote; 0 without turns."""
    turns = [turn for each in map(before_outcome, conversations) for turn in each.turns]
    return sum(not owns(turn) for turn in turns) / len(turns) if turns else 0.0
