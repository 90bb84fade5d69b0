"""The last layer of Q and V by least squares: fitted Q evaluation to its fixed point on frozen features of the trunk.

Gradient steps move a head slowly: V of a state that few conversations visit stays near the mean for many epochs, and
one-step targets carry that error to every action that leads there. On frozen features the same fixed point is a ridge
regression that costs seconds (LSTD: Bradtke and Barto 1996; least-squares last layers: Levine et al. 2017).

No single rank is right on every data set, and held-out errors do not tell which. So there are several fits: of each
rank, one without each fold of the conversations. Their mean is the head, and how they differ is the error estimate.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.qfit.ridge import Member, Regressions

_SWEEPS = 200
_SETTLED = 1e-6
_LEAST_SCALE = 1e-3  # of a feature's standard deviation, so that a constant feature stays finite
_LEAST_VARIANCE = 1e-12
EDGE = 1e-3
"""Predictions stay this far from 0 and 1, so that they have a logit."""


@dataclass(frozen=True, slots=True)
class LoggedTurns:
    """What the last layer is fitted to: one turn per row (n); those of a conversation follow one another."""

    states: Tensor
    """(n, D) features at the prompt's last token."""
    actions: Tensor
    """(n, D) features at the suggestion's last token."""
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
class Settings:
    """How the last layer is fitted."""

    ranks: tuple[int, ...]
    """Leading components of states and of actions whose products Q is made of."""
    penalty: float
    """Ridge on squared coefficients; so many turns with unit features weigh as much."""
    discount: float
    """Per turn."""


