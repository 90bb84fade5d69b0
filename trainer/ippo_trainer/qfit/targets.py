"""What Q and V are regressed on: Monte Carlo returns where they belong to pi_i, and lambda-returns.

An exploring turn (behaviour "explore") is an honest sample of Q(s, a), but its action changes what follows, so a return
that passes through a *later* exploring turn belongs to the mixture, not to pi_i (paper, end of section 3). Both targets
below stay those of pi_i:

* Monte Carlo keeps the turns with a clean tail, i.e. without a later exploring turn, and weights them by the inverse
  probability of that. Weights matter: short tails are clean more often, and they are short because the customer left.
  A persona keeps its conversation, so behind its turns no tail is clean but an empty one: they are left out, the last
  ones too.
* Lambda-returns cut the trace in front of an exploring turn and put the model's V of that state in its place.

Both are weighted by the inverse probability of not having been censored before the end, for the same reason. A
suggestion that the business never saw had no effect: its return is one of the state, for V, and none of the suggestion.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ippo_trainer.data.censoring import UNCENSORED, Censoring
from ippo_trainer.data.own import explored
from ippo_trainer.data.schema import Conversation, Turn

RARE_WEIGHT = 3.0
"""Of exploring turns and of the states right behind them, in the fits of Q and their early stopping. The account of Q
does not know this weight."""
_LEAST_OWN = 0.02
"""A tail behind a turn that pi_i follows less often would weigh more than fifty."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one turn's Q(s, a) and V(s) are fitted to."""

    value: float
    """In [0, 1]."""
    weight: float
    """Of Q's loss; 0 leaves the turn out, as where the suggestion was never displayed."""
    value_weight: float
    """Of V's loss: 0 where the action is not pi_i's own, else `weight`."""


@dataclass(frozen=True, slots=True)
class ReturnWeights:
    """How the returns of a log stand for those of pi_i: counted on all its conversations, the censored ones too."""

    discount: float
    """Per turn."""
    own_after: Mapping[str | None, float]
    """Probability that pi_i makes the next turn, by who made one: None is pi_i, "" the explorer, else a persona or
    another writer. 0 where it is too small to weight for."""
    censoring: Censoring

    @staticmethod
    def of(log: Sequence[Conversation], discount: float) -> "ReturnWeights":
        """Of all conversations of a log.

        The explorer's coin ignores the conversation, so where nobody else explores every turn tells of it. Personas,
        and other writers, hold whole conversations or may: they are counted on the turns that follow one another.
        """
        turns = [turn for each in log for turn in each.turns]
        own, pairs = Counter[str | None](), Counter[str | None]()
        for each in log:
            for before, after in pairwise(each.turns):
                pairs[_explorer(before)] += 1
                own[_explorer(before)] += not explored(after)
        own_after = {name: own[name] / count for name, count in pairs.items()}
        if own_after.get(None, 1.0) < 1.0 and not any(explored(turn) and turn.writer for turn in turns):
            own_after = dict.fromkeys((None, ""), 1.0 - sum(map(explored, turns)) / len(turns))
        usable = {name: share if share >= _LEAST_OWN else 0.0 for name, share in own_after.items()}
        return ReturnWeights(discount, usable, Censoring.of(log))

    def own_behind(self, turn: Turn) -> float:
        """Probability that the turn behind this one, if there is one, is pi_i's own; 1 where there never is one."""
        return self.own_after.get(_explorer(turn), 1.0)


def _explorer(turn: Turn) -> str | None:
    return turn.writer if explored(turn) else None


def success_unexplored(conversations: Sequence[Conversation], weights: ReturnWeights) -> float | None:
    """Success of pi_i alone, by the finished conversations in which nothing explored; None where there is none.

    One of n turns is weighted by the inverse probability of being left alone as long as that; how likely the first
    turn is pi_i's does not matter.
    """
    own = weights.own_after.get(None, 1.0)
    total = won = 0.0
    for each in conversations:
        if own and each.turns and not each.censored and not any(map(explored, each.turns)):
            weight = weights.censoring.weight(len(each.turns)) / own ** len(each.turns)
            total, won = total + weight, won + weight * each.outcome
    return won / total if total else None


def monte_carlo_targets(conversation: Conversation, weights: ReturnWeights) -> list[Target]:
    """Discounted returns of the turns with a clean tail, weighted so that their expectation is Q of pi_i.

    G_i = discount^(n - i) if the outcome comes, else 0, for last turn n; weighted by the inverse probability that turns
    i + 1 to n are pi_i's own and that nothing cut the conversation off from turn i to n.

    Args:
        conversation: not censored.
        weights: of the log that it is from.
    """
    targets: list[Target] = []
    value, weight, count = float(conversation.outcome), 1.0, len(conversation.turns)
    for index in reversed(range(count)):
        turn = conversation.turns[index]
        own = weights.own_behind(turn)
        if index + 1 < count:
            weight = weight / own if own and not explored(conversation.turns[index + 1]) else 0.0
        whole = weight * weights.censoring.weight(count, index) if own else 0.0
        targets.append(Target(value, whole if turn.displayed else 0.0, 0.0 if explored(turn) else whole))
        value *= weights.discount
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
    value, weights = float(conversation.outcome), turn_weights(conversation, censoring)
    for index in reversed(range(len(weights))):
        targets.append(Target(value, *weights[index]))
        trace = 0.0 if explored(conversation.turns[index]) else trace_lambda
        value = discount * ((1.0 - trace) * values[index] + trace * value)
    return targets[::-1]


def turn_weights(conversation: Conversation, censoring: Censoring) -> list[tuple[float, float]]:
    """Weight of every turn in Q's and in V's fit where nothing behind a turn has to be pi_i's; see `Target`."""
    count, weights = len(conversation.turns), []
    for index, turn in enumerate(conversation.turns):
        weight = censoring.weight(count, index)
        weights.append((weight if turn.displayed else 0.0, 0.0 if explored(turn) else weight))
    return weights


def emphasised(targets: Sequence[Target], conversation: Conversation) -> list[Target]:
    """The targets of a conversation's turns, weighted by `emphasis` too."""
    return [
        Target(target.value, factor * target.weight, factor * target.value_weight)
        for target, factor in zip(targets, emphasis(conversation), strict=True)
    ]


def emphasis(conversation: Conversation) -> list[float]:
    """More weight for exploring turns and for the states right behind them: these are what the policy must learn and
    does not do yet, and few conversations show them."""
    explores = [explored(turn) for turn in conversation.turns]
    return [RARE_WEIGHT if any(rare) else 1.0 for rare in zip(explores, [False, *explores[:-1]], strict=True)]
