"""Student's t distribution without scipy."""

import math
from functools import lru_cache

_TINY = 1e-300
_TERMS = 500
_BISECTIONS = 200


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function by Lentz's method (Numerical Recipes, 6.4)."""
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = 1.0 + term / c
            c = c if abs(c) > _TINY else _TINY
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _beta_fraction(a, b, x) / a
    return 1.0 - math.exp(log_front) * _beta_fraction(b, a, 1.0 - x) / b


def student_cdf(t: float, degrees: float) -> float:
    """P(T <= t) for Student's t with `degrees` > 0 degrees of freedom."""
    tail = 0.5 * _incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t))
    return 1.0 - tail if t >= 0 else tail


@lru_cache(maxsize=1024)
def two_sided_quantile(confidence: float, degrees: float) -> float:
    """The t with P(|T| <= t) = `confidence`; 0 < confidence < 1, degrees > 0."""
    if not 0.0 < confidence < 1.0 or degrees <= 0.0:
        raise ValueError(f"confidence {confidence} must be inside (0, 1) and degrees {degrees} positive")
    target = 0.5 + confidence / 2.0
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < target:
        high *= 2.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if student_cdf(middle, degrees) < target else (low, middle)
        if high - low <= 1e-12 * high:
            break
    return (low + high) / 2.0
