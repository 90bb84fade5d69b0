"""What the peers of the benchmarks are rewarded with, against a slow loop."""

import sys
from pathlib import Path

import pytest
from ippo_trainer.data.schema import Conversation, Turn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from curves import Row, by_cycle, summary
from peers import GRIDS, PEERS, _leave_one_out


def test_the_baseline_is_the_mean_of_the_others_at_that_turn() -> None:
    turn = Turn("hello", "red", "accepted", "red")
    log = [
        Conversation(str(number), [turn] * length, outcome=won)
        for number, (length, won) in enumerate([(1, True), (3, False), (3, True), (2, True)])
    ]
    returns = [[0.9 ** (len(c.turns) - 1 - t) * c.outcome for t in range(len(c.turns))] for c in log]
    flat = [value for row in returns for value in row]
    mean = sum(flat) / len(flat)
    deviation = (sum((value - mean) ** 2 for value in flat) / len(flat)) ** 0.5
    expected = []
    for number, row in enumerate(returns):
        for place, value in enumerate(row):
            others = [other[place] for index, other in enumerate(returns) if index != number and place < len(other)]
            expected.append((value - sum(others) / max(1, len(others))) / deviation)
    assert _leave_one_out(log, 0.9) == pytest.approx(expected)


def test_every_peer_has_a_grid_of_the_stated_budget() -> None:
    assert {name: len(grid) for name, grid in GRIDS.items()} == dict.fromkeys(PEERS, 4)


def test_a_curve_begins_with_the_first_policy() -> None:
    rows = [Row("design", seed, cycle, 0.5 + 0.1 * cycle, 0.9, 0.1, "Promote") for seed in (0, 1) for cycle in (1, 2)]
    assert by_cycle(rows) == {0: [0.1, 0.1], 1: [0.6, 0.6], 2: [0.7, 0.7]}
    assert summary([0.6, 0.8])["low"] < 0.6 < summary([0.6, 0.8])["mean"] < 0.8
