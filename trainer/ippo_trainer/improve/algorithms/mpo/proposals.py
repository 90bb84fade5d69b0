"""What a state's better policy is made of: distinct candidates, and how likely the proposals draw each.

A policy that samples only from itself never tries what it has forgotten. So candidates come from a mixture of pi_i and
the explorer. Counts stand for the mixture's probabilities: equal texts are one candidate, and no density is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ippo_trainer.models.sampling import Sampled
from ippo_trainer.stats.intervals import Floats


@dataclass(frozen=True, slots=True)
class Proposals:
    """The candidates of one state."""

    responses: list[list[int]]
    """C distinct responses, as token ids with the end token."""
    prior: Floats
    """(C,) their shares of the mixture; sums to 1."""


def propose(own: Sequence[Sampled], explored: Sequence[Sampled], share: float) -> Proposals:
    """Merges what two samplers drew: a candidate's prior is (1 - share) n / N of pi_i's draws plus share m / M.

    Draws without an end are no suggestions and are left out. Where one sampler has none with an end, the other stands
    alone; where neither has, there is no candidate.

    Args:
        own: N draws of pi_i.
        explored: M draws of the explorer.
        share: of the explorer in the mixture, in [0, 1].
    """
    prior: dict[tuple[int, ...], float] = {}
    for draws, weight in ((own, 1.0 - share), (explored, share)):
        ended = [tuple(draw.ids) for draw in draws if draw.ended]
        for ids in ended:
            prior[ids] = prior.get(ids, 0.0) + weight / len(ended)
    likely = {ids: value for ids, value in prior.items() if value > 0.0}
    values = np.array(list(likely.values()), np.float64)
    return Proposals([list(ids) for ids in likely], values / values.sum() if len(values) else values)
