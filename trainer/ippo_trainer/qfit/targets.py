"""What Q and V are regressed on: Monte Carlo returns where they belong to pi_i, and lambda-returns.

An exploring turn (behaviour "explore") is an honest sample of Q(s, a), but its action changes what follows, so a return
that passes through a *later* exploring turn belongs to the mixture, not to pi_i (paper, end of section 3). Both targets
below stay those of pi_i:

* Monte Carlo keeps the turns with a clean tail, i.e. without a later exploring turn, and weights them by the inverse
  probability of that. Weights matter: short tails are clean more often, and they are short because the customer left.
* Lambda-returns cut the trace in front of an exploring turn and put the model's V of that state in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from ippo_trainer.data.schema import Conversation, Turn

EXPLORE = "explore"


@dataclass(frozen=True, slots=True)
class Target:
    """What one turn's Q(s, a) and V(s) are fitted to."""

    value: float
    """In [0, 1]."""
    weight: float
    """Of Q's loss; 0 leaves the turn out."""
    value_weight: float
    """Of V's loss: 0 where the action is not pi_i's own, else `weight`."""


def before_outcome(conversation: Conversation) -> Conversation:
    """The conversation without the turns that came after its outcome: they are past the end of the problem."""
    kept = list(takewhile(lambda turn: not turn.outcome, conversation.turns))
    return conversation if len(kept) == len(conversation.turns) else replace(conversation, turns=kept)


def explored(turn: Turn) -> bool:
    """Whether the suggestion came from the exploring policy instead of pi_i."""
    return turn.behaviour == EXPLORE


def explored_share(conversations: Sequence[Conversation]) -> float:
    """Share of exploring turns. Their coin ignores the conversation, so this estimates its bias; 0 without turns."""
    turns = [turn for conversation in conversations for turn in conversation.turns]
    return sum(map(explored, turns)) / len(turns) if turns else 0.0


def monte_carlo_targets(conversation: Conversation, discount: float, explore_share: float) -> list[Target]:
    """Discounted returns of the turns with a clean tail, weighted so that their expectation is Q of pi_i.

    G_i = discount^(n - i) if the outcome comes, else 0, for last turn n; weight (1 - explore_share)^-(n - i).

    Args:
        conversation: not censored.
        discount: per turn.
        explore_share: probability of exploring at a turn, below 1.
    """
    targets: list[Target] = []
    value, weight = float(conversation.outcome), 1.0
    for turn in reversed(conversation.turns):
        targets.append(Target(value, weight, 0.0 if explored(turn) else weight))
        weight = 0.0 if explored(turn) else weight / (1.0 - explore_share)
        value *= discount
    return targets[::-1]


def lambda_targets(
    conversation: Conversation, discount: float, trace_lambda: float, values: Sequence[float]
) -> list[Target]:
    """Lambda-returns of every turn, cut in front of exploring turns; every weight is 1.

    G_n = outcome; G_i = discount * ((1 - l) V(s_{i+1}) + l G_{i+1}); l = trace_lambda, or 0 if turn i + 1 explored
    (Sutton and Barto, 2nd ed., 12.8, with the per-decision trace of an off-policy turn set to 0).

    Args:
        conversation: not censored.
        discount: per turn.
        trace_lambda: 1 keeps returns whole between exploring turns, 0 is one-step TD.
        values: V(s_i) of every turn, in [0, 1].
    """
    targets: list[Target] = []
    value = float(conversation.outcome)
    for index in reversed(range(len(conversation.turns))):
        turn = conversation.turns[index]
        targets.append(Target(value, 1.0, 0.0 if explored(turn) else 1.0))
        trace = 0.0 if explored(turn) else trace_lambda
        value = discount * ((1.0 - trace) * values[index] + trace * value)
    return targets[::-1]
