"""Confidence intervals whose unit is the conversation: turns of one conversation are never treated as independent."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ippo_trainer.stats.student import two_sided_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_FEWEST, _WHOLE = 3, 1e-9
"""Clusters that prove anything, and what one of them may lack of being the only one."""
_ROUNDING = 1e-9
"""By which a correlation of 1 may be smaller."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its two-sided confidence interval."""

    estimate: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """`{"estimate", "low", "high"}`."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high}


def cluster_sums(values: ArrayLike, clusters: ArrayLike) -> Floats:
    """Sums of `values` (n,) within each cluster, for cluster numbers (n,) from 0 to the largest; shape (clusters,)."""
    return np.bincount(np.asarray(clusters, np.int64), weights=np.asarray(values, np.float64)).astype(np.float64)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, confidence: float = 0.95) -> Interval:
    """Ratio of sums over clusters with its linearised (Taylor) variance and Student's t.

    The variance is that of Cochran, Sampling Techniques (1977), 6.5: n / (n - 1) * sum (y_i - r x_i)^2 / (sum x_i)^2.

    Args:
        numerators: (n,) one sum per conversation.
        denominators: (n,) one non-negative sum per conversation, e.g. its number of turns.
        confidence: two-sided level.

    Raises:
        ValueError: fewer than two clusters, or no denominator.
    """
    ratio, variance, count = _linearised(numerators, denominators)
    half = two_sided_quantile(confidence, count - 1) * math.sqrt(variance)
    return Interval(ratio, ratio - half, ratio + half)


def logit_interval(estimate: float, half: float) -> Interval:
    """An interval of a share from the half-width of its symmetric one, symmetric in the logit (the delta method).

    That of a rare outcome reaches further up than down, as the share's own distribution does, and stays within 0 and 1.
    The logit bends too much beyond a half-width of p (1 - p): there, and for an estimate that is no share, the interval
    is the symmetric one.
    """
    spread = estimate * (1 - estimate)
    if not 0.0 < half < spread:
        return Interval(estimate, estimate - half, estimate + half)
    centre, reach = math.log(estimate / (1 - estimate)), half / spread
    return Interval(estimate, _expit(centre - reach), _expit(centre + reach))


def difference_interval(one: Interval, other: Interval, correlation: float) -> Interval:
    """What one estimate is more than another, from their intervals, which need not be symmetric.

    Variances are recovered from the ends (Zou and Donner 2008). Of errors without correlation the difference is least
    where the one is at its low end and the other at its high end. Errors that are the same in part cancel in that part,
    and the estimate that varies more decides on which side: what an estimate is more than itself is nothing, for
    certain.

    Args:
        one, other: with intervals of the same confidence.
        correlation: of their errors.
    """
    shared = min(1.0, max(0.0, correlation))
    shared = 1.0 if shared > 1.0 - _ROUNDING else shared
    opposed = max(-1.0, min(0.0, correlation))
    (down, up), (other_down, other_up) = (
        (each.estimate - each.low, each.high - each.estimate) for each in (one, other)
    )
    first_wider = down + up >= other_down + other_up

    def reach(mine: tuple[float, float], theirs: tuple[float, float]) -> float:
        """From how far each end is away: mine on the side that is asked for and on the other one, theirs likewise."""
        (near, far), (near_theirs, far_theirs) = mine, theirs
        common = near - near_theirs if first_wider else far - far_theirs
        apart = near**2 + far_theirs**2 - 2 * opposed * near * far_theirs
        return math.sqrt(shared * common**2 + (1 - shared) * apart)

    difference = one.estimate - other.estimate
    low = reach((down, up), (other_down, other_up))
    high = reach((up, down), (other_up, other_down))
    return Interval(difference, difference - low, difference + high)


def rare_ratio_interval(numerators: ArrayLike, denominators: ArrayLike, confidence: float = 0.95) -> Interval:
    """Like `ratio_interval` where few clusters carry the sums, as with a rare outcome.

    A cluster that makes the ratio has a residual of nearly nothing. So residuals are those of the ratio without the
    cluster (HC3: MacKinnon and White 1985). And Student's t has the degrees of freedom of Satterthwaite (1946) for a
    sum of so unequal squares, (sum y^2)^2 / sum y^4 - 1: three clusters that agree by chance, of thousands that say
    next to nothing, are three. Fewer than three clusters with a denominator, or one that has all of it, prove nothing:
    the interval holds 0.

    Raises:
        ValueError: as of `ratio_interval`.
    """
    ratio, _, count = _linearised(numerators, denominators)
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total = float(below.sum())
    shares = below / total
    if int((below > 0.0).sum()) < _FEWEST or float(shares.max()) > 1.0 - _WHOLE:
        return Interval(ratio, min(ratio, 0.0), max(ratio, 0.0))
    residuals = (above - ratio * below) / (1.0 - shares)
    variance = float(np.square(residuals).sum()) * count / (count - 1) / total**2
    squares = np.square(above)
    fourth = float(np.square(squares).sum())
    carriers = float(squares.sum()) ** 2 / fourth if fourth > 0.0 else 2.0
    half = two_sided_quantile(confidence, max(1.0, carriers - 1.0)) * math.sqrt(variance)
    return Interval(ratio, ratio - half, ratio + half)


def share_interval(numerators: ArrayLike, denominators: ArrayLike, confidence: float = 0.95) -> Interval:
    """Like `ratio_interval` for quantities between 0 and 1: Wilson's interval with the effective sample size.

    The effective size is p (1 - p) / variance (Korn and Graubard 1998). Stays inside [0, 1] and keeps its width where
    all clusters agree, e.g. when nobody bought.
    """
    share, variance, count = _linearised(numerators, denominators)
    spread = share * (1.0 - share)
    size = spread / variance if variance > 1e-15 and spread > 1e-15 else float(count)
    t_squared = two_sided_quantile(confidence, count - 1) ** 2
    centre = (share + t_squared / (2 * size)) / (1 + t_squared / size)
    half = math.sqrt(t_squared * (max(spread, 0.0) / size + t_squared / (4 * size * size))) / (1 + t_squared / size)
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def paired_difference(candidate: ArrayLike, current: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of `candidate - current` over pairs (n,) of values in [0, 1], e.g. conversations with the same seed.

    The interval is Agresti and Min's adjusted Wald (Statistics in Medicine 2005): two pseudo-pairs, half a pair at +1,
    half at -1 and one at 0, which keeps its coverage when few pairs differ and its width when none does.
    The estimate is the plain mean.
    """
    differences = np.asarray(candidate, np.float64) - np.asarray(current, np.float64)
    count = len(differences)
    if count < 2:
        raise ValueError(f"{count} pairs are too few for an interval")
    adjusted = count + 2.0
    centre = float(differences.sum()) / adjusted
    variance = max(0.0, (float(np.square(differences).sum()) + 1.0) / adjusted - centre * centre)
    half = two_sided_quantile(confidence, count - 1) * math.sqrt(variance / adjusted)
    return Interval(float(differences.mean()), centre - half, centre + half)


