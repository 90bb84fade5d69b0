"""One typical history of SR-funnel for every information state: what a policy says to them is scored without noise."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ippo_trainer.data.reactions import REACTIONS
from ippo_trainer.data.schema import Turn
from ippo_trainer.environments.funnel.environment import Funnel
from ippo_trainer.environments.funnel.tables import ABSTAIN, INTENTS, SENT, Tables
from ippo_trainer.environments.funnel.text import GREETINGS, SUGGESTIONS, WORDINGS
from ippo_trainer.environments.problem import Array, DecisionProblem, Ints, evaluate, reach


class History(NamedTuple):
    """What an agent sees before it suggests."""

    turns: list[Turn]
    customer_message: str


def score_by_texts(env: Funnel, intents: Callable[[list[History]], Array], discount: float) -> tuple[float, float]:
    """Value and success of a policy by its distributions (N, A) over intents on one history per information state.

    Exact for a policy that treats all histories of a state alike, close for one that nearly does.
    """
    policy = [intents(histories) for histories in representatives(env.problem, env.tables, 0)]
    return evaluate(env.problem, policy, discount).value, evaluate(env.problem, policy, 1.0).value


def representatives(problem: DecisionProblem, tables: Tables, seed: int) -> list[list[History]]:
    """By level, one typical history for every information state.

    Its ways through the tree, reactions and wordings are drawn as conversations with the base policy (a hundredth of
    it uniform) would have them, given that they lead to the state.
    """
    rng = np.random.default_rng(seed)
    mixed = 0.99 * problem.base + 0.01 / len(INTENTS)
    reached = reach(problem, problem.by_stage(mixed))
    histories = [[History([], _any(GREETINGS, rng))]]
    for turn, (level, following) in enumerate(zip(problem.levels, problem.levels[1:], strict=False)):
        effects = np.einsum("na,nam->nm", mixed[level.stage], problem.response[level.stage])
        flow = reached[turn][:, None, None] * effects[:, :, None] * level.probability
        parent, sent, branch = _draw_ways(flow, level.child, rng)
        next_histories: list[History] = []
        for child in range(len(following.stage)):
            before = histories[turn][parent[child]]
            turns = _write_turn(int(level.stage[parent[child]]), int(sent[child]), before, tables, mixed, rng)
            stage = int(following.stage[child])
            moved = stage != level.stage[parent[child]]
            informs = INTENTS[sent[child]] == "ASK" and branch[child] > 0
            signal = int(branch[child]) - 1 if informs else None
            assert informs or int(moved) == branch[child]
            next_histories.append(History(turns, _any(WORDINGS[stage, signal], rng)))
        histories.append(next_histories)
    return histories


def _draw_ways(flow: Array, child: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """For each state of the next level one (state, sent, continuation) that leads there, drawn by `flow`."""
    ways = np.argwhere(flow > 0)
    leads_to, weight = child[flow > 0], flow[flow > 0]
    keys = np.log(weight) + rng.gumbel(size=len(weight))  # the largest of these is such a draw
    order = np.lexsort((-keys, leads_to))
    _, first = np.unique(leads_to[order], return_index=True)
    parent, sent, branch = ways[order[first]].T
    return parent, sent, branch


def _write_turn(
    stage: int, sent: int, before: History, tables: Tables, policy: Array, rng: np.random.Generator
) -> list[Turn]:
    """The turns before and one more, in which the business sent this intent."""
    accept = np.append(np.asarray(tables.accept)[:, stage], 0.0)
    edited = np.where(np.asarray([*tables.edited_to, ""]) == SENT[sent], (1 - accept) * tables.edited_share, 0.0)
    rejected = (1 - accept) * (1 - tables.edited_share * (np.arange(len(INTENTS)) != ABSTAIN)) * tables.own[sent]
    accepted = np.where(np.arange(len(INTENTS)) == sent, accept, 0.0)
    joint = policy[stage] * np.stack([accepted, edited, rejected])
    reaction, intent = np.unravel_index(rng.choice(joint.size, p=joint.ravel() / joint.sum()), joint.shape)
    suggestion = None if intent == ABSTAIN else _any(SUGGESTIONS[INTENTS[intent]], rng)
    message = suggestion if reaction == 0 and suggestion is not None else _any(SUGGESTIONS[SENT[sent]], rng)
    return [*before.turns, Turn(before.customer_message, suggestion, REACTIONS[reaction], message)]


def _any(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
