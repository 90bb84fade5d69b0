"""Values of policies by group: each from its own conversations, and none of a group that is too small."""

import pytest
import torch
from ippo_trainer.data.schema import Conversation
from ippo_trainer.evaluation.by_group import values_by_group
from ippo_trainer.evaluation.groups import LEAST_CONVERSATIONS
from ippo_trainer.evaluation.off_policy import EvaluatedTurns, policy_values

ASKS, TALKS = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
"""Features of the two things to say: a constant, then which."""


def no_ratios(turns: EvaluatedTurns) -> list[torch.Tensor]:
    """Of policies that are as likely as the writers to say what was said."""
    return [torch.zeros(len(turns.last), dtype=torch.double)] * 2


def log(sizes: dict[str, tuple[int, float, float]]) -> tuple[list[Conversation], EvaluatedTurns]:
    """Conversations of one turn, groups mixed up: by name how many, and how often the outcome comes of either."""
    generator, rows = torch.Generator().manual_seed(1), []
    for name, (count, *chances) in sizes.items():
        for number in range(count):
            won = bool(torch.rand((), generator=generator) < chances[number % 2])
            rows.append((name, (ASKS, TALKS)[number % 2], won))
    order = torch.randperm(len(rows), generator=generator).tolist()
    rows = [rows[place] for place in order]
    conversations = [
        Conversation(str(number), [], outcome=won, group=name) for number, (name, _, won) in enumerate(rows)
    ]
    true = torch.ones(len(rows), dtype=torch.bool)
    won = torch.tensor([float(row[2]) for row in rows])
    logged = torch.stack([row[1] for row in rows]).double()
    ones = torch.ones(len(rows))
    return conversations, EvaluatedTurns(logged, true, true, won, ones, ones, torch.arange(len(rows)))


def test_each_group_has_the_values_of_its_own_conversations() -> None:
    conversations, turns = log({"web": (1000, 0.8, 0.2), "shop": (600, 0.1, 0.5), "": (300, 0.9, 0.9)})
    policies = (ASKS.double().expand(1900, 3), TALKS.double().expand(1900, 3))
    groups = values_by_group(conversations, turns, (policies, no_ratios(turns)), 0.9, 1e-3, 0.95).groups
    assert list(groups) == ["web", "shop"]
    web, shop = groups["web"], groups["shop"]
    assert (web.conversations, shop.conversations) == (1000, 600)
    assert web.outcomes == sum(each.outcome for each in conversations if each.group == "web")
    assert web.lift is not None and shop.lift is not None  # noqa: PT018
    assert abs(web.lift[0] - 0.6) < 0.08 and abs(shop.lift[0] + 0.4) < 0.1  # noqa: PT018
    assert web.lift[1] < 0.6 < web.lift[2] < 0.75
    alone = [number for number, each in enumerate(conversations) if each.group == "shop"]
    part = EvaluatedTurns(*(getattr(turns, name)[alone] for name in EvaluatedTurns.__slots__[:-1]), torch.arange(600))
    _, lifts = policy_values(part, [policy[alone] for policy in policies], 0.9, 1e-3, 0.95)
    assert shop.lift == pytest.approx((lifts[0].estimate, lifts[0].low, lifts[0].high))


def test_a_small_group_is_named_without_figures() -> None:
    few = LEAST_CONVERSATIONS - 1
    conversations, turns = log({"web": (400, 0.5, 0.5), "small": (few, 0.5, 0.5), "never": (200, 0.0, 0.0)})
    policies = (ASKS.double().expand(len(conversations), 3), TALKS.double().expand(len(conversations), 3))
    groups = values_by_group(conversations, turns, (policies, no_ratios(turns)), 0.9, 1e-3, 0.95).groups
    assert groups["web"].lift is not None
    for name, count in (("small", few), ("never", 200)):
        assert (groups[name].conversations, groups[name].lift, groups[name].candidate) == (count, None, None)


def test_a_log_without_groups_has_none() -> None:
    conversations, turns = log({"": (20, 0.5, 0.5)})
    policies = (turns.logged, turns.logged)
    assert values_by_group(conversations, turns, (policies, no_ratios(turns)), 0.9, 1.0, 0.95).groups == {}
