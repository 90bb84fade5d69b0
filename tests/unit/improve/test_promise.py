"""The promise of Q less its error, against policies and values in tables."""

import math

import numpy as np
import pytest
from ippo_trainer.improve.promise import least_gain


@pytest.mark.parametrize("seed", range(20))
def test_no_policy_gains_less_than_the_bound_with_the_largest_error(seed: int) -> None:
    random = np.random.default_rng(seed)
    states, actions, largest = 30, 5, float(random.choice([0.001, 0.05, 0.4]))
    old, new = (random.dirichlet(np.full(actions, 0.5), states) for _ in range(2))
    new = 0.98 * new + 0.02 * old if seed % 2 else old + 0.05 * (new - old)
    true = random.random((states, actions))
    # The worst that an error can do: it raises what the new policy does more often, and lowers the rest.
    estimate = true + largest * np.sign(new - old)
    promised = ((new - old) * estimate).sum(1).mean()
    kl = (new * np.log(np.maximum(new, 1e-300) / old)).sum(1).mean()
    assert ((new - old) * true).sum(1).mean() >= least_gain(promised, kl, largest) - 1e-12


def test_a_policy_that_stayed_where_it_was_owes_nothing_to_errors() -> None:
    assert least_gain(0.0, 0.0, 0.5) == 0.0
    assert least_gain(0.1, -1e-9, 0.5) == 0.1


def test_far_away_the_error_counts_twice_and_no_more() -> None:
    assert least_gain(0.3, 50.0, 0.1) == pytest.approx(0.1)
    assert least_gain(0.3, 0.02, 0.1) == pytest.approx(0.3 - 2 * math.sqrt(0.01) * 0.1)
