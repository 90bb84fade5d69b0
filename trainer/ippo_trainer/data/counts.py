"""What a set of conversations came to: counts that add up over parts, and the shares that a stage reports of them."""

from collections.abc import Mapping, Sequence

from ippo_trainer.data.schema import Conversation


def count(conversations: Sequence[Conversation]) -> dict[str, int]:
    """Of conversations and their turns. What the business never saw is no suggestion to it."""
    turns = [turn.as_shown() for conversation in conversations for turn in conversation.turns]
    suggestions = [turn for turn in turns if turn.suggestion is not None]
    return {
        "conversations": len(conversations),
        "outcomes": sum(conversation.outcome for conversation in conversations),
        "censored": sum(conversation.censored for conversation in conversations),
        "turns": len(turns),
        "suggestions": len(suggestions),
        "accepted": sum(turn.reaction == "accepted" for turn in suggestions),
        "edited": sum(turn.reaction == "edited" for turn in suggestions),
    }


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Figures of a stage's result; shares of nothing are left out.

    `success` is that of the finished conversations, and those are not like the others: with censored ones there are
    bounds, too.
    """
    conversations, censored, suggestions = counts["conversations"], counts["censored"], counts["suggestions"]
    figures = {
        "conversations": float(conversations),
        "censored": float(censored),
        "meanTurns": counts["turns"] / conversations,
        "abstention": 1.0 - suggestions / counts["turns"],
    }
    if conversations > censored:
        figures["success"] = counts["outcomes"] / (conversations - censored)
    if suggestions:
        figures["acceptance"] = (counts["accepted"] + counts["edited"]) / suggestions
        figures["editedShare"] = counts["edited"] / suggestions
    if censored:
        figures["successAtLeast"] = counts["outcomes"] / conversations
        figures["successAtMost"] = (counts["outcomes"] + censored) / conversations
    return figures
