"""Exact dynamic programming over a finite tree of information states, level by level.

An action (the intent of a suggestion) has an effect (the message that the business sends), the effect leads to the
outcome or to a state of the next level. Everything is an array per level, so a ladder takes seconds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ippo_trainer.environments.protocol import LadderRow

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Policy = list[Array]
"""One (states, actions) array of probabilities per level."""

TIE = 1e-12


@dataclass(frozen=True)
class Level:
    """The information states of one turn. N states, M effects, at most J continuations of each.

    Args:
        stage: (N,) index into the problem's stages.
        features: (N, F) what else the state is made of: a belief, a position.
        group: (N,) states of a kind, over all turns, for estimates from few data.
        outcome: (N, M) P(outcome at this turn | state, effect).
        probability: (N, M, J) P(continuation | state, effect); what is missing to 1 is a conversation that ended.
        child: (N, M, J) state of the next level; 0 where the probability is 0.
    """

    stage: Ints
    features: Array
    group: Ints
    outcome: Array
    probability: Array
    child: Ints


def continuations(ways: Sequence[Sequence[Sequence[tuple[int, float]]]]) -> tuple[Array, Ints]:
    """`probability` and `child` of a `Level`, of (state of the next level, probability) by state and effect."""
    width = max(1, max(len(way) for row in ways for way in row))
    probability = np.zeros((len(ways), len(ways[0]), width))
    child = np.zeros(probability.shape, dtype=np.int64)
    for state, row in enumerate(ways):
        for effect, way in enumerate(row):
            for column, (index, share) in enumerate(way):
                child[state, effect, column], probability[state, effect, column] = index, share
    return probability, child


@dataclass(frozen=True)
class DecisionProblem:
    """A finite decision problem whose only reward is one outcome at the end.

    Args:
        actions, stages: names.
        response: (S, A, M) P(effect | stage, action).
        accepted: (S, A) P(the suggestion is accepted verbatim).
        start: (N_0,) distribution over the first level's states.
        levels: one per turn.
        base, uniform: (S, A) the policy that the environment demonstrates, and the one that knows nothing.
    """

    actions: tuple[str, ...]
    stages: tuple[str, ...]
    response: Array
    accepted: Array
    start: Array
    levels: Sequence[Level]
    base: Array
    uniform: Array

    def by_stage(self, table: Array) -> Policy:
        """The policy that follows a (S, A) table of probabilities."""
        return [table[level.stage] for level in self.levels]


class Solution(NamedTuple):
    """Values by level: `q` (N, A) of every action, `v` (N,) of the state, and of the start."""

    q: list[Array]
    v: list[Array]
    value: float


Chooser = Callable[[int, Array], Array]
"""(turn, q (N, A)) -> the probabilities (N, A) that a policy gives the actions there."""


def _backward(problem: DecisionProblem, discount: float, choose: Chooser) -> Solution:
    q: list[Array] = []
    v: list[Array] = []
    later = np.zeros(1)
    for turn in reversed(range(len(problem.levels))):
        level = problem.levels[turn]
        # V(t) = P(outcome now) + discount * V(t + 1), and nothing after the last turn.
        effects = level.outcome + discount * (level.probability * later[level.child]).sum(-1)
        q.append(np.einsum("nam,nm->na", problem.response[level.stage], effects))
        later = (choose(turn, q[-1]) * q[-1]).sum(-1)
        v.append(later)
    return Solution(q[::-1], v[::-1], float(problem.start @ later))


def evaluate(problem: DecisionProblem, policy: Policy, discount: float) -> Solution:
    """Q and V of a policy. The discounted outcome at `discount`, its probability at 1."""
    return _backward(problem, discount, lambda turn, q: policy[turn])


def optimum(problem: DecisionProblem, discount: float) -> Solution:
    """Q* and V*."""
    return _backward(problem, discount, lambda turn, q: best(q))


def best(q: Array) -> Array:
    """One-hot rows at the best action; the first of those within 1e-12 of it, so that ties do not hang on rounding."""
    actions = np.argmax(q >= q.max(-1, keepdims=True) - TIE, axis=-1)
    rows: Array = np.eye(q.shape[-1])[actions]
    return rows


def greedy(solution: Solution) -> Policy:
    """The greedy policy of every state: one exact step of policy iteration."""
    return [best(q) for q in solution.q]


def soft(policy: Policy, solution: Solution, beta: float) -> Policy:
    """The KL-regularised step: pi' proportional to pi * exp(Q / beta)."""
    return [
        _normalised(p * np.exp((q - q.max(-1, keepdims=True)) / beta), p)
        for p, q in zip(policy, solution.q, strict=True)
    ]


