"""What a fitted Q is worth, on conversations that it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ippo_trainer.data.schema import Conversation
from ippo_trainer.qfit.targets import ReturnWeights, monte_carlo_targets
from ippo_trainer.stats.intervals import Floats, Interval
from ippo_trainer.stats.scores import (
    CalibrationRow,
    Predictions,
    brier_losses,
    calibration_error,
    calibration_rows,
    log_losses,
    miscalibration,
    quantile_bins,
    skill,
    slope,
    weighted_mean,
)

BINS = 10
CONFIDENCE = 0.9
"""Two-sided; what counts is the lower bound of the slope, which a useless Q passes in one of twenty first fits."""


def confidence_of(look: int) -> float:
    """Level of the `look`-th fit to the same iteration's data, from 1.

    Each look is a new chance to be lucky, so each has half of the last one's: however many there are, a useless Q
    passes any of them in fewer than one of ten iterations.
    """
    return 1.0 - (1.0 - CONFIDENCE) / 2.0 ** (look - 1)


@dataclass(frozen=True)
class Calibration:
    """Held-out quality of Q. Losses are per turn, in nats (log-loss) or squared (Brier)."""

    log_loss: float
    log_loss_constant: float
    brier: float
    brier_constant: float
    skill: Interval
    """Against the training conversations' mean return: 1 - log_loss / log_loss_constant."""
    action_skill: Interval
    """Against the model's own V of the same state: what knowing the suggestion adds."""
    slope: Interval
    """Of the returns on the predictions."""
    calibration_error: float
    miscalibration: Interval
    """At most the root mean square error of Q, see `stats.scores`; its lower end bounds that from below."""
    by_turn: dict[int, CalibrationRow]
    by_bin: dict[int, CalibrationRow]

    @property
    def informative(self) -> bool:
        """Whether Q tells more than a constant: returns go with it beyond chance, and it may well beat the constant.

        That its skill lies above zero beyond chance would take about four times the conversations, for that asks for
        the right level and scale, too.
        """
        return self.slope.low > 0.0 and self.skill.high > 0.0

    def to_json(self, curves: Sequence[dict[str, float | str]]) -> dict[str, Any]:
        """The content of `calibration.json`."""
        return {
            "log_loss": self.log_loss,
            "log_loss_constant": self.log_loss_constant,
            "brier": self.brier,
            "brier_constant": self.brier_constant,
            "skill": self.skill.to_json(),
            "action_skill": self.action_skill.to_json(),
            "slope": self.slope.to_json(),
            "calibration_error": self.calibration_error,
            "miscalibration": self.miscalibration.to_json(),
            "calibration": [{"turn": turn, **row.to_json()} for turn, row in self.by_turn.items()],
            "bins": [row.to_json() for row in self.by_bin.values()],
            "curves": list(curves),
        }

    def metrics(self) -> dict[str, float]:
        """The figures of the stage's result."""
        return {
            "logLoss": self.log_loss,
            "logLossConstant": self.log_loss_constant,
            "brier": self.brier,
            "brierConstant": self.brier_constant,
            "skill": self.skill.estimate,
            "skillLow": self.skill.low,
            "skillHigh": self.skill.high,
            "actionSkill": self.action_skill.estimate,
            "slope": self.slope.estimate,
            "slopeLow": self.slope.low,
            "slopeHigh": self.slope.high,
            "calibrationError": self.calibration_error,
            "miscalibration": self.miscalibration.estimate,
            "miscalibrationLow": self.miscalibration.low,
            "miscalibrationHigh": self.miscalibration.high,
        }


def mean_return(conversations: Sequence[Conversation], weights: ReturnWeights) -> float:
    """The constant predictor: mean Monte Carlo return per turn, by the weights of `monte_carlo_targets`."""
    targets = [target for each in conversations for target in monte_carlo_targets(each, weights)]
    weight = sum(target.weight for target in targets)
    return sum(target.value * target.weight for target in targets) / weight if weight else 0.0


def assess(
    conversations: Sequence[Conversation],
    q: Floats,
    v: Floats,
    constant: float,
    weights: ReturnWeights,
    confidence: float = CONFIDENCE,
) -> Calibration:
    """Compares predictions with the Monte Carlo returns of clean tails.

    Args:
        conversations: held out, at least two, uncensored.
        q, v: (n,) predictions for every turn, in order.
        constant: prediction of the constant predictor, from the training conversations.
        weights: of the log that they are from.
        confidence: of the intervals of skills and slope.
    """
    targets = [monte_carlo_targets(each, weights) for each in conversations]
    flat = [target for row in targets for target in row]
    data = Predictions(
        predicted=q,
        observed=np.array([target.value for target in flat]),
        turns=np.concatenate([np.arange(len(row)) for row in targets]),
        clusters=np.repeat(np.arange(len(targets)), [len(row) for row in targets]),
        weights=np.array([target.weight for target in flat]),
    )
    flat_constant = np.full_like(q, constant)
    return Calibration(
        log_loss=weighted_mean(log_losses(q, data.observed), data.weights),
        log_loss_constant=weighted_mean(log_losses(flat_constant, data.observed), data.weights),
        brier=weighted_mean(brier_losses(q, data.observed), data.weights),
        brier_constant=weighted_mean(brier_losses(flat_constant, data.observed), data.weights),
        skill=skill(data, flat_constant, confidence),
        action_skill=skill(data, v, confidence),
        slope=slope(data, confidence),
        calibration_error=calibration_error(data, BINS),
        miscalibration=miscalibration(data),
        by_turn=calibration_rows(data, data.turns),
        by_bin=calibration_rows(data, quantile_bins(q, BINS)),
    )
