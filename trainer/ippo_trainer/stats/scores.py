"""How good predicted probabilities are: log-loss, Brier, skill against a constant, slope, calibration.

Targets are soft, in [0, 1]. Weights are inverse probabilities of being observed (1 where nothing was left out).
Arrays are (n,), one entry per turn; `clusters` numbers the conversation of each turn from 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ippo_trainer.stats.intervals import (
    Floats,
    Interval,
    Ints,
    cluster_sums,
    rare_ratio_interval,
    ratio_interval,
    share_interval,
)

CLIP = 1e-7
_ALIKE = 1e-9
"""Predictions that differ by less are one."""
_CELL, _BINS = 50, 5
"""Conversations of a cell or so, and its most cells by turn, for `miscalibration`."""
_CONFIDENCE = 0.95
_DRAWS = 4096
_BISECTIONS = 25


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

    Positive where the predictions are better than the reference. The interval is that of a ratio of conversation sums,
    of conversations with weight. Where all their returns are alike it holds 0: whoever guesses nearer to that one
    value wins every time, and the losses do not vary, so they say nothing of chance.

    Raises:
        ValueError: fewer than two conversations have weight.
    """
    weighted = data.weights > 0
    reference, data = reference[weighted], data.keep(weighted)
    model = cluster_sums(log_losses(data.predicted, data.observed) * data.weights, data.clusters)
    constant = cluster_sums(log_losses(reference, data.observed) * data.weights, data.clusters)
    ratio = ratio_interval(model, constant, confidence)
    interval = Interval(1.0 - ratio.estimate, 1.0 - ratio.high, 1.0 - ratio.low)
    alike = float(np.ptp(data.observed)) == 0.0
    return Interval(interval.estimate, min(interval.low, 0.0), max(interval.high, 0.0)) if alike else interval


def slope(data: Predictions, confidence: float = 0.95) -> Interval:
    """Slope of the regression of the outcomes on the predictions: 1 of the truth, 0 of what tells nothing.

    Below 1 predictions exaggerate, above 1 they are too timid (the calibration slope of Cox 1958, on probabilities).
    Beside `skill` it does not know the level and the scale of the predictions, and so it needs about a quarter of the
    conversations to tell that they go with the outcomes. Predictions that are all alike have slope 0, without doubt.

    Raises:
        ValueError: fewer than two conversations have weight.
    """
    data = data.keep(data.weights > 0)
    gaps = data.predicted - weighted_mean(data.predicted, data.weights)
    if float(np.ptp(data.predicted)) <= _ALIKE:
        return Interval(0.0, 0.0, 0.0)
    beyond = data.observed - weighted_mean(data.observed, data.weights)
    together = cluster_sums(gaps * beyond * data.weights, data.clusters)
    return rare_ratio_interval(together, cluster_sums(np.square(gaps) * data.weights, data.clusters), confidence)


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


def miscalibration(data: Predictions) -> Interval:
    """Root mean square, over cells of turn and prediction, of the gap between mean prediction and mean outcome.

    It is of the expected gaps, and so at most the root mean square error of Q over these turns (Jensen): errors that
    cancel within a cell do not show, and no data show Theorem 2's eps_Q, the largest error of all. So the *lower* end
    bounds an error of Q from below, at 95 % or more; neither the estimate nor the upper end bounds anything.

    The estimate is freed of its sampling noise (Kumar, Liang and Ma, Verified Uncertainty Calibration, 2019). The
    interval inverts the law of the observed gaps, Gaussian with the clustered covariance, at the worst direction of the
    true ones.

    Returns:
        0, from 0 to 1, where fewer than two conversations have weight: nothing can be said.
    """
    cells = _cells(data)
    gaps, covariance = _gaps(data, cells)
    if not len(gaps):
        return Interval(0.0, 0.0, 1.0)
    observed = float(np.square(gaps).sum())
    spectrum = np.linalg.eigvalsh(covariance)[::-1].clip(0.0)
    estimate = math.sqrt(max(0.0, observed - float(spectrum.sum())))
    low, high = _norm_interval(observed, spectrum, _CONFIDENCE)
    return Interval(estimate, min(low, estimate), max(high, estimate))


def _cells(data: Predictions) -> Ints:
    """(n,) number of each turn's cell, -1 for turns without weight.

    A cell has _CELL conversations or so, or the Gaussian law would not hold: early turns are cut by prediction, late
    ones, which few conversations reach, come together.
    """
    cells, count = np.full(len(data.turns), -1), 0
    weighted = data.weights > 0
    pending = np.zeros(len(data.turns), bool)
    depths = np.unique(data.turns[weighted])
    deeper = {int(depth): int((weighted & (data.turns > depth)).sum()) for depth in depths}
    for depth in depths:
        pending |= weighted & (data.turns == depth)
        size = int(pending.sum())
        if deeper[int(depth)] and (size < _CELL or deeper[int(depth)] < _CELL):
            continue
        groups = quantile_bins(data.predicted[pending], max(1, min(_BINS, size // _CELL)))
        cells[pending] = count + groups
        count += _BINS
        pending[:] = False
    numbered = np.unique(cells[weighted], return_inverse=True)[1] if weighted.any() else cells[weighted]
    cells[weighted] = numbered
    return cells.astype(np.int64)


def _gaps(data: Predictions, cells: Ints) -> tuple[Floats, Floats]:
    """(C,) gaps of the cells, each times the root of its share of the weight, and their (C, C) clustered covariance."""
    used = cells >= 0
    clusters = np.unique(data.clusters[used], return_inverse=True)[1]
    count = int(clusters.max(initial=-1)) + 1
    if count < 2:
        return np.zeros(0), np.zeros((0, 0))
    shape = (count, int(cells.max()) + 1)
    sums, weights = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (clusters, cells[used]), ((data.predicted - data.observed) * data.weights)[used])
    np.add.at(weights, (clusters, cells[used]), data.weights[used])
    total = weights.sum(0)
    gaps = sums.sum(0) / total
    scale = np.sqrt(total / total.sum())
    residuals = (sums - gaps * weights) / total * scale
    return gaps * scale, residuals.T @ residuals * count / (count - 1)


def _norm_interval(observed: float, spectrum: Floats, confidence: float) -> tuple[float, float]:
    """Confidence interval of |m| from x = |m + e|^2 = `observed`, where e is Gaussian with this spectrum.

    m is put along the direction of the largest variance, where x varies most. The law of x is drawn, with fixed random
    numbers: a run repeats to the bit.
    """
    draws = np.random.Generator(np.random.Philox(0)).standard_normal((_DRAWS, len(spectrum))) * np.sqrt(spectrum)
    noise, along = np.square(draws).sum(1), draws[:, 0]

    def law(norm: float, level: float) -> float:
        return float(np.quantile(noise + 2.0 * norm * along + norm * norm, level))

    tail = (1.0 - confidence) / 2.0
    most = math.sqrt(observed) + math.sqrt(float(noise.max()))
    low = _root(lambda norm: law(norm, 1.0 - tail) - observed, most)
    return low, _root(lambda norm: law(norm, tail) - observed, most)


def _root(rising: Callable[[float], float], most: float) -> float:
    """Where a function that rises from 0 to `most` changes its sign; 0 where it is positive throughout."""
    if rising(0.0) >= 0.0:
        return 0.0
    low, high = 0.0, most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rising(middle) < 0.0 else (low, middle)
    return (low + high) / 2.0
