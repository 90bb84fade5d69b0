"""Funnels with other numbers, drawn from a seed: tables that nobody wrote down."""

from typing import Any

import numpy as np

HORIZONS = (4, 5, 6, 7, 8)


def draw(seed: int) -> tuple[dict[str, Any], int]:
    """Fields of `Tables`, and a horizon.

    Customers who are further on buy and accept more readily, as in any shop; everything else is uniform.
    """
    rng = np.random.default_rng(1000 + seed)

    def uniform(low: float, high: float, count: int = 3) -> list[float]:
        return [round(float(value), 3) for value in rng.uniform(low, high, count)]

    def shares(concentration: float, count: int, least: float = 0.0) -> list[float]:
        values = np.round(rng.dirichlet([concentration] * count) * (1 - least * count) + least, 3)
        values[-1] = round(1 - values[:-1].sum(), 3)
        return [float(value) for value in values]

    nothing = [0.0] * 3
    fields: dict[str, Any] = {
        "type_prior": shares(4, 3, 0.1),
        "accept": [*(uniform(0.4, 0.95) for _ in range(3)), sorted(uniform(0.25, 0.85)), uniform(0.6, 0.95)],
        "own": shares(1, 5),
        "leave": uniform(0.03, 0.18),
        "leave_extra": [
            [nothing, nothing, nothing],
            [nothing, nothing, uniform(0, 0.1)],
            [nothing, nothing, nothing],
            [uniform(0.05, 0.2), nothing, nothing],
            [nothing, nothing, uniform(0, 0.12)],
        ],
        "buy": [uniform(0, 0.06), uniform(0.05, 0.4), uniform(0.3, 0.7)],
        "ask_moves": uniform(0.5, 0.95, 1)[0],
        "signal_right": uniform(0.55, 0.9, 1)[0],
        "pitch_moves_cold": uniform(0.1, 0.4, 1)[0],
        "feat_moves": uniform(0.1, 0.8),
        "disc_moves": uniform(0.1, 0.8),
        "base_policy": shares(2, 6, 0.03),
    }
    return fields, HORIZONS[seed % len(HORIZONS)]
