"""The value of a policy that nobody deployed: against the exact one of small decision problems, and slow loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.evaluation.off_policy import EvaluatedTurns, policy_values

STATES, ACTIONS, DISCOUNT = 4, 3, 0.9


class Problem:
    """Customers come in a state, leave or buy at every turn, and move on; `behaviour` writes the log."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.buys = rng.uniform(0.02, 0.3, (STATES, ACTIONS))
        self.leaves = rng.uniform(0.1, 0.4, (STATES, ACTIONS))
        self.moves = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
        self.behaviour, self.target = rng.dirichlet(np.full(ACTIONS, 2.0), (2, STATES))

    def exact(self, policy: np.ndarray) -> float:
        q = np.zeros((STATES, ACTIONS))
        stays = (1 - self.buys) * (1 - self.leaves)
        for _ in range(500):
            q = self.buys + stays * DISCOUNT * (self.moves @ (policy * q).sum(1))
        return float((policy * q).sum(1).mean())

    def log(self, count: int, seed: int) -> tuple[EvaluatedTurns, list[torch.Tensor]]:
        """The turns, and mean features of the target and of the behaviour policy."""
        rng, rows = np.random.default_rng(seed), []
        for number in range(count):
            state, first = int(rng.integers(STATES)), True
            while True:
                action = int(rng.choice(ACTIONS, p=self.behaviour[state]))
                won = rng.uniform() < self.buys[state, action]
                over = won or rng.uniform() < self.leaves[state, action]
                rows.append((state, action, first, over, float(won), number))
                if over:
                    break
                state, first = int(rng.choice(STATES, p=self.moves[state, action])), False
        states, actions, first_ones, last, outcome, numbers = map(np.array, zip(*rows, strict=True))
        logged = features(states, np.eye(ACTIONS)[actions])
        turns = EvaluatedTurns(
            logged,
            torch.tensor(first_ones),
            torch.tensor(last),
            torch.tensor(outcome),
            torch.ones(len(rows)),
            torch.ones(len(rows)),
            torch.tensor(numbers),
        )
        return turns, [features(states, policy[states]) for policy in (self.target, self.behaviour)]


def features(states: np.ndarray, shares: np.ndarray) -> torch.Tensor:
    """A constant, then state by action; of several actions, their mean."""
    table = (np.eye(STATES)[states][:, :, None] * shares[:, None, :]).reshape(len(states), -1)
    return torch.tensor(np.concatenate([np.ones((len(states), 1)), table], 1))


def test_intervals_hold_the_exact_value() -> None:
    """Of 40 logs and policies, for values and for what one is more than the other."""
    hits = {"value": 0, "lift": 0}
    for seed in range(40):
        problem = Problem(seed)
        turns, policies = problem.log(500, seed)
        values, lifts = policy_values(turns, policies, DISCOUNT, 1e-6)
        target, behaviour = problem.exact(problem.target), problem.exact(problem.behaviour)
        hits["value"] += values[0].low <= target <= values[0].high
        hits["lift"] += lifts[0].low <= target - behaviour <= lifts[0].high
        assert values[0].high - values[0].low < 0.3
        assert (lifts[1].estimate, lifts[1].low, lifts[1].high) == (0.0, 0.0, 0.0)
    assert min(hits.values()) >= 34


def test_the_behaviour_policys_value_is_its_mean_return() -> None:
    problem = Problem(3)
    turns, policies = problem.log(4000, 3)
    numbers, returns = turns.conversation.numpy(), np.zeros(4000)
    for number in range(4000):
        rows = np.flatnonzero(numbers == number)
        returns[number] = DISCOUNT ** (len(rows) - 1) * float(turns.outcome[rows[-1]])
    [_, own], _ = policy_values(turns, policies, DISCOUNT, 1e-6)
    assert own.estimate == pytest.approx(returns.mean(), abs=0.01)
    assert own.high - own.low < 1.5 * 2 * 1.96 * returns.std() / 4000**0.5


def test_the_jackknife_is_that_of_refits() -> None:
    """With weights of turns and of conversations, as of logs that are cut off."""
    problem = Problem(5)
    turns, policies = problem.log(60, 5)
    turns = weighted(turns, 5)
    values, _ = policy_values(turns, policies[:1], DISCOUNT, 0.5)
    estimates = []
    for block in range(50):
        keep = turns.conversation % 50 != block
        parts = (getattr(turns, name)[keep] for name in EvaluatedTurns.__slots__)
        one = _solved(EvaluatedTurns(*parts), policies[0][keep])
        estimates.append(one)
    variance = 49 / 50 * np.sum((np.array(estimates) - np.mean(estimates)) ** 2)
    assert values[0].estimate == pytest.approx(_solved(turns, policies[0]))
    share = values[0].estimate
    for end, sign in ((values[0].low, -1), (values[0].high, 1)):
        logit = math.log(share / (1 - share)) + sign * 2.0096 * variance**0.5 / (share * (1 - share))
        assert math.log(end / (1 - end)) == pytest.approx(logit, rel=1e-3)


def weighted(turns: EvaluatedTurns, seed: int) -> EvaluatedTurns:
    """With any weights; a conversation whose first suggestion nobody saw began like any other."""
    rng = torch.Generator().manual_seed(seed)
    turn, start = (torch.rand(len(turns.weight), dtype=torch.double, generator=rng) + 0.5 for _ in range(2))
    turn[turns.first & (turns.conversation % 5 == 0)] = 0.0
    return replace(turns, weight=turn, start=start)


def _solved(turns: EvaluatedTurns, policy: torch.Tensor) -> float:
    """Row by row."""
    width = turns.logged.shape[1]
    left, right, starts = 0.5 * np.eye(width), np.zeros(width), []
    left[0, 0] = 0.0
    for row in range(len(turns.last)):
        phi = turns.logged[row].numpy()
        after = np.zeros(width) if turns.last[row] else policy[row + 1].numpy()
        left += float(turns.weight[row]) * np.outer(phi, phi - DISCOUNT * after)
        right += float(turns.weight[row]) * phi * float(turns.outcome[row])
        if turns.first[row]:
            starts.append((policy[row].numpy(), float(turns.start[row])))
    return float(
        np.average([each for each, _ in starts], 0, [weight for _, weight in starts]) @ np.linalg.solve(left, right)
    )


def test_one_conversation_is_refused() -> None:
    turns, policies = Problem(1).log(1, 1)
    with pytest.raises(BadDataError, match="one conversation is too few"):
        policy_values(turns, policies, DISCOUNT, 1.0)
