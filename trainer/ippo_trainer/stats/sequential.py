"""A test that is valid at every look: has one side of a randomised experiment more outcomes per conversation?

Conversations come one after another. Each is the candidate's with a known probability w (`share`), whatever else is
known of it, else the control's; Y is 1 if it has the outcome. Then for every constant c

    X = (Y - c) / w           if it is the candidate's
    X = -(Y - c) / (1 - w)    if it is the control's

has the lift as its mean, given all conversations before: E[X | past] = P(Y = 1 | candidate, past) - P(Y = 1 | control,
past). If the lift never exceeds m, somebody who bets lambda >= 0 on X > m in a fair game, whose capital is the product
of 1 + lambda (X - m), does not gain on average, as long as no factor is negative. So that capital is a nonnegative
supermartingale that begins at 1, an "e-process", and by Ville's inequality it ever reaches 1 / level with a probability
of at most `level`: at whichever conversations, and however often, one looks. A mean of such capitals over a fixed list
of bets (lambda, c) is another one, and it is a function of four counts. Rates may differ between conversations and
drift with the time of day or the season, as long as the lift itself never exceeds m: of a lift that is above m at first
and below it later, its mean is not what is tested. Only the assignment has to be as random as it is said to be.

The bets are those of the alternatives that look likely. To bet lambda = x + y with c = y / (x + y) is to multiply by
the ratio of the likelihoods of "candidate" given Y, under the rates (p, q) of control and candidate and under equal
ones: x = P(candidate | Y = 1) - w and y = w - P(candidate | Y = 0). A likelihood ratio is the bet that grows fastest.

References: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (JRSS B 2024, arXiv
2010.09686), for betting and the bounds; Turner, Ly and Grunwald, Generic e-variables for exact sequential k-sample
tests (arXiv 2106.02693), and Grunwald, de Heide and Koolen, Safe testing (JRSS B 2024, arXiv 1906.07801), for the
choice of bets; Lindon and Malek, Anytime-valid inference for multinomial count data (NeurIPS 2022, arXiv 2011.03567),
for the test of the assignment itself; Robbins (Annals of Mathematical Statistics 1970) and Howard, Ramdas, McAuliffe
and Sekhon (Annals of Statistics 2021, arXiv 1810.08240) for mixtures and bounds that hold at all times.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ippo_trainer.stats.intervals import Floats

_RATES = (0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
"""Of the control, in the alternatives. A bet is nearly as good at rates between."""
_ODDS_RATIOS = (1.05, 1.1, 1.2, 1.4, 1.7, 2.2, 3.0, 5.0)
"""Of the candidate to the control, in the alternatives."""
_SPREAD = 100.0
"""Of the shares that may be instead of the one that is meant: as after so many conversations, a Beta distribution."""
_STEPS = 1000
"""Of the search for a bound: twice so many, each time between two neighbours of the last, find it to 2e-6."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Conversations of one side and outcomes among them; numbers, or arrays of one shape."""

    conversations: ArrayLike
    outcomes: ArrayLike

    def cells(self) -> tuple[Floats, Floats]:
        """With the outcome, and without it."""
        outcomes = np.asarray(self.outcomes, np.float64)
        return outcomes, np.asarray(self.conversations, np.float64) - outcomes


@dataclass(frozen=True, slots=True)
class Experiment:
    """What was counted in a randomised experiment."""

    candidate: Trials
    control: Trials
    share: float
    """Probability that a conversation is the candidate's, above 0 and below 1."""

    def mirrored(self) -> "Experiment":
        """The same with the sides exchanged: its lift is the negative of this one's."""
        return Experiment(self.control, self.candidate, 1.0 - self.share)

    def lift(self) -> float:
        """Outcomes per conversation, candidate less control; 0 where a side has no conversation."""
        rates = [
            float(np.asarray(side.outcomes)) / float(np.asarray(side.conversations))
            for side in (self.candidate, self.control)
            if float(np.asarray(side.conversations)) > 0
        ]
        return rates[0] - rates[1] if len(rates) == 2 else 0.0


