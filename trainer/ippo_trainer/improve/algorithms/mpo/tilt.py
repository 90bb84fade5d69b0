"""The E-step: candidates tilted by exp(Q / eta), with the dual temperature that spends a KL budget.

The better policy maximises E[Q] under a bound on the mean KL to the proposals: q(a|s) ~ p(a|s) exp(Q(s, a) / eta)
(arXiv 1806.06920, equation 4; Peters et al., REPS, 2010). eta solves the dual, here by bisection, since the mean KL
falls as eta rises. Two bounds beside it: eta is at least a floor, so that no nat is spent on differences of Q that are
its errors, and no state spends more than so many nats.
"""

from dataclasses import dataclass

import numpy as np

from ippo_trainer.stats.intervals import Floats, Ints

_HIGHEST = 1e6
_HALVINGS = 100


@dataclass(frozen=True, slots=True)
class Table:
    """Candidates of S states, flat (n,); those of a state need not be neighbours."""

    prior: Floats
    """(n,) positive; sums to 1 within every state."""
    q: Floats
    """(n,) Q of the candidates."""
    state: Ints
    """(n,) from 0 to S - 1, each at least once."""

    @property
    def states(self) -> int:
        """S."""
        return int(self.state.max()) + 1


@dataclass(frozen=True, slots=True)
class Tilt:
    """The better policy on a table."""

    weights: Floats
    """(n,) sums to 1 within every state."""
    eta: float
    """Dual temperature of the states that keep to their own bound, in units of Q per nat."""
    kl: Floats
    """(S,) nats between the weights and the prior."""

    def gain(self, table: Table) -> Floats:
        """(S,) by how much E[Q] rises."""
        gained = (self.weights - table.prior) * table.q
        return np.bincount(table.state, gained, minlength=table.states).astype(np.float64)


def tilt(table: Table, budget: float, floor: float, bound: float) -> Tilt:
    """Solves the dual.

    Args:
        table: see there.
        budget: nats of KL to the prior, mean over states.
        floor: least temperature, above 0.
        bound: most nats in any state.
    """
    own = _by_state(table, np.full(table.states, floor), bound)
    low, high = np.log(floor), np.log(_HIGHEST)
    if _weigh(table, own)[1].mean() <= budget:
        high = low
    for _ in range(_HALVINGS if high > low else 0):
        middle = 0.5 * (low + high)
        spent = _weigh(table, np.maximum(own, np.exp(middle)))[1].mean()
        low, high = (middle, high) if spent > budget else (low, middle)
    weights, kl = _weigh(table, np.maximum(own, np.exp(high)))
    return Tilt(weights, float(np.exp(high)), kl)


def _by_state(table: Table, least: Floats, bound: float) -> Floats:
    """(S,) each state's lowest temperature that is at least `least` and spends no more than `bound` nats."""
    low, high = np.log(least), np.full(len(least), np.log(_HIGHEST))
    high = np.where(_weigh(table, least)[1] <= bound, low, high)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        over = _weigh(table, np.exp(middle))[1] > bound
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    lowest: Floats = np.exp(high)
    return lowest


def _weigh(table: Table, temperatures: Floats) -> tuple[Floats, Floats]:
    """Weights (n,) and KL to the prior (S,) at temperatures (S,)."""
    state, states = table.state, table.states
    best = np.full(states, -np.inf)
    np.maximum.at(best, state, table.q)
    scaled = (table.q - best[state]) / temperatures[state]
    mass = table.prior * np.exp(scaled)
    total = np.bincount(state, mass, minlength=states)
    weights = mass / total[state]
    # log(weight / prior) = scaled - log(total): the prior cancels, and weights that vanish make no NaN.
    kl = np.bincount(state, weights * scaled, minlength=states) - np.log(total)
    return weights, np.maximum(kl, 0.0)
