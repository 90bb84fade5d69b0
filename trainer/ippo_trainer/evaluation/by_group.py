"""What a log tells of a candidate's value for each group of its conversations: a shop, a language, a kind of customer.

Each group's values are estimated from its own conversations alone, so that what holds for the others says nothing of
it. A group with few of them is named, and no figure is given.
"""

from collections.abc import Sequence

from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.evaluation.doubly_robust import cautious, doubly_robust
from ippo_trainer.evaluation.groups import LEAST_CONVERSATIONS, LEAST_OUTCOMES, GroupValue, GroupValues
from ippo_trainer.evaluation.off_policy import EvaluatedTurns, policy_values
from ippo_trainer.stats.intervals import Interval

MOST_GROUPS = 64


def values_by_group(
    conversations: Sequence[Conversation],
    turns: EvaluatedTurns,
    policies: tuple[Sequence[Tensor], Sequence[Tensor]],
    discount: float,
    penalty: float,
    confidence: float,
) -> GroupValues:
    """Of conversations that have a group; no groups where none has one.

    Args:
        conversations: that `turns` are of, in order.
        turns: of them all.
        policies: the candidate and the current one: (n, P) mean features of their suggestions, and (n,) log ratios as
            `doubly_robust.doubly_robust` takes them.
        discount, penalty, confidence: as `off_policy.policy_values` takes them.
    """
    members: dict[str, list[int]] = {}
    for number, each in enumerate(conversations):
        if each.group:
            members.setdefault(each.group, []).append(number)
    largest = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_GROUPS]
    groups = {}
    for name, numbers in largest:
        value = GroupValue(
            conversations=len(numbers), outcomes=sum(conversations[number].outcome for number in numbers)
        )
        if value.conversations >= LEAST_CONVERSATIONS and value.outcomes >= LEAST_OUTCOMES:
            part = turns.part([*policies[0], *policies[1]], numbers)
            value = _estimated(value, part, discount, penalty, confidence)
        groups[name] = value
    return GroupValues(groups=groups)


def _estimated(
    value: GroupValue, part: tuple[EvaluatedTurns, list[Tensor]], discount: float, penalty: float, confidence: float
) -> GroupValue:
    """With its figures; without where its equations have no solution."""
    lifts: list[Interval]
    try:
        turns, columns = part
        (candidate, current), lifts = policy_values(turns, columns[:2], discount, penalty, confidence)
        robust = doubly_robust(turns, columns[:2], columns[2:], discount, penalty, confidence)
        lifts = cautious(lifts, robust.lifts)
    except BadDataError:
        return value
    lift = lifts[0]
    figures = {"current": current.estimate, "candidate": candidate.estimate}
    return value.model_copy(update={**figures, "lift": (lift.estimate, lift.low, lift.high)})
