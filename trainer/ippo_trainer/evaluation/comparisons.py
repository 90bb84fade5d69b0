"""Held-out states with a suggestion of each of two policies, for people to judge."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.schema import Conversation

MOST_PAIRS = 200
MOST_TURNS = 12
"""Of a history, the newest ones."""
_LONGEST = 2000
"""Characters of a text that are shown."""
_MOST_TOOLS = 4
"""Messages of tools before one reply that are shown."""


class Exchange(BaseModel):
    """A turn of a history."""

    model_config = ConfigDict(extra="ignore")

    customer: str
    tools: list[str] = []
    """What tools returned before the reply."""
    sent: str


class PairOfSuggestions(BaseModel):
    """A state, and what both policies suggest there; None is an abstention."""

    model_config = ConfigDict(extra="ignore")

    conversation: str
    turn: int
    context: str = ""
    history: list[Exchange]
    message: str
    tools: list[str] = []
    candidate: str | None
    current: str | None

    @property
    def name(self) -> str:
        """Of the state, for votes."""
        return f"{self.conversation}/{self.turn}"


class Comparisons(BaseModel):
    """States on which the policies differ, one of each conversation, in random order."""

    model_config = ConfigDict(extra="ignore")

    states: int
    """That were compared."""
    identical: int
    """Of these, where both policies suggest the same."""
    silent_candidate: int = 0
    silent_current: int = 0
    """Of all states, where a policy suggests nothing."""
    pairs: list[PairOfSuggestions]


def compare(
    conversations: Sequence[Conversation],
    states: Sequence[tuple[str, int]],
    candidate: Sequence[str | None],
    current: Sequence[str | None],
    seed: int,
) -> Comparisons:
    """Chooses states to judge.

    Args:
        conversations: that hold the states.
        states: conversation and turn of each.
        candidate, current: a suggestion of each policy there.
        seed: of the choice.
    """
    by_id = {each.id: each for each in conversations}
    differing: dict[str, list[int]] = {}
    for number, (name, _) in enumerate(states):
        if candidate[number] != current[number]:
            differing.setdefault(name, []).append(number)
    chosen = [numbers[derive_seed(seed, "turn", name) % len(numbers)] for name, numbers in differing.items()]
    chosen.sort(key=lambda number: derive_seed(seed, "order", states[number][0]))
    pairs = []
    for number in chosen[:MOST_PAIRS]:
        name, turn = states[number]
        turns = by_id[name].turns
        history = [
            Exchange(
                customer=_cut(each.customer_message), tools=_tools(each.tool_messages), sent=_cut(each.sent_message)
            )
            for each in turns[max(0, turn - MOST_TURNS) : turn]
        ]
        pairs.append(
            PairOfSuggestions(
                conversation=name,
                turn=turn,
                context=_cut(by_id[name].context),
                history=history,
                message=_cut(turns[turn].customer_message),
                tools=_tools(turns[turn].tool_messages),
                candidate=_cut(candidate[number]),
                current=_cut(current[number]),
            )
        )
    same = len(states) - sum(map(len, differing.values()))
    return Comparisons(
        states=len(states),
        identical=same,
        silent_candidate=list(candidate).count(None),
        silent_current=list(current).count(None),
        pairs=pairs,
    )


def _tools(texts: Sequence[str]) -> list[str]:
    return [_cut(text) for text in texts[:_MOST_TOOLS]]


def _cut(text: Any) -> Any:
    return text if text is None or len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
