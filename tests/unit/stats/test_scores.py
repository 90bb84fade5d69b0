"""Log-loss, Brier, skill and calibration on data whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.stats.scores import (
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


def _world(seed: int, conversations: int, error: float = 0.0, noise: float = 0.0) -> Predictions:
    """Conversations of 3 turns with one outcome each; predictions are right up to a constant and a random error."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(1.0, 4.0, conversations).clip(0.02, 0.7)
    outcome = (rng.random(conversations) < truth).astype(float)
    clusters = np.repeat(np.arange(conversations), 3)
    predicted = (truth[clusters] + error + noise * rng.standard_normal(3 * conversations)).clip(0.001, 0.999)
    return Predictions(
        predicted, outcome[clusters], np.tile([0, 1, 2], conversations), clusters, np.ones(len(clusters))
    )


def test_losses_by_hand() -> None:
    predicted, observed = np.array([0.2, 0.5, 1.0]), np.array([1.0, 0.25, 0.0])
    expected = [-math.log(0.2), -math.log(0.5), -math.log(1e-7)]
    assert log_losses(predicted, observed) == pytest.approx(expected, rel=1e-6)
    assert brier_losses(predicted, observed) == pytest.approx([0.64, 0.0625, 1.0])
    assert weighted_mean(predicted, np.array([1.0, 3.0, 0.0])) == pytest.approx(0.425)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_mean_minimises_log_loss_of_soft_targets(target: float, other: float) -> None:
    best, worse = (log_losses(np.array([p]), np.array([target]))[0] for p in (target, other))
    assert best <= worse + 1e-6


def test_skill_is_positive_for_the_truth_and_not_for_a_constant() -> None:
    data = _world(0, 800)
    constant = np.full_like(data.predicted, 0.21)
    assert skill(data, constant).low > 0.02
    flat = Predictions(constant, data.observed, data.turns, data.clusters, data.weights)
    own = skill(flat, constant)
    assert own.estimate == own.low == own.high == 0.0
    wild = _world(0, 800, noise=0.6)
    assert skill(wild, constant).high < 0.0


def test_slope_is_one_of_the_truth_and_none_of_what_tells_nothing() -> None:
    data = _world(0, 800)
    assert slope(data).low < 1.0 < slope(data).high
    halved = replace(data, predicted=0.21 + (data.predicted - 0.21) / 2)
    assert slope(halved).estimate == pytest.approx(2 * slope(data).estimate)
    assert slope(halved).low == pytest.approx(2 * slope(data).low)
    flat = slope(replace(data, predicted=np.full_like(data.predicted, 0.21)))
    assert flat.estimate == flat.low == flat.high == 0.0
    alike = slope(replace(data, observed=np.ones_like(data.observed)))
    assert alike.estimate == alike.low == alike.high == 0.0


def test_slope_is_that_of_weighted_least_squares() -> None:
    rng = np.random.default_rng(5)
    data = replace(_world(5, 40), weights=rng.integers(0, 4, 120).astype(float))
    rows = np.stack([np.ones(120), data.predicted], 1) * np.sqrt(data.weights)[:, None]
    fitted = np.linalg.lstsq(rows, data.observed * np.sqrt(data.weights), rcond=None)[0]
    assert slope(data).estimate == pytest.approx(fitted[1])


def test_slopes_interval_covers() -> None:
    inside = 0
    for seed in range(300):
        data = _world(seed, 150)
        inside += slope(data).low <= 1.0 <= slope(data).high
    assert inside >= 275


@pytest.mark.parametrize("outcomes", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("skewed", [1.0, -1.0])
def test_slope_takes_few_outcomes_for_few(outcomes: int, skewed: float) -> None:
    """Whoever has them by chance: a slope is above zero in about one of twenty, whatever the shape of predictions."""
    rng, above, count = np.random.default_rng(outcomes), 0, 400
    for _ in range(count):
        predicted = 0.5 + skewed * rng.beta(1.0, 4.0, 300) / 2
        won = np.zeros(300)
        won[rng.choice(300, outcomes, replace=False)] = 1.0
        data = Predictions(predicted, won, np.zeros(300, int), np.arange(300), np.ones(300))
        above += slope(data, 0.9).low > 0
    assert above <= 0.08 * count


@pytest.mark.parametrize("success", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("outlier", [0.05, 0.95])
@pytest.mark.parametrize("turns", [1, 4])
def test_one_lucky_prediction_proves_nothing(success: float, outlier: float, turns: int) -> None:
    """Noise, and one conversation whose prediction is far from all others'."""
    rng, above, count = np.random.default_rng(7), 0, 300
    for _ in range(count):
        predicted = np.repeat(0.3 + 0.005 * rng.standard_normal(100), turns)
        predicted[:turns] = outlier
        won = np.repeat((rng.random(100) < success).astype(float), turns)
        clusters = np.repeat(np.arange(100), turns)
        data = Predictions(predicted, won, np.tile(np.arange(turns), 100), clusters, np.ones(len(won)))
        above += slope(data, 0.9).low > 0
    assert above <= 0.08 * count


@pytest.mark.parametrize("won", [[0.0, 1.0], [0.0, 1.0, 1.0]])
def test_two_conversations_prove_nothing(won: list[float]) -> None:
    count = len(won)
    data = Predictions(
        np.array([0.1, 0.9, 0.9][:count]), np.array(won), np.zeros(count, int), np.arange(count), np.ones(count)
    )
    apart = replace(data, clusters=np.array([0, 1, 1][:count]))
    assert slope(apart, 0.9).low <= 0.0 <= slope(apart, 0.9).estimate


def test_skills_interval_covers() -> None:
    big = _world(99, 200_000)
    truth = skill(big, np.full_like(big.predicted, 0.2)).estimate
    hits = 0
    for seed in range(300):
        data = _world(seed, 150)
        got = skill(data, np.full_like(data.predicted, 0.2), 0.9)
        hits += got.low <= truth <= got.high
    assert 0.85 <= hits / 300 <= 0.96


def test_repeating_turns_does_not_narrow_the_interval() -> None:
    data = _world(1, 200)
    twice = Predictions(*(np.concatenate([getattr(data, name)] * 2) for name in Predictions.__annotations__))
    reference = np.full_like(data.predicted, 0.2)
    once, doubled = skill(data, reference), skill(twice, np.tile(reference, 2))
    assert (doubled.low, doubled.high) == pytest.approx((once.low, once.high))


def test_calibration_rows_by_turn() -> None:
    data = _world(2, 3000, error=0.1)
    rows = calibration_rows(data, data.turns)
    assert list(rows) == [0, 1, 2]
    for row in rows.values():
        assert row.count == 3000
        assert row.observed.high < row.predicted < 0.4
        assert set(row.to_json()) == {"predicted", "observed", "low", "high", "count"}


def test_weightless_turns_and_lonely_conversations_have_no_row() -> None:
    ones = np.ones(4)
    data = Predictions(0.5 * ones, ones, np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 1.0, 0.0]))
    assert list(calibration_rows(data, data.turns)) == [0]


