"""The maze as a `DecisionProblem`: a state is a cell and a turn."""

import numpy as np

from ippo_trainer.environments.maze.layout import AREAS, CELLS, GOAL, INTENTS, MOVES, after, area
from ippo_trainer.environments.problem import DecisionProblem, Level


def build(max_turns: int) -> DecisionProblem:
    """Starts are uniform over the free cells; every level has the same 25 states, whose features are row and column."""
    count, intents = len(CELLS), len(INTENTS)
    index = {cell: i for i, cell in enumerate(CELLS)}
    there = [[after(cell, intent) for intent in range(intents)] for cell in CELLS]
    outcome = np.array([[float(cell == GOAL) for cell in row] for row in there])
    child = np.array([[index.get(cell, 0) for cell in row] for row in there])[:, :, None]
    stage = np.array([area(cell) for cell in CELLS])
    features = np.array(CELLS, dtype=np.float64)
    going_on = Level(stage, features, np.arange(count), outcome, (1 - outcome)[:, :, None], child)
    last = Level(stage, features, np.arange(count), outcome, np.zeros((count, intents, 1)), 0 * child)
    same = np.broadcast_to(np.eye(intents), (len(AREAS), intents, intents)).copy()
    accepted = np.tile(np.append(np.ones(len(MOVES)), 0.0), (len(AREAS), 1))
    uniform = accepted / len(MOVES)
    start = np.full(count, 1 / count)
    return DecisionProblem(
        INTENTS, AREAS, same, accepted, start, [going_on] * (max_turns - 1) + [last], uniform, uniform
    )
