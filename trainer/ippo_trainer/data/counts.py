"""What a set of conversations came to: counts that add up over parts, and the shares that a stage reports of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ippo_trainer.data.own import persona_of
from ippo_trainer.data.schema import Conversation

_PERSONA = "persona/"


class Ended(NamedTuple):
    """Conversations whose end is known."""

    conversations: int
    outcomes: int

    @property
    def success(self) -> float | None:
        """Share with the outcome; None of no conversations."""
        return self.outcomes / self.conversations if self.conversations else None


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


def count_personas(conversations: Sequence[Conversation]) -> Counter[str]:
    """Of what a run collected, for `personas`; nothing where there are none."""
    counts: Counter[str] = Counter()
    for each in conversations:
        name = persona_of(each)
        if name and not each.censored:
            counts[f"{_PERSONA}{name}/conversations"] += 1
            counts[f"{_PERSONA}{name}/outcomes"] += each.outcome
    return counts


def personas(counts: Mapping[str, int]) -> dict[str, Ended]:
    """By persona, in order; nothing where no finished conversation was one's."""
    names = sorted({key.removeprefix(_PERSONA).rpartition("/")[0] for key in counts if key.startswith(_PERSONA)})
    return {name: Ended(*(counts.get(f"{_PERSONA}{name}/{field}", 0) for field in Ended._fields)) for name in names}


def without_personas(counts: Mapping[str, int]) -> Ended:
    """The other conversations."""
    of_personas = personas(counts).values()
    finished = counts["conversations"] - counts["censored"]
    return Ended(
        finished - sum(each.conversations for each in of_personas),
        counts["outcomes"] - sum(each.outcomes for each in of_personas),
    )


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
    held = personas(counts).values()
    if held:
        explored, alone = Ended(*map(sum, zip(*held, strict=True))), without_personas(counts).success
        figures["personaShare"] = explored.conversations / (conversations - censored)
        figures["personaSuccess"] = explored.success or 0.0
        figures |= {} if alone is None else {"successWithoutPersonas": alone}
    if suggestions:
        figures["acceptance"] = (counts["accepted"] + counts["edited"]) / suggestions
        figures["editedShare"] = counts["edited"] / suggestions
    if censored:
        figures["successAtLeast"] = counts["outcomes"] / conversations
        figures["successAtMost"] = (counts["outcomes"] + censored) / conversations
    return figures