def test_weights_count_like_repetitions() -> None:
    data = _world(3, 50)
    weighted = Predictions(
        data.predicted, data.observed, data.turns, data.clusters, np.where(data.turns == 1, 2.0, 1.0)
    )
    order = np.concatenate([np.arange(150), np.flatnonzero(data.turns == 1)])
    repeated = Predictions(*(getattr(data, name)[order] for name in Predictions.__annotations__))
    reference = np.full(150, 0.3)
    assert skill(weighted, reference) == pytest.approx(skill(repeated, reference[order]))  # type: ignore[comparison-overlap]
    assert calibration_error(weighted, 1) == pytest.approx(calibration_error(repeated, 1))


def test_quantile_bins_are_even_and_keep_equal_predictions_together() -> None:
    bins = quantile_bins(np.arange(100) / 100, 10)
    assert np.bincount(bins).tolist() == [10] * 10
    assert len(set(quantile_bins(np.full(30, 0.2), 10))) == 1
    ties = quantile_bins(np.array([0.1] * 50 + [0.2, 0.3]), 5)
    assert len(set(ties[:50])) == 1


@pytest.mark.parametrize("error", [0.0, 0.08, -0.05])
def test_calibration_error_and_miscalibration_find_a_constant_error(error: float) -> None:
    data = _world(4, 20_000, error=error)
    got = miscalibration(data)
    assert calibration_error(data) == pytest.approx(abs(error), abs=0.012)
    assert got.estimate == pytest.approx(abs(error), abs=0.012)
    assert got.low <= abs(error) <= got.high
    assert (got.low == 0.0) == (error == 0.0)


def test_miscalibration_takes_its_own_noise_out() -> None:
    small = [miscalibration(_world(seed, 120)).estimate for seed in range(30)]
    raw = [calibration_error(_world(seed, 120)) for seed in range(30)]
    assert np.median(small) < 0.5 * np.median(raw)


@pytest.mark.parametrize(("conversations", "error"), [(150, 0.0), (600, 0.0), (150, 0.05), (600, 0.05)])
def test_miscalibrations_interval_covers(conversations: int, error: float) -> None:
    lows, highs = np.array(
        [
            (got.low, got.high)
            for seed in range(80)
            for got in [miscalibration(_world(1000 + seed, conversations, error=error))]
        ]
    ).T
    assert (lows > error + 1e-12).mean() <= 0.07
    assert (highs < error).mean() <= 0.05


def test_errors_that_cancel_within_a_cell_do_not_show_and_the_lower_end_stays_below_them() -> None:
    rng = np.random.default_rng(6)
    data = _world(6, 5000)
    hidden = rng.choice([-0.05, 0.05], len(data.predicted))
    got = miscalibration(
        Predictions(
            (data.predicted + hidden).clip(0.001, 0.999), data.observed, data.turns, data.clusters, data.weights
        )
    )
    assert got.low < got.estimate < 0.05


def test_miscalibration_of_a_single_conversation_says_nothing() -> None:
    got = miscalibration(_world(5, 1))
    assert (got.estimate, got.low, got.high) == (0.0, 0.0, 1.0)


def test_miscalibration_is_of_the_weights_and_repeats_to_the_bit() -> None:
    data = _world(7, 400)
    first = data.turns == 0
    wrong = Predictions(
        np.where(first, data.predicted, 0.99), data.observed, data.turns, data.clusters, first.astype(float)
    )
    assert miscalibration(wrong) == miscalibration(data.keep(first))
    assert miscalibration(data) == miscalibration(data)