def log_evidence(experiment: Experiment, lift: ArrayLike = 0.0) -> Floats:
    """Logarithm of the e-value against "the lift is at most `lift`"; at -log(level) and above this is refuted.

    Args:
        experiment: counts of shape (...) each.
        lift: between -1 and 1; of a shape that broadcasts with that of the counts.

    Returns:
        Natural logarithms, of the broadcast shape.
    """
    cells = [*experiment.candidate.cells(), *experiment.control.cells()]
    factors = _log_factors(experiment.share, np.asarray(lift, np.float64))
    grown = sum((cell[..., None] * factor for cell, factor in zip(cells, factors, strict=True)), np.zeros(1))
    most = grown.max(-1, keepdims=True)
    return np.asarray(np.log(np.exp(grown - most).mean(-1)) + most[..., 0], np.float64)


def lift_bounds(experiment: Experiment, level: float) -> tuple[float, float]:
    """A lower and an upper bound of the lift; each of the two fails ever to hold with probability `level` at most, of
    a lift that does not change in time.

    The lower one is above 0 just where `log_evidence` refutes "the lift is at most 0".
    """
    return _lower(experiment, level), -_lower(experiment.mirrored(), level)


def log_evidence_of_another_share(experiment: Experiment) -> float:
    """Logarithm of the e-value against "each conversation is the candidate's with the probability `share`".

    A test of lifts says nothing where this is refuted ("sample ratio mismatch"): something else than chance, and maybe
    than the rates, decides who is counted where. It is the mixture of Lindon and Malek, for two sides.
    """
    counts = [float(np.asarray(side.conversations)) for side in (experiment.candidate, experiment.control)]
    shares = (experiment.share, 1.0 - experiment.share)
    prior = [_SPREAD * share for share in shares]
    expected = sum(count * math.log(share) for count, share in zip(counts, shares, strict=True))
    return _log_beta(*(a + count for a, count in zip(prior, counts, strict=True))) - _log_beta(*prior) - expected


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _lower(experiment: Experiment, level: float) -> float:
    """The largest value below which every lift is refuted."""
    low, high = -1.0, 1.0
    for _ in range(2):
        lifts = np.linspace(low, high, _STEPS + 1)
        refuted = log_evidence(experiment, lifts) >= -math.log(level)
        first = int(np.argmin(refuted)) if not refuted.all() else _STEPS
        if first == 0:
            return low
        low, high = float(lifts[first - 1]), float(lifts[first])
    return low


def _log_factors(share: float, lift: Floats) -> list[Floats]:
    """What a conversation multiplies the capital of each bet by, in logarithms, each of shape (..., bets).

    In the order of: candidate with the outcome, candidate without, control with, control without.
    """
    bet, centre = _bets(share)
    bet, lift = bet * np.ones_like(lift)[..., None], lift[..., None]
    worst = np.maximum(centre / share, (1.0 - centre) / (1.0 - share)) + lift
    bet = np.where(bet * worst < 1.0, bet, _MOST / worst)  # beyond a lift of 0 a bet may have to be smaller
    values = (
        (1.0 - centre) / share,
        -centre / share,
        -(1.0 - centre) / (1.0 - share),
        centre / (1.0 - share),
    )
    return [np.log1p(bet * (value - lift)) for value in values]


_MOST = 0.99
"""Of the capital that a bet may lose at once, where it has to be cut."""


def _bets(share: float) -> tuple[Floats, Floats]:
    """lambda and c of every bet."""
    rate, odds_ratio = (grid.ravel() for grid in np.meshgrid(_RATES, _ODDS_RATIOS))
    better = odds_ratio * rate / (1.0 - rate + odds_ratio * rate)
    mean = share * better + (1.0 - share) * rate
    x = share * better / mean - share
    y = share - share * (1.0 - better) / (1.0 - mean)
    return x + y, y / (x + y)
