"""The double-T maze: LMRL-Gym's figures, found by shortest paths and linear algebra, are the environment's."""

from collections import deque

import numpy as np
import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.maze.environment import Maze
from ippo_trainer.environments.maze.layout import CELLS, GOAL, ROWS, describe
from ippo_trainer.environments.problem import DecisionProblem, Policy, evaluate, greedy, optimum, reach

STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def neighbours(cell: tuple[int, int]) -> list[tuple[int, int]]:
    """Where the four moves lead."""
    found = []
    for down, right in STEPS:
        there = (cell[0] + down, cell[1] + right)
        found.append(cell if ROWS[there[0]][there[1]] == "#" else there)
    return found


def distances() -> dict[tuple[int, int], int]:
    """Shortest paths to the goal by breadth-first search."""
    far = {GOAL: 0}
    waiting = deque([GOAL])
    while waiting:
        cell = waiting.popleft()
        for there in neighbours(cell):
            if there not in far:
                far[there] = far[cell] + 1
                waiting.append(there)
    return far


def walk() -> np.ndarray:
    """The random walk between the 25 cells; what is missing to 1 arrives."""
    matrix = np.zeros((len(CELLS), len(CELLS)))
    for i, cell in enumerate(CELLS):
        for there in neighbours(cell):
            if there != GOAL:
                matrix[i, CELLS.index(there)] += 0.25
    return matrix


def mean_return(problem: DecisionProblem, policy: Policy) -> float:
    """LMRL-Gym's return averaged over the starts: -1 for every turn that does not reach the goal, -1 more for failing.

    With 100 turns the published worst and best are -101 and -6.84.
    """
    waiting, arrived = 0.0, 0.0
    for level, p, reached in zip(problem.levels, policy, reach(problem, policy), strict=True):
        effects = np.einsum("na,nam->nm", p, problem.response[level.stage])
        arrives = float(reached @ (effects * level.outcome).sum(-1))
        waiting += float(reached.sum()) - arrives
        arrived += arrives
    return -waiting - (1 - arrived)


def test_the_published_figures() -> None:
    far = distances()
    assert len(CELLS) == 25
    assert np.mean([far[cell] for cell in CELLS]) == pytest.approx(7.84)
    problem = Maze().problem
    uniform = problem.by_stage(problem.uniform)
    improved, best = greedy(evaluate(problem, uniform, 0.95)), greedy(optimum(problem, 0.95))
    assert [round(mean_return(problem, policy), 2) for policy in (uniform, improved, best)] == [-85.89, -6.84, -6.84]


def test_one_improvement_of_the_uncapped_random_walk_is_optimal() -> None:
    """Independent of the environment: Q of the random walk under -1 a turn by a linear solve (rl-anchors D.2)."""
    far, matrix = distances(), walk()
    # Every turn costs 1 but the one that arrives.
    cost = -matrix.sum(-1)
    value = np.linalg.solve(np.eye(len(CELLS)) - matrix, cost)
    assert value.mean() == pytest.approx(-431.3, abs=0.05)
    for cell in CELLS:
        q = [0.0 if there == GOAL else -1 + value[CELLS.index(there)] for there in neighbours(cell)]
        assert far[neighbours(cell)[int(np.argmax(q))]] == far[cell] - 1


def test_the_ladder_in_our_terms_follows_from_path_lengths() -> None:
    far, matrix = distances(), walk()
    rows = {row.name: row for row in Maze(max_turns=30).ladder(0.9)}
    assert rows["optimum"].value == pytest.approx(np.mean([0.9 ** (far[cell] - 1) for cell in CELLS]))
    assert rows["optimum"].success == pytest.approx(1)
    assert rows["greedy-1"].value == pytest.approx(rows["optimum"].value)
    here, value, success = np.full(len(CELLS), 1 / len(CELLS)), 0.0, 0.0
    for turn in range(30):
        arrives = float(here @ (1 - matrix.sum(-1)))
        value, success, here = value + 0.9**turn * arrives, success + arrives, here @ matrix
    for name in ("base", "uniform"):
        assert (rows[name].value, rows[name].success) == pytest.approx((value, success))
    assert rows["abstain"].success == 0


def test_the_worst_return_is_the_published_one() -> None:
    problem = Maze().problem
    stay = np.eye(5)[[4] * len(problem.stages)]
    assert mean_return(problem, problem.by_stage(stay)) == pytest.approx(-101)


def test_walking_is_what_the_solution_says() -> None:
    maze = Maze(max_turns=25)
    policy = greedy(optimum(maze.problem, 0.95))
    messages, far = maze.reset(range(200)), distances()
    where = {describe(cell): index for index, cell in enumerate(CELLS)}
    expected = [far[CELLS[where[message]]] for message in messages]
    assert set(expected) >= {1, 2, 3}
    lengths, turn = [], 0
    while messages:
        names = [("up", "down", "left", "right")[int(policy[turn][where[message]].argmax())] for message in messages]
        steps = maze.step([f"move {name}" for name in names])
        turn += 1
        lengths += [turn for step in steps if step.customer_message is None]
        assert all(step.outcome == (step.customer_message is None) for step in steps)
        messages = [step.customer_message for step in steps if step.customer_message is not None]
    assert sorted(lengths) == sorted(expected)


def test_what_is_no_move_is_rejected_and_the_end_is_the_end() -> None:
    maze = Maze(max_turns=2)
    before = maze.reset([5, 6])
    steps = maze.step([None, "jump"])
    assert [step.reaction for step in steps] == ["rejected", "rejected"]
    assert [step.customer_message for step in steps] == before
    assert [maze.intent_of(text) for text in (None, "jump", " Move  UP")] == ["ABSTAIN", "UNPARSED", "UP"]
    assert [step.customer_message for step in maze.step(["jump", "jump"])] == [None, None]


def test_a_start_depends_on_its_seed_only() -> None:
    together = Maze().reset(range(50))
    assert [Maze().reset([seed])[0] for seed in range(50)] == together
    assert set(Maze().reset(range(2000))) == {describe(cell) for cell in CELLS}


def test_conversations_of_another_world_are_named() -> None:
    maze = Maze(max_turns=3)
    odd = Conversation("c1", [Turn("hello", "move up", "accepted", "move up")])
    with pytest.raises(BadDataError, match="conversation c1, turn 0: customer message 'hello'"):
        maze.score([odd, odd], 0.9)
    with pytest.raises(BadDataError, match="c2 has 0 turns"):
        maze.score([Conversation("c2"), odd], 0.9)
    maze.reset([1, 2])
    with pytest.raises(ValueError, match="1 suggestions for 2"):
        maze.step(["move up"])
