"""Small controllers: the KL weight, and when the critic has warmed up."""

import math
from collections.abc import Sequence


def first_kl_coefficient(spread: float, target: float) -> float:
    """The weight at which the optimal policy is `target` nats from pi_i, were rewards Gaussian within every state.

    The optimum of E[R] - b * KL is pi_i * exp(R / b) / Z, which for a Gaussian R of standard deviation s has the KL
    s^2 / (2 b^2), so b = s / sqrt(2 * target).

    Args:
        spread: root mean square of the rewards' standard deviation within states, under pi_i.
        target: nats per suggestion, > 0.
    """
    return spread / math.sqrt(2.0 * target)


def adapt_kl_coefficient(coefficient: float, kl: float, target: float, gain: float) -> float:
    """coefficient * (1 + gain * clip(kl / target - 1, -0.2, 0.2)), the controller of lm-human-preferences.

    Args:
        kl: measured KL, nats per suggestion; the same unit as `target` (> 0).
        gain: samples per update over the horizon of the original; at most 5, so that the result stays positive.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + gain * error)


def kl_pressure(kl: float, target: float, strength: float) -> float:
    """exp(strength * (kl / target - 1)) above the target and 1 below: what the KL weight is multiplied with for now.

    The controller above integrates: alone it answers to an overshoot many updates late, and overshoots back. This is
    its proportional part.
    """
    return math.exp(strength * max(kl / target - 1.0, 0.0))


def has_plateaued(history: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether the mean of the last `window` figures exceeds that of the `window` before by less than `tolerance`.

    Used on explained variance; False while there are fewer than 2 * window figures.
    """
    if len(history) < 2 * window:
        return False
    recent, before = history[-window:], history[-2 * window : -window]
    return sum(recent) / window - sum(before) / window < tolerance
