"""The information states of SR-funnel: all reachable (turn, stage, belief), and the way from one to the next."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.environments.funnel.tables import ASK, CLOSE, DISC, FEAT, INTENTS, SENT, STAGES, TYPES, Tables
from ippo_trainer.environments.problem import Array, DecisionProblem, Ints, Level

CONTINUATIONS = 1 + len(TYPES)
"""Of a sent message: no news; then a signal of each type (ASK) or the next stage in the first place (FEAT, DISC)."""
DIGITS = 1e9
"""Beliefs that agree to nine decimals are one state; they differ by rounding only."""
MAX_STATES = 2_000_000


@dataclass(frozen=True)
class Branches:
    """What can be seen after each sent message of a customer who goes on talking.

    Args:
        likelihood: (stage, sent, continuation, type) P(stays, does not buy, and shows this | type).
        stage: (stage, sent, continuation) the stage after it.
    """

    likelihood: Array
    stage: Ints


def continuation(moved: bool, signal: int | None) -> int:
    """Index of the continuation that an observation is."""
    return 1 + signal if signal is not None else int(moved)


def branches(tables: Tables) -> Branches:
    """All likelihoods of what can be seen."""
    likelihood = np.zeros((len(STAGES), len(SENT), CONTINUATIONS, len(TYPES)))
    stage = np.broadcast_to(np.arange(len(STAGES))[:, None, None], likelihood.shape[:3]).copy()
    goes_on, moves, signals = 1 - tables.leave_probability(), tables.moves(), tables.signals()
    goes_on[CLOSE] *= 1 - np.asarray(tables.buy)
    for s in range(len(STAGES)):
        likelihood[s, :, 0] = goes_on[:, s] * (1 - moves[:, s])
        for pitch in (FEAT, DISC):
            likelihood[s, pitch, 1] = goes_on[pitch, s] * moves[pitch, s]
            stage[s, pitch, 1] = min(s + 1, len(STAGES) - 1)
        # A signal comes with the move at the first stage, always at the later ones.
        informs = moves[ASK, s] if s == 0 else 1.0
        likelihood[s, ASK, 1:] = goes_on[ASK, s] * informs * signals.T
        likelihood[s, ASK, 0] = goes_on[ASK, s] * (1 - informs)
    stage[0, ASK, 1:] = 1
    return Branches(likelihood, stage)


def build(tables: Tables, horizon: int) -> DecisionProblem:
    """Enumerates the reachable states from a cold customer of unknown type; their features are the belief (N, 3).

    Raises BadSpecError if there are more than MAX_STATES: they grow with about the eighth power of the horizon.
    """
    tree = branches(tables)
    buys = (1 - tables.leave_probability()[CLOSE]) * np.asarray(tables.buy)
    stage, belief = np.zeros(1, dtype=np.int64), np.asarray([tables.type_prior], dtype=np.float64)
    levels: list[Level] = []
    for turn in range(horizon):
        outcome = np.zeros((len(stage), len(SENT)))
        outcome[:, CLOSE] = (belief * buys[stage]).sum(-1)
        group = stage * (len(TYPES) + 1) + np.where(belief.max(-1) > 0.5, belief.argmax(-1), len(TYPES))
        if turn + 1 == horizon:
            nothing = np.zeros((len(stage), len(SENT), 1))
            levels.append(Level(stage, belief, group, outcome, nothing, nothing.astype(np.int64)))
            break
        joint = belief[:, None, None, :] * tree.likelihood[stage]
        probability = joint.sum(-1)
        following = _merge(joint, probability, tree.stage[stage])
        levels.append(Level(stage, belief, group, outcome, probability, following.child))
        stage, belief = following.stage, following.belief
        if sum(len(level.stage) for level in levels) + len(stage) > MAX_STATES:
            raise BadSpecError(
                f"horizon {horizon} has more than {MAX_STATES:,} information states, too many for the exact solution",
                f"Use a horizon of at most {turn + 1} with these tables.",
            )
    accepted = np.hstack([np.asarray(tables.accept).T, np.zeros((len(STAGES), 1))])
    base = np.tile(np.asarray(tables.base_policy), (len(STAGES), 1))
    uniform = np.full(base.shape, 1 / len(INTENTS))
    return DecisionProblem(INTENTS, STAGES, tables.response(), accepted, np.ones(1), levels, base, uniform)


class _Following(NamedTuple):
    stage: Ints
    belief: Array
    child: Ints


def _merge(joint: Array, probability: Array, stage: Ints) -> _Following:
    """The distinct states among the continuations: their stages, beliefs, and where each continuation leads."""
    possible = probability > 0
    belief = joint[possible] / probability[possible][:, None]
    rounded = np.rint(belief * DIGITS).astype(np.int64)
    # Two of three coordinates of 30 bits and two bits of stage: one integer per state.
    key = (stage[possible] << 60) | (rounded[:, 0] << 30) | rounded[:, 1]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    child = np.zeros(probability.shape, dtype=np.int64)
    child[possible] = inverse
    return _Following(stage[possible][first], belief[first], child)
