"""Learning rates: a linear rise, then a cosine."""

import math
from dataclasses import dataclass

FINAL_RATE = 0.1
"""Share of a rate that is left at the end where what is trained must settle, such as the KL at its target."""
WARM_UP = 0.05
"""Share of a fit's steps over which its rate rises."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Share of the peak learning rate, by step."""

    steps: int
    """Most steps that there can be, >= 1."""
    rise: int
    """Steps over which the rate rises linearly, >= 1."""
    final: float = 0.0
    """Share that is left at the end of the cosine."""
    fall_from: int = 0
    """Step at which the cosine begins; while the rate rises, the rise counts too."""

    @classmethod
    def of_fit(cls, steps: int, final: float = 0.0) -> "Schedule":
        """A rise over 5 % of the steps, and the cosine behind it."""
        rise = max(1, round(WARM_UP * steps))
        return cls(steps, rise, final, fall_from=rise)

    def share(self, step: int) -> float:
        """What the peak is multiplied with in `step`, from 0."""
        rise = min(1.0, (step + 1) / self.rise)
        fall = max(0, step - self.fall_from) / max(1, self.steps - self.fall_from)
        return rise * (self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, fall))))
