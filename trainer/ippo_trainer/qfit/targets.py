"""What Q and V are regressed on: Monte Carlo returns where they belong to pi_i, and lambda-returns.

An exploring turn (behaviour "explore") is an honest sample of Q(s, a), but its action changes what follows, so a return
that passes through a *later* exploring turn belongs to the mixture, not to pi_i (paper, end of section 3). Both targets
below stay those of pi_i:

* Monte Carlo keeps the turns with a clean tail, i.e. without a later exploring turn, and weights them by the inverse
  probability of that. Weights matter: short tails are clean more often, and they are short because the customer left.
* Lambda-returns cut the trace in front of an exploring turn and put the model's V of that state in its place.

Both are weighted by the inverse probability of not having been censored before the end, for the same reason. A
suggestion that the business never saw had no effect: its return is one of the state, for V, and none of the suggestion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ippo_trainer.data.censoring import UNCENSORED, Censoring
from ippo_trainer.data.own import explored
from ippo_trainer.data.schema import Conversation

RARE_WEIGHT = 3.0
"""Of exploring turns and of the states right behind them, in the fits of Q. No reported figure knows this weight."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one turn's Q(s, a) and V(s) are fitted to."""

    value: float
    """In [0, 1]."""
    weight: float
    """Of Q's loss; 0 leaves the turn out, as where the suggestion was never displayed."""
    value_weight: float
    """Of V's loss: 0 where the action is not pi_i's own, else `weight`."""


def explored_share(conversations: Sequence[Conversation]) -> float:
    """Probability that the turn after one of the policy's own explores.

    The explorer's coin ignores the conversation, so it is the share of exploring turns; 0 without turns. Personas, and
    other writers of a log (they have names), hold whole conversations or may, so of those it is counted on the turns
    after own ones.
    """
    turns = [turn for conversation in conversations for turn in conversation.turns]
    if any(explored(turn) and turn.writer for turn in turns):
        turns = [
            after
            for conversation in conversations
            for before, after in pairwise(conversation.turns)
            if not explored(before)
        ]
    return sum(map(explored, turns)) / len(turns) if turns else 0.0


def success_unexplored(
    conversations: Sequence[Conversation], explore_share: float, censoring: Censoring = UNCENSORED
) -> float | None:
    """Success of pi_i alone, by the finished conversations in which nothing explored; None where there is none.

    A conversation of n turns is left alone with probability (1 - explore_share)^n, so it is weighted by the inverse.
    """
    total = won = 0.0
    for each in conversations:
        if each.turns and not each.censored and not any(map(explored, each.turns)):
            weight = censoring.weight(len(each.turns)) / (1.0 - explore_share) ** len(each.turns)
            total, won = total + weight, won + weight * each.outcome
    return won / total if total else None


def monte_carlo_targets(
    conversation: Conversation, discount: float, explore_share: float, censoring: Censoring = UNCENSORED
) -> list[Target]:
    """Discounted returns of the turns with a clean tail, weighted so that their expectation is Q of pi_i.

    G_i = discount^(n - i) if the outcome comes, else 0, for last turn n; weight (1 - explore_share)^-(n - i), times
    the inverse probability that nothing cut the conversation off from turn i to n.

    Args:
        conversation: not censored.
        discount: per turn.
        explore_share: probability of exploring at a turn, below 1.
        censoring: of the log that the conversation is from.
    """
    targets: list[Target] = []
    value, weight, count = float(conversation.outcome), 1.0, len(conversation.turns)
    for index in reversed(range(count)):
        turn, whole = conversation.turns[index], weight * censoring.weight(count, index)
        targets.append(Target(value, whole if turn.displayed else 0.0, 0.0 if explored(turn) else whole))
        weight = 0.0 if explored(turn) else weight / (1.0 - explore_share)
        value *= discount
    return targets[::-1]


def lambda_targets(
    conversation: Conversation,
    discount: float,
    trace_lambda: float,
    values: Sequence[float],
    censoring: Censoring = UNCENSORED,
) -> list[Target]:
    """Lambda-returns of every turn, cut in front of exploring turns; weights as in `monte_carlo_targets`, exploration
    left out.

    G_n = outcome; G_i = discount * ((1 - l) V(s_{i+1}) + l G_{i+1}); l = trace_lambda, or 0 if turn i + 1 explored
    (Sutton and Barto, 2nd ed., 12.8, with the per-decision trace of an off-policy turn set to 0).

    Args:
        conversation: not censored.
        discount: per turn.
        trace_lambda: 1 keeps returns whole between exploring turns, 0 is one-step TD.
        values: V(s_i) of every turn, in [0, 1].
        censoring: of the log that the conversation is from.
    """
    targets: list[Target] = []
    value, count = float(conversation.outcome), len(conversation.turns)
    for index in reversed(range(count)):
        turn, weight = conversation.turns[index], censoring.weight(count, index)
        targets.append(Target(value, weight if turn.displayed else 0.0, 0.0 if explored(turn) else weight))
        trace = 0.0 if explored(turn) else trace_lambda
        value = discount * ((1.0 - trace) * values[index] + trace * value)
    return targets[::-1]


def emphasised(targets: Sequence[Target], conversation: Conversation) -> list[Target]:
    """The targets with more weight on exploring turns and on the states right behind them.

    These are what the policy must learn and does not do yet, and few conversations show them.

    Args:
        targets: of the conversation's turns.
        conversation: see there.
    """
    explores = [explored(turn) for turn in conversation.turns]
    behind = [False, *explores[:-1]]
    factors = (RARE_WEIGHT if any(rare) else 1.0 for rare in zip(explores, behind, strict=True))
    return [
        Target(target.value, factor * target.weight, factor * target.value_weight)
        for target, factor in zip(targets, factors, strict=True)
    ]
