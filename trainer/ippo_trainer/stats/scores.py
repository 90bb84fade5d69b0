"""How good predicted probabilities are: log-loss, Brier, skill against a constant, calibration.

Targets are soft, in [0, 1]. Weights are inverse probabilities of being observed (1 where nothing was left out).
Arrays are (n,), one entry per turn; `clusters` numbers the conversation of each turn from 0.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ippo_trainer.stats.intervals import Floats, Interval, cluster_sums, ratio_interval, share_interval

Ints = NDArray[np.int64]
CLIP = 1e-7


@dataclass(frozen=True)
class Predictions:
    """Held-out predictions beside what happened; all arrays (n,)."""

    predicted: Floats
    """In [0, 1]."""
    observed: Floats
    """Returns, in [0, 1]."""
    turns: Ints
    """Depth of each turn, from 0."""
    clusters: Ints
    """Number of the turn's conversation, from 0."""
    weights: Floats
    """Inverse probability of being observed; 0 leaves a turn out."""

    def keep(self, mask: NDArray[np.bool_]) -> "Predictions":
        """The turns where `mask` (n,) holds, their conversations numbered anew."""
        clusters = np.unique(self.clusters[mask], return_inverse=True)[1].astype(np.int64)
        return Predictions(self.predicted[mask], self.observed[mask], self.turns[mask], clusters, self.weights[mask])


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Mean prediction and mean outcome of a group of turns, the latter with its interval."""

    predicted: float
    observed: Interval
    count: int

    def to_json(self) -> dict[str, float]:
        """`{"predicted", "observed", "low", "high", "count"}`."""
        interval = self.observed
        return {
            "predicted": self.predicted,
            "observed": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "count": self.count,
        }


def log_losses(predicted: Floats, observed: Floats) -> Floats:
    """Cross-entropy (n,) in nats of soft targets; predictions are kept 1e-7 away from 0 and 1."""
    clipped = np.clip(predicted, CLIP, 1.0 - CLIP)
    return np.asarray(-(observed * np.log(clipped) + (1.0 - observed) * np.log1p(-clipped)))


def brier_losses(predicted: Floats, observed: Floats) -> Floats:
    """Squared errors (n,)."""
    return np.square(predicted - observed)


def weighted_mean(values: Floats, weights: Floats) -> float:
    """Mean of values (n,) under weights (n,)."""
    return float(np.dot(values, weights) / weights.sum())


def skill(data: Predictions, reference: Floats, confidence: float = 0.95) -> Interval:
    """1 - log-loss / log-loss of `reference` (n,) predictions made without looking at these turns.

    Positive where the predictions tell more than the reference. The interval is that of a ratio of conversation sums.
    """
    model = cluster_sums(log_losses(data.predicted, data.observed) * data.weights, data.clusters)
    constant = cluster_sums(log_losses(reference, data.observed) * data.weights, data.clusters)
    ratio = ratio_interval(model, constant, confidence)
    return Interval(1.0 - ratio.estimate, 1.0 - ratio.high, 1.0 - ratio.low)


def calibration_rows(data: Predictions, groups: Ints, confidence: float = 0.95) -> dict[int, CalibrationRow]:
    """Calibration of each group (n,) of turns that holds weight from at least two conversations."""
    rows = {}
    for group in np.unique(groups[data.weights > 0]):
        part = data.keep((groups == group) & (data.weights > 0))
        if part.clusters.max() == 0:
            continue
        observed = share_interval(
            cluster_sums(part.observed * part.weights, part.clusters),
            cluster_sums(part.weights, part.clusters),
            confidence,
        )
        predicted = weighted_mean(part.predicted, part.weights)
        rows[int(group)] = CalibrationRow(predicted, observed, len(part.weights))
    return rows


def quantile_bins(predicted: Floats, bins: int) -> Ints:
    """Bin numbers (n,), at most `bins`, with about equally many predictions each; equal predictions share a bin."""
    edges = np.unique(np.quantile(predicted, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    return np.searchsorted(edges, predicted, side="right").astype(np.int64)


def calibration_error(data: Predictions, bins: int = 10) -> float:
    """Expected calibration error: mean |prediction - outcome| over bins of about equally many turns."""
    groups = quantile_bins(data.predicted, bins)
    total, error = float(data.weights.sum()), 0.0
    for group in np.unique(groups):
        mask = groups == group
        error += abs(float(np.dot(data.predicted[mask] - data.observed[mask], data.weights[mask])))
    return error / total


def eps_q(data: Predictions, bins_per_turn: int = 5) -> float:
    """A lower bound of Q's root mean square error: the calibration error within (turn, bin of prediction) cells.

    The squared gap of each cell is freed of its sampling noise (the cell's clustered variance), as in Kumar, Liang and
    Ma, Verified Uncertainty Calibration (2019). Errors that cancel within a cell stay invisible: Theorem 2's sup-norm
    eps_Q cannot be seen from data.
    """
    total, squares = float(data.weights.sum()), 0.0
    for turn in np.unique(data.turns):
        part = data.keep((data.turns == turn) & (data.weights > 0))
        if len(part.weights) == 0:
            continue
        groups = quantile_bins(part.predicted, bins_per_turn)
        for group in np.unique(groups):
            cell = part.keep(groups == group)
            squares += float(cell.weights.sum()) / total * _squared_gap(cell)
    return math.sqrt(max(0.0, squares))


def _squared_gap(cell: Predictions) -> float:
    """(mean prediction - mean outcome)^2 less its sampling variance; 0 where one conversation gives no variance."""
    gaps = cluster_sums((cell.predicted - cell.observed) * cell.weights, cell.clusters)
    weights = cluster_sums(cell.weights, cell.clusters)
    if len(gaps) < 2:
        return 0.0
    gap = float(gaps.sum() / weights.sum())
    count = len(gaps)
    variance = float(np.square(gaps - gap * weights).sum()) * count / (count - 1) / float(weights.sum()) ** 2
    return gap * gap - variance