class LastLayer(nn.Module):
    """Q is linear in state, action and the products of their leading components; V is quadratic in the state.

    The M members, fits of different ranks to different folds, share one basis, so that their mean is one linear map.

    Args:
        width: D, of the features.
        rank: leading components that the members use at most.
        members: M.
    """

    centre: Tensor
    """(2, D) mean features, of states and of actions; likewise the next two."""
    scale: Tensor
    """(2, D) standard deviations."""
    basis: Tensor
    """(2, D, rank) leading components."""
    q: Tensor
    """(M, columns of `q_features`)"""
    v: Tensor
    """(M, columns of `v_features`)"""
    member_rank: Tensor
    """(M,) the rank of each member."""
    upper: Tensor

    def __init__(self, width: int, rank: int, members: int) -> None:
        super().__init__()
        self.rank = rank
        for name, shape in (
            ("centre", (2, width)),
            ("scale", (2, width)),
            ("basis", (2, width, rank)),
            ("q", (members, 1 + 2 * width + rank * rank)),
            ("v", (members, 1 + width + rank * (rank + 1) // 2)),
            ("member_rank", (members,)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.double))
        self.register_buffer("upper", torch.triu_indices(rank, rank), persistent=False)

    def span(self, states: Tensor, actions: Tensor) -> None:
        """Takes centre, scale and leading components of the features (n, D) of states and of actions.

        Components are not whitened: the ridge shrinks what varies little.

        Raises:
            BadDataError: features that are not finite, or the same everywhere.
        """
        for side, (name, features) in enumerate((("states", states), ("suggestions", actions))):
            rows = features.double()
            centre = rows.mean(0)
            if not bool(torch.isfinite(centre).all()):
                raise BadDataError("the trunk's features are not finite", "Lower fitQ.learningRate.")
            variances, vectors = torch.linalg.eigh((rows - centre).T @ (rows - centre) / len(rows))
            if not float(variances[-1]) > _LEAST_VARIANCE:
                raise BadDataError(
                    f"the trunk of Q gives all {name} the same features, so nothing tells them apart",
                    "See that conversations differ, and that fitQ.learningRate has not destroyed the trunk.",
                )
            self.centre[side], self.scale[side] = centre, rows.std(0, unbiased=False) + _LEAST_SCALE
            self.basis[side] = vectors.flip(1)[:, : self.rank] / variances.mean().sqrt()

    def q_features(self, states: Tensor, actions: Tensor) -> Tensor:
        """(n, 1 + 2 D + rank^2) float64, of features (n, D)."""
        s, a = states.double() - self.centre[0], actions.double() - self.centre[1]
        products = ((s @ self.basis[0]).unsqueeze(2) * (a @ self.basis[1]).unsqueeze(1)).flatten(1)
        return torch.cat([torch.ones_like(s[:, :1]), s / self.scale[0], a / self.scale[1], products], 1)

    def v_features(self, states: Tensor) -> Tensor:
        """(n, 1 + D + rank (rank + 1) / 2) float64, of features (n, D)."""
        s = states.double() - self.centre[0]
        z = s @ self.basis[0]
        return torch.cat([torch.ones_like(s[:, :1]), s / self.scale[0], z[:, self.upper[0]] * z[:, self.upper[1]]], 1)

    def forward(self, states: Tensor, repeated: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of Q (N,) and of V (G,), fp32.

        Args:
            states: (G, D).
            repeated: (N, D) the state of each action.
            actions: (N, D).
        """
        q = self.q_features(repeated, actions) @ self.q.mean(0)
        v = self.v_features(states) @ self.v.mean(0)
        return q.clamp(EDGE, 1 - EDGE).logit().float(), v.clamp(EDGE, 1 - EDGE).logit().float()

    def standard_error(self, states: Tensor, actions: Tensor) -> Tensor:
        """(n,) estimated standard error of Q, from how the members differ.

        The variance between the ranks' means, and the mean of the ranks' own delete-one-fold jackknife variances:
        (K - 1) / K times the sum of squared deviations of K fits (Efron and Stein 1981).
        """
        predictions = self.q_features(states, actions) @ self.q.T
        groups = [predictions[:, self.member_rank == rank] for rank in sorted(set(self.member_rank.tolist()))]
        between = torch.stack([group.mean(1) for group in groups], 1).var(1, unbiased=False)
        within = torch.stack([(group.shape[1] - 1) * group.var(1, unbiased=False) for group in groups], 1).mean(1)
        return (between + within).sqrt()

    def q_columns(self, rank: int) -> Tensor:
        """Columns of `q_features` that a member of that rank uses."""
        width, grid = self.centre.shape[1], torch.arange(self.rank)
        products = (grid[:rank, None] * self.rank + grid[None, :rank]).flatten()
        return torch.cat([torch.arange(1 + 2 * width), 1 + 2 * width + products])

    def v_columns(self, rank: int) -> Tensor:
        """Columns of `v_features` that a member of that rank uses."""
        width = self.centre.shape[1]
        products = torch.arange(self.upper.shape[1])[(self.upper < rank).all(0)]
        return torch.cat([torch.arange(1 + width), 1 + width + products])


def fit(turns: LoggedTurns, settings: Settings) -> LastLayer:
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
    layer = LastLayer(turns.states.shape[1], max(settings.ranks), len(order))
    layer.span(turns.states, turns.actions)
    layer.member_rank.copy_(torch.tensor([rank for rank, _ in order], dtype=torch.double))
    value_fit = Regressions(
        lambda rows: layer.v_features(turns.states[rows]),
        turns.value_weight,
        turns.fold,
        [Member(layer.v_columns(rank), fold) for rank, fold in order],
        settings.penalty,
    )
    layer.v, values = _fixed_point(value_fit, turns, settings.discount)
    action_fit = Regressions(
        lambda rows: layer.q_features(turns.states[rows], turns.actions[rows]),
        turns.weight,
        turns.fold,
        [Member(layer.q_columns(rank), fold) for rank, fold in order],
        settings.penalty,
    )
    layer.q = action_fit.solve(_targets(turns, values, settings.discount))
    return layer


def _check(turns: LoggedTurns, settings: Settings) -> None:
    width = turns.states.shape[1]
    if max(settings.ranks) > width:
        raise BadDataError(
            f"fitQ.ranks has {max(settings.ranks)}, more than the {width} features of the trunk",
            f"Use ranks of at most {width}.",
        )
    if not bool((turns.outcome * turns.last > 0).any()):
        raise BadDataError(
            "none of the conversations that Q's last layer is fitted to has the outcome",
            "Collect more conversations (collect.conversations), or explore more (collect.exploration).",
        )
    if not bool((turns.value_weight > 0).any()) or not bool((turns.weight > 0).any()):
        raise BadDataError("no turn that Q's last layer is fitted to is the policy's own", "Lower collect.exploration.")


def _fixed_point(regressions: Regressions, turns: LoggedTurns, discount: float) -> tuple[Tensor, Tensor]:
    """Coefficients (M, P) and values (n, M) of V when they no longer change."""
    start = float(turns.outcome.sum() / turns.last.sum())
    values = torch.full((len(turns.last), len(regressions.members)), start, dtype=torch.double)
    for _ in range(_SWEEPS):
        coefficients = regressions.solve(_targets(turns, values, discount))
        before, values = values, regressions.predict(coefficients).clamp(0.0, 1.0)
        if float((values - before).abs().max()) < _SETTLED:
            break
    return coefficients, values


def _targets(turns: LoggedTurns, values: Tensor, discount: float) -> Tensor:
    """(n, M) outcome + discount * V of the next turn's state."""
    following = torch.cat([values[1:], torch.zeros_like(values[:1])])
    return torch.where(turns.last.unsqueeze(1), turns.outcome.double().unsqueeze(1), discount * following)