def weighted_difference(
    candidate: ArrayLike,
    current: ArrayLike,
    candidate_weights: ArrayLike,
    current_weights: ArrayLike,
    confidence: float = 0.95,
) -> Interval:
    """Difference of two weighted means over pairs (n,) of values in [0, 1], where either of a pair may be missing.

    Without missing values it is `paired_difference`. Else the variance is that of the linearised difference by pair, so
    that what the two sides of a pair share still cancels; weights count as known. Pseudo-pairs and degrees of freedom
    go by the side with fewer effective values, (sum w)^2 / sum w^2 (Kish, Survey Sampling, 1965): few values that agree
    prove little, however many pairs they stand for.

    Args:
        candidate, current: values; those with weight 0 do not matter.
        candidate_weights, current_weights: (n,) inverse probability of being observed; 0 where it is missing.
        confidence: two-sided level.

    Raises:
        ValueError: fewer than two pairs, or a side without any value.
    """
    values = [np.asarray(side, np.float64) for side in (candidate, current)]
    weights = [np.asarray(side, np.float64) for side in (candidate_weights, current_weights)]
    if all((side == 1.0).all() for side in weights):
        return paired_difference(values[0], values[1], confidence)
    count = len(values[0])
    if count < 2 or not all(side.sum() > 0.0 for side in weights):
        raise ValueError(f"{count} pairs, of which a side has no value, are too few for an interval")
    means = [float(np.dot(v, w) / w.sum()) for v, w in zip(values, weights, strict=True)]
    terms = [w * (v - m) / w.mean() for v, w, m in zip(values, weights, means, strict=True)]
    estimate = means[0] - means[1]
    size = min(float(w.sum() ** 2 / np.square(w).sum()) for w in weights)
    adjusted = size + 2.0
    centre = estimate * size / adjusted
    # Each of the effective pairs varies so much that their mean has the variance of the linearised one.
    spread = float(np.square(terms[0] - terms[1]).mean()) * size / count
    variance = (size * (spread + estimate * estimate) + 1.0) / adjusted - centre * centre
    half = two_sided_quantile(confidence, max(1.0, size - 1.0)) * math.sqrt(max(0.0, variance) / adjusted)
    return Interval(estimate, centre - half, centre + half)


def _linearised(numerators: ArrayLike, denominators: ArrayLike) -> tuple[float, float, int]:
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    count, total = len(below), float(below.sum())
    if count < 2 or above.shape != below.shape:
        raise ValueError(f"{len(above)} numerators and {count} denominators: two or more of each are needed")
    if not total > 0.0:
        raise ValueError("the denominators sum to nothing")
    ratio = float(above.sum()) / total
    residuals = above - ratio * below
    return ratio, float(np.square(residuals).sum()) * count / (count - 1) / total**2, count


def _expit(logit: float) -> float:
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))
