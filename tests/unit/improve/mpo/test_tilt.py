"""The dual temperature: against slow loops in float64, and its bounds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.improve.algorithms.mpo.tilt import Table, tilt

FREE = 1e9


def random_table(seed: int, states: int = 7, spread: float = 0.2) -> Table:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, states)
    prior = np.concatenate([rng.dirichlet(np.ones(size)) for size in sizes])
    state = np.repeat(np.arange(states), sizes)
    return Table(prior, rng.normal(0.3, spread, len(state)), state)


def slow_weights(table: Table, temperatures: list[float]) -> tuple[list[float], list[float]]:
    """Weights and KL by state, in plain loops."""
    weights, kls = [0.0] * len(table.q), []
    for state, eta in enumerate(temperatures):
        members = [n for n in range(len(table.q)) if table.state[n] == state]
        best = max(table.q[n] for n in members)
        masses = [table.prior[n] * math.exp((table.q[n] - best) / eta) for n in members]
        kl = 0.0
        for n, mass in zip(members, masses, strict=True):
            weights[n] = mass / math.fsum(masses)
            kl += weights[n] * math.log(weights[n] / table.prior[n]) if weights[n] > 0 else 0.0
        kls.append(kl)
    return weights, kls


@pytest.mark.parametrize("seed", range(5))
def test_weights_and_kl_are_those_of_slow_loops(seed: int) -> None:
    table = random_table(seed)
    better = tilt(table, budget=0.4, floor=1e-3, bound=FREE)
    weights, kls = slow_weights(table, [better.eta] * table.states)
    np.testing.assert_allclose(better.weights, weights, atol=1e-12)
    np.testing.assert_allclose(better.kl, kls, atol=1e-10)
    assert better.kl.mean() == pytest.approx(0.4, abs=1e-6)


def test_the_temperature_is_the_minimum_of_the_dual() -> None:
    table, budget = random_table(3), 0.3

    def dual(eta: float) -> float:
        total = [
            math.log(sum(table.prior[table.state == s] * np.exp(table.q[table.state == s] / eta)))
            for s in range(table.states)
        ]
        return eta * budget + eta * float(np.mean(total))

    better = tilt(table, budget, 1e-3, FREE).eta
    assert dual(better) <= min(dual(better * 1.01), dual(better / 1.01))


def test_of_all_policies_within_the_budget_it_has_the_highest_q() -> None:
    table, budget = random_table(4), 0.25
    better = tilt(table, budget, 1e-6, FREE)
    rng = np.random.default_rng(0)
    tried = 0
    for _ in range(3000):
        mass = table.prior * np.exp(rng.normal(0, rng.uniform(0, 2), len(table.q)) + table.q / rng.uniform(0.02, 2))
        other = mass / np.bincount(table.state, mass)[table.state]
        if (other * np.log(other / table.prior)).sum() / table.states <= budget:
            tried += 1
            assert (other * table.q).sum() <= (better.weights * table.q).sum() + 1e-9
    assert tried > 100


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    budget=st.floats(0.01, 3.0),
    floor=st.floats(1e-4, 0.5),
    bound=st.floats(0.01, 4.0),
)
def test_every_bound_holds_and_nothing_gets_worse(seed: int, budget: float, floor: float, bound: float) -> None:
    table = random_table(seed)
    better = tilt(table, budget, floor, bound)
    assert better.eta >= floor * (1 - 1e-12)
    assert better.kl.mean() <= budget + 1e-9
    assert better.kl.max() <= bound + 1e-9
    assert (better.gain(table) >= -1e-12).all()
    np.testing.assert_allclose(np.bincount(table.state, better.weights), 1.0)


def test_budget_floor_and_bound_bind_one_at_a_time() -> None:
    table = random_table(5)
    floored = tilt(table, FREE, 0.05, FREE)
    assert floored.eta == pytest.approx(0.05)
    bounded = tilt(table, FREE, 1e-6, 0.3)
    free = tilt(table, FREE, 1e-6, FREE)
    np.testing.assert_allclose(bounded.kl, np.minimum(free.kl, 0.3), atol=1e-6)


def test_a_larger_budget_spends_more_and_gains_more() -> None:
    table = random_table(6)
    steps = [tilt(table, budget, 1e-6, FREE) for budget in (0.05, 0.2, 0.6, 1.0)]
    gains = [step.gain(table).mean() for step in steps]
    assert gains == sorted(gains)
    assert [step.eta for step in steps] == sorted((step.eta for step in steps), reverse=True)


def test_what_q_cannot_tell_apart_stays_as_it_is() -> None:
    table = random_table(7)
    level = Table(table.prior, np.full(len(table.q), 0.4), table.state)
    np.testing.assert_allclose(tilt(level, 1.0, 1e-3, 2.0).weights, table.prior)


def test_a_constant_added_in_one_state_and_the_order_of_rows_change_nothing() -> None:
    table = random_table(8)
    better = tilt(table, 0.4, 1e-3, 1.0)
    shifted = Table(table.prior, table.q + np.where(table.state == 2, 0.3, 0.0), table.state)
    np.testing.assert_allclose(tilt(shifted, 0.4, 1e-3, 1.0).weights, better.weights, atol=1e-6)
    order = np.random.default_rng(1).permutation(len(table.q))
    mixed = Table(table.prior[order], table.q[order], table.state[order])
    np.testing.assert_allclose(tilt(mixed, 0.4, 1e-3, 1.0).weights, better.weights[order], atol=1e-9)


def test_tiny_temperatures_make_no_nan() -> None:
    table = Table(np.array([0.5, 0.5, 1.0]), np.array([0.0, 1.0, 0.2]), np.array([0, 0, 1]))
    better = tilt(table, FREE, 1e-9, FREE)
    np.testing.assert_allclose(better.weights, [0.0, 1.0, 1.0])
    np.testing.assert_allclose(better.kl, [math.log(2), 0.0])