def filtered(policy: Policy, success: Solution) -> Policy:
    """Cloning the successful conversations with infinite data: pi' proportional to pi * P(success | state, action)."""
    return [_normalised(p * q, p) for p, q in zip(policy, success.q, strict=True)]


def _normalised(weights: Array, otherwise: Array) -> Array:
    total = weights.sum(-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), otherwise)


def reach(problem: DecisionProblem, policy: Policy) -> list[Array]:
    """(N,) per level: the probability of being in each state at that turn."""
    reached = [problem.start]
    for level, following, p in zip(problem.levels, problem.levels[1:], policy, strict=False):
        effects = np.einsum("na,nam->nm", p, problem.response[level.stage])
        flow = reached[-1][:, None, None] * effects[:, :, None] * level.probability
        probability: Array = np.zeros(len(following.stage))
        np.add.at(probability, level.child.ravel(), flow.ravel())
        reached.append(probability)
    return reached


def tabulate(problem: DecisionProblem, policy: Callable[[int, Ints, Array], Array]) -> Policy:
    """The policy that a function of (turn, stage (N,), features (N, F)) gives, as probabilities (N, A) by level."""
    return [
        np.asarray(policy(turn, level.stage, level.features), dtype=np.float64)
        for turn, level in enumerate(problem.levels)
    ]


def ladder(problem: DecisionProblem, discount: float) -> list[LadderRow]:
    """Reference policies with their value and success, from those who know nothing to the optimum.

    `greedy-k` is k steps of exact policy iteration from the base policy, `soft-BETA-k` of the KL-regularised kind,
    `filtered-bc-k` k rounds of cloning the successes; `myopic` maximises the outcome at this turn.
    """
    return [
        LadderRow(name, evaluate(problem, policy, discount).value, min(1.0, evaluate(problem, policy, 1.0).value))
        for name, policy in _references(problem, discount)
    ]


def _references(problem: DecisionProblem, discount: float) -> Iterator[tuple[str, Policy]]:
    base = problem.by_stage(problem.base)
    yield "optimum", greedy(optimum(problem, discount))
    yield "base", base
    yield "uniform", problem.by_stage(problem.uniform)
    yield "myopic", greedy(evaluate(problem, base, 0.0))
    yield "most-accepted", problem.by_stage(best(problem.accepted))
    abstain = np.asarray(problem.actions) == "ABSTAIN"
    if abstain.any():
        yield "abstain", problem.by_stage(np.tile(abstain.astype(np.float64), (len(problem.stages), 1)))
    steps: list[tuple[str, int, Callable[[Policy], Policy]]] = [
        ("greedy", 3, lambda policy: greedy(evaluate(problem, policy, discount))),
        ("filtered-bc", 5, lambda policy: filtered(policy, evaluate(problem, policy, 1.0))),
        *((f"soft-{beta:g}", 3, _soft_step(problem, discount, beta)) for beta in (0.1, 0.03, 0.01)),
    ]
    for name, rounds, step in steps:
        policy = base
        for k in range(1, rounds + 1):
            policy = step(policy)
            yield f"{name}-{k}", policy


def _soft_step(problem: DecisionProblem, discount: float, beta: float) -> Callable[[Policy], Policy]:
    return lambda policy: soft(policy, evaluate(problem, policy, discount), beta)
