"""The doubly robust value: against slow loops, and against the exact value of small decision problems."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ippo_trainer.evaluation.doubly_robust import cautious, doubly_robust
from ippo_trainer.evaluation.off_policy import BLOCKS, EvaluatedTurns, policy_values
from ippo_trainer.stats.intervals import Interval

from tests.unit.evaluation.test_off_policy import ACTIONS, DISCOUNT, STATES, Problem, weighted

RIDGE = 1e-6


def log_ratios(problem: Problem, turns: EvaluatedTurns) -> list[torch.Tensor]:
    """Of the target and of the behaviour policy, which wrote the log; states and actions are read of the features."""
    cells = turns.logged[:, 1:].argmax(1).numpy()
    ratio = np.log(problem.target / problem.behaviour)[cells // ACTIONS, cells % ACTIONS]
    return [torch.tensor(ratio), torch.zeros(len(cells), dtype=torch.double)]


def slow_value(turns: EvaluatedTurns, policy: torch.Tensor, ratios: torch.Tensor, discount: float) -> float:
    """The estimate, conversation by conversation, as the paper has it."""
    numbers = turns.conversation.tolist()
    count = max(numbers) + 1
    rows_of = [[row for row, number in enumerate(numbers) if number == each] for each in range(count)]
    blocks = min(BLOCKS, count)
    readings = {}
    for block in range(blocks):
        rest = [row for row, number in enumerate(numbers) if number % blocks != block]
        size = turns.logged.shape[1]
        left, right = np.eye(size) * RIDGE, np.zeros(size)
        left[0, 0] = 0.0
        for row in rest:
            follows = np.zeros(size) if turns.last[row] else policy[row + 1].numpy()
            phi = turns.logged[row].numpy() * float(turns.weight[row])
            left += np.outer(phi, turns.logged[row].numpy() - discount * follows)
            right += phi * float(turns.outcome[row])
        readings[block] = np.linalg.solve(left, right)
    longest = max(map(len, rows_of))
    base = [float(turns.start[rows[0]]) for rows in rows_of]
    weights = []
    for step in range(longest):
        products = [
            base[number] * math.exp(sum(float(ratios[row]) for row in rows[: step + 1]))
            for number, rows in enumerate(rows_of)
        ]
        weights.append([each / sum(products) for each in products])
    total = 0.0
    for number, rows in enumerate(rows_of):
        coefficients = readings[number % blocks]
        for step, row in enumerate(rows):
            now, before = weights[step][number], weights[step - 1][number] if step else base[number] / sum(base)
            q, v = turns.logged[row].numpy() @ coefficients, policy[row].numpy() @ coefficients
            total += discount**step * (now * (float(turns.outcome[row]) - q) + before * v)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_slow_loops_say(seed: int) -> None:
    problem = Problem(seed)
    turns, policies = problem.log(60, seed)
    turns = weighted(turns, seed)
    ratios = log_ratios(problem, turns)
    found = doubly_robust(turns, policies, ratios, DISCOUNT, RIDGE)
    for value, policy, ratio in zip(found.values, policies, ratios, strict=True):
        assert value.estimate == pytest.approx(slow_value(turns, policy, ratio, DISCOUNT), abs=1e-9)
    assert found.lifts[0].estimate == pytest.approx(found.values[0].estimate - found.values[1].estimate)
    assert (found.lifts[1].estimate, found.lifts[1].low) == (0.0, 0.0)
    assert 1 < found.effective[0] < 60


def test_intervals_hold_the_exact_value() -> None:
    hits = {"value": 0, "lift": 0}
    for seed in range(25):
        problem = Problem(seed)
        turns, policies = problem.log(500, seed)
        found = doubly_robust(turns, policies, log_ratios(problem, turns), DISCOUNT, RIDGE)
        target, behaviour = problem.exact(problem.target), problem.exact(problem.behaviour)
        hits["value"] += found.values[0].low <= target <= found.values[0].high
        hits["lift"] += found.lifts[0].low <= target - behaviour <= found.lifts[0].high
    assert min(hits.values()) >= 20, hits


def test_it_is_right_where_q_is_wrong() -> None:
    """Features that know neither state nor action: fitted Q evaluation cannot tell the policies apart."""
    error, variance, gained = 0.0, 0.0, 0.0
    for seed in range(10):
        problem = Problem(100 + seed)
        problem.target = (problem.target + problem.behaviour) / 2
        turns, policies = problem.log(1000, seed)
        blind = replace(turns, logged=turns.logged[:, :1])
        constant = [policy[:, :1] for policy in policies]
        exact = problem.exact(problem.target) - problem.exact(problem.behaviour)
        fitted = policy_values(blind, constant, DISCOUNT, RIDGE)[1][0]
        robust = doubly_robust(blind, constant, log_ratios(problem, turns), DISCOUNT, RIDGE).lifts[0]
        assert (fitted.estimate, fitted.low, fitted.high) == pytest.approx((0.0, 0.0, 0.0))
        sign = 1 if exact > 0 else -1
        error += sign * (robust.estimate - exact)
        gained += abs(exact)
        variance += ((robust.high - robust.low) / 4) ** 2
    assert abs(error) < 3 * variance**0.5
    assert abs(error) < 0.5 * gained  # all of it is missing where Q alone is asked


def test_the_writers_own_policy_is_worth_all_conversations() -> None:
    problem = Problem(1)
    turns, policies = problem.log(80, 1)
    found = doubly_robust(turns, policies[1:], log_ratios(problem, turns)[1:], DISCOUNT, RIDGE)
    assert found.effective == [pytest.approx(80)]
    assert policies[0].shape[1] == STATES * ACTIONS + 1


def test_an_interval_holds_the_lift_that_features_cannot_tell() -> None:
    """Nothing but a constant: fitted Q evaluation thinks all suggestions alike, and is sure; weights know better."""
    generator = torch.Generator().manual_seed(4)
    count = 2000
    asked = torch.rand(count, generator=generator) < 0.5
    won = torch.rand(count, generator=generator) < torch.where(asked, 0.4, 0.1)
    whole = torch.ones(count, dtype=torch.bool)
    constant = torch.ones(count, 1, dtype=torch.double)
    turns = EvaluatedTurns(
        constant, whole, whole, won.double(), torch.ones(count), torch.ones(count), torch.arange(count)
    )
    policies = [constant, constant]  # the candidate asks in nine of ten, the writers in one of two
    ratios = [torch.where(asked, 0.9 / 0.5, 0.1 / 0.5).double().log(), torch.zeros(count, dtype=torch.double)]
    _, fitted = policy_values(turns, policies, 0.9, 1.0)
    robust = doubly_robust(turns, policies, ratios, 0.9, 1.0)
    assert fitted[0].high < 0.01
    wide = cautious(fitted, robust.lifts)[0]
    assert wide.low <= fitted[0].low
    assert wide.low <= 0.12 <= wide.high < 0.2


def test_where_both_agree_the_interval_is_wider_by_their_difference() -> None:
    [wide] = cautious([Interval(0.10, 0.07, 0.14)], [Interval(0.13, 0.02, 0.24)])
    assert (wide.estimate, wide.low) == (0.10, pytest.approx(0.10 - math.hypot(0.03, 0.03)))
    assert wide.high == pytest.approx(0.10 + math.hypot(0.04, 0.03))
