"""Monte Carlo returns of the one-bit outcome: what the Q of step 2 of arXiv 2511.21638 is fitted to."""

from collections.abc import Iterable

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation


def monte_carlo_returns(conversation: Conversation, discount: float) -> list[float]:
    """G_i = discount^(n-i) for every turn i, where n is the last turn before the outcome; 0 without an outcome.

    Turns after the outcome, if the conversation went on, return 0.

    Raises:
        BadDataError: the conversation is censored, so its returns are unknown.
    """
    if conversation.censored:
        raise BadDataError(
            f"conversation {conversation.id!r} is censored, it has no returns", "Leave it out with uncensored()."
        )
    turns = conversation.turns
    before = next((index for index, turn in enumerate(turns) if turn.outcome), len(turns))
    last = before - 1
    return [discount ** (last - i) if conversation.outcome and i <= last else 0.0 for i in range(len(turns))]


def uncensored(conversations: Iterable[Conversation]) -> list[Conversation]:
    """The conversations whose end is known."""
    return [conversation for conversation in conversations if not conversation.censored]
