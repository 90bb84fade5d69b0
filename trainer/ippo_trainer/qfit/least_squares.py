"""The last layer of Q and V by least squares: fitted Q evaluation to its fixed point on frozen features of the trunk.

Gradient steps move a head slowly: V of a state that few conversations visit stays near the mean for many epochs, and
one-step targets carry that error to every action that leads there. On frozen features the same fixed point is a ridge
regression that costs seconds (where no value has to be kept within [0, 1] it is LSTD: Bradtke and Barto 1996;
least-squares last layers: Levine et al. 2017).

No single rank is right on every data set, and held-out errors do not tell which. So there are several fits: of each
rank, one without each fold of the conversations. Their mean is the head, and how they differ is the error estimate.
"""

import logging
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.last_layer import LastLayer
from ippo_trainer.qfit.anderson import Accelerator
from ippo_trainer.qfit.ridge import Member, Regressions, blocks

_log = logging.getLogger(__name__)
_SWEEPS = 200
_SETTLED = 1e-6


@dataclass(frozen=True, slots=True)
class LoggedTurns:
    """What the last layer is fitted to: one turn per row (n); those of a conversation follow one another."""

    states: Tensor
    """(n, D) features at the prompt's last token, D <= A."""
    actions: Tensor
    """(n, A) features of the suggestion."""
    last: Tensor
    """(n,) bool: the conversation ends with this turn."""
    outcome: Tensor
    """(n,) reward of the turn in [0, 1]; 0 before the last one."""
    weight: Tensor
    """(n,) in Q's regression; 0 leaves the turn out."""
    value_weight: Tensor
    """(n,) in V's regression; 0 where the suggestion is not the policy's own."""
    fold: Tensor
    """(n,) int64 from 0 on; the same for all turns of a conversation."""


@dataclass(frozen=True, slots=True)
class LeastSquaresSettings:
    """How the last layer is fitted."""

    ranks: tuple[int, ...]
    """Leading components of states and of actions whose products Q is made of."""
    ridge: float
    """Penalty on squared coefficients; so many turns with unit features weigh as much."""
    discount: float
    """Per turn."""


def fit(turns: LoggedTurns, settings: LeastSquaresSettings) -> LastLayer:
    """Fits V to the policy's own turns and Q to all.

    V is the fixed point of V(s) = E[outcome + discount V(s')] by least squares, kept within [0, 1] on the way; after
    it Q(s, a) = E[outcome + discount V(s')]. Every member goes its own way, from V to Q.

    Raises:
        BadDataError: no outcome, no turn of the policy's own, features that do not vary or are not finite, a rank above
            their width, or a Gram matrix that is singular.
    """
    _check(turns, settings)
    folds = int(turns.fold.max()) + 1
    order = [(rank, fold if folds > 1 else None) for rank in settings.ranks for fold in range(folds)]
    layer = LastLayer((turns.states.shape[1], turns.actions.shape[1]), max(settings.ranks), len(order))
    layer.span(turns.states, turns.actions)
    layer.member_rank.copy_(torch.tensor([rank for rank, _ in order], dtype=torch.double))
    own = _own(turns)
    value_fit = Regressions(
        lambda rows: layer.v_features(own.states[rows]),
        own.value_weight,
        own.fold,
        [Member(layer.v_columns(rank), fold) for rank, fold in order],
        settings.ridge,
    )
    layer.v = _fixed_point(value_fit, own, settings.discount)
    values = torch.cat([layer.v_features(turns.states[rows]) @ layer.v.T for rows in blocks(len(turns.last))])
    action_fit = Regressions(
        lambda rows: layer.q_features(turns.states[rows], turns.actions[rows]),
        turns.weight,
        turns.fold,
        [Member(layer.q_columns(rank), fold) for rank, fold in order],
        settings.ridge,
    )
    layer.q = action_fit.solve(_targets(turns, values.clamp(0.0, 1.0), settings.discount))
    return layer


def _own(turns: LoggedTurns) -> LoggedTurns:
    """The turns that V is fitted to, and those that follow them: what others did elsewhere is not asked for V.

    A turn and the one that follows it are neighbours here as they were.
    """
    fitted = turns.value_weight > 0
    follows = torch.cat([torch.zeros_like(fitted[:1]), fitted[:-1] & ~turns.last[:-1]])
    return LoggedTurns(*(getattr(turns, entry.name)[fitted | follows] for entry in fields(turns)))


def _check(turns: LoggedTurns, settings: LeastSquaresSettings) -> None:
    width = turns.states.shape[1]
    if max(settings.ranks) > width:
        raise BadDataError(
            f"fitQ.ranks has {max(settings.ranks)}, more than the {width} features of the trunk",
            f"Use ranks of at most {width}.",
        )
    if not bool((turns.outcome * turns.last > 0).any()):
        raise BadDataError(
            "none of the conversations that Q's last layer is fitted to has the outcome",
            "Collect more conversations (collect.simulate.conversations), or explore more "
            "(collect.simulate.exploration).",
        )
    if not bool((turns.value_weight > 0).any()) or not bool((turns.weight > 0).any()):
        raise BadDataError(
            "no turn that Q's last layer is fitted to is the policy's own", "Lower collect.simulate.exploration."
        )


def _fixed_point(regressions: Regressions, turns: LoggedTurns, discount: float) -> Tensor:
    """Coefficients (M, P) of V when a sweep no longer changes its values."""
    start = float(turns.outcome.sum() / turns.last.sum().clamp_min(1))
    values = torch.full((len(turns.last), len(regressions.members)), start, dtype=torch.double)
    coefficients, ahead, quiet = torch.zeros(0), Accelerator(), False
    for sweep in range(_SWEEPS):
        image = regressions.solve(_targets(turns, values, discount))
        # A sweep by itself is the test: steps that are ahead of it may be small for other reasons.
        coefficients = ahead.next(coefficients, image) if sweep and not quiet else image
        before, values = values, regressions.predict(coefficients).clamp(0.0, 1.0)
        settled = float((values - before).abs().max()) < _SETTLED
        if settled and quiet:
            return coefficients
        quiet = settled
    _log.warning("V of Q's last layer still moved after %d sweeps: raise fitQ.ridge, or lower fitQ.ranks", _SWEEPS)
    return coefficients


def _targets(turns: LoggedTurns, values: Tensor, discount: float) -> Tensor:
    """(n, M) outcome + discount * V of the next turn's state."""
    following = torch.cat([values[1:], torch.zeros_like(values[:1])])
    return torch.where(turns.last.unsqueeze(1), turns.outcome.double().unsqueeze(1), discount * following)
