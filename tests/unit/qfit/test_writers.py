"""Turns of several writers: what each method's Q is the Q of, against the exact one of a small decision problem."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from ippo_trainer.data.censoring import UNCENSORED
from ippo_trainer.data.own import all_own, by_writers, foreign_as_explored, foreign_share
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.qfit.least_squares import LeastSquaresSettings, LoggedTurns, fit
from ippo_trainer.qfit.targets import ReturnWeights, monte_carlo_targets, turn_weights

STATES, ACTIONS, DISCOUNT = 4, 3, 0.9
OWN = by_writers(["ann"])
WRITERS = ("ann", "bob", "cem")


class Shop:
    """Conversations end with the outcome only. A turn's customer message names its state, the suggestion its action."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.wins = rng.uniform(0.05, 0.6, (STATES, ACTIONS))
        self.moves = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
        self.policies = dict(zip(WRITERS, rng.dirichlet(np.ones(ACTIONS), (3, STATES)), strict=True))
        self._chances = {writer: policy.tolist() for writer, policy in self.policies.items()}
        self._wins, self._moves = self.wins.tolist(), self.moves.tolist()

    def log(self, count: int, seed: int, by_turn: bool, writers: Sequence[str] = WRITERS) -> list[Conversation]:
        rng, held = random.Random(seed), []
        for number in range(count):
            turns, state, won, writer = [], rng.randrange(STATES), False, rng.choice(writers)
            while not won:
                if by_turn:
                    writer = rng.choice(writers)
                [action] = rng.choices(range(ACTIONS), self._chances[writer][state])
                turns.append(Turn(str(state), str(action), "accepted", "x", behaviour="log", writer=writer))
                won = rng.random() < self._wins[state][action]
                [state] = rng.choices(range(STATES), self._moves[state][action])
            held.append(Conversation(str(number), turns, True))
        return held

    def exact(self, policy: np.ndarray) -> np.ndarray:
        """Q (S, A), by iteration."""
        q = np.zeros((STATES, ACTIONS))
        for _ in range(500):
            q = self.wins + (1 - self.wins) * DISCOUNT * (self.moves @ (policy * q).sum(1))
        return q


def solved(conversations: Sequence[Conversation]) -> np.ndarray:
    """Q (S, A) of the last layer, on features that name state and action."""
    rows = []
    for conversation in conversations:
        turns = conversation.turns
        for index, (turn, weights) in enumerate(zip(turns, turn_weights(conversation, UNCENSORED), strict=True)):
            last = index + 1 == len(turns)
            rows.append((int(turn.customer_message), int(turn.suggestion or 0), last, *weights))
    one_hot = torch.nn.functional.one_hot
    ending = torch.tensor([row[2] for row in rows])
    layer = fit(
        LoggedTurns(
            one_hot(torch.tensor([row[0] for row in rows]), STATES).double(),
            one_hot(torch.tensor([row[1] for row in rows]), ACTIONS + 1).double(),
            ending,
            ending.double(),
            torch.tensor([row[3] for row in rows]),
            torch.tensor([row[4] for row in rows]),
            torch.zeros(len(rows), dtype=torch.long),
        ),
        LeastSquaresSettings((4,), 1e-6, DISCOUNT),
    )
    pairs = torch.cartesian_prod(torch.arange(STATES), torch.arange(ACTIONS))
    states, actions = one_hot(pairs[:, 0], STATES).double(), one_hot(pairs[:, 1], ACTIONS + 1).double()
    return (layer.q_features(states, actions) @ layer.q[0]).reshape(STATES, ACTIONS).numpy()


def monte_carlo(conversations: Sequence[Conversation]) -> np.ndarray:
    """Q (S, A) as weighted means of returns."""
    total, seen = np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
    weights = ReturnWeights.of(conversations, DISCOUNT)
    for conversation in conversations:
        for turn, target in zip(conversation.turns, monte_carlo_targets(conversation, weights), strict=True):
            at = int(turn.customer_message), int(turn.suggestion or 0)
            total[at] += target.weight * target.value
            seen[at] += target.weight
    return total / np.maximum(seen, 1e-9)


def error(q: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.mean((q - exact) ** 2)))


@pytest.mark.parametrize("by_turn", [True, False])
def test_expected_sarsa_is_the_policys_own_q_whoever_wrote(by_turn: bool) -> None:
    """As good as Monte Carlo on as many conversations of the policy alone; Monte Carlo on the mixture is wrong."""
    errors, own_errors, naive = [], [], []
    for seed in range(6):
        shop = Shop(seed)
        exact, log = shop.exact(shop.policies["ann"]), shop.log(1500, seed, by_turn)
        errors.append(error(solved(foreign_as_explored(log, OWN)), exact))
        own_errors.append(error(monte_carlo(shop.log(1500, 100 + seed, by_turn, ["ann"])), exact))
        naive.append(error(monte_carlo(log), exact))
    assert np.mean(errors) <= 1.5 * np.mean(own_errors)
    assert np.mean(naive) > 1.2 * np.mean(errors)


def test_sarsa_is_the_q_of_all_writers_together() -> None:
    errors, own_errors = [], []
    for seed in range(6):
        shop = Shop(seed)
        mixture = np.mean(list(shop.policies.values()), axis=0)
        log = shop.log(1500, seed, by_turn=True)
        errors.append(error(solved(all_own(log)), shop.exact(mixture)))
        own_errors.append(error(monte_carlo(log), shop.exact(mixture)))
    assert np.mean(errors) <= 1.1 * np.mean(own_errors)


@pytest.mark.parametrize("by_turn", [True, False])
def test_monte_carlo_on_clean_tails_stays_the_policys_own(by_turn: bool) -> None:
    shop = Shop(1)
    log = foreign_as_explored(shop.log(40_000, 1, by_turn, ["ann", "bob"]), OWN)
    assert error(monte_carlo(log), shop.exact(shop.policies["ann"])) < 0.03


def test_shares_and_marks() -> None:
    log = Shop(2).log(200, 2, by_turn=True)
    turns = [turn for each in log for turn in each.turns]
    assert foreign_share(log, OWN) == sum(turn.writer != "ann" for turn in turns) / len(turns)
    marked = [turn for each in foreign_as_explored(log, OWN) for turn in each.turns]
    assert [turn.behaviour for turn in marked] == ["log" if turn.writer == "ann" else "explore" for turn in turns]
    assert {turn.behaviour for turn in turns} == {"log"}  # the log itself is as it was
    assert {turn.behaviour for each in all_own(foreign_as_explored(log, OWN)) for turn in each.turns} == {
        "log",
        "policy",
    }
