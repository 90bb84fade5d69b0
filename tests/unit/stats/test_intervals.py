"""Intervals against slow oracles and by simulated coverage."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.stats.intervals import (
    Interval,
    cluster_sums,
    difference_interval,
    logit_interval,
    paired_difference,
    ratio_interval,
    share_interval,
    weighted_difference,
)
from ippo_trainer.stats.student import student_cdf, two_sided_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706205), (2, 4.302653), (5, 2.570582), (30, 2.042272), (120, 1.979930), (1e6, 1.959966)],
)
def test_student_quantiles_are_those_of_the_tables(degrees: float, quantile: float) -> None:
    assert two_sided_quantile(0.95, degrees) == pytest.approx(quantile, rel=1e-6)


@given(st.floats(-8, 8), st.sampled_from([1.0, 2.0, 3.0, 7.0, 40.0]))
def test_student_cdf_is_the_integral_of_its_density(t: float, degrees: float) -> None:
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    grid = np.linspace(0.0, abs(t), 4001)
    density = constant * (1 + grid**2 / degrees) ** (-(degrees + 1) / 2)
    area = float(np.trapezoid(density, grid))
    assert student_cdf(t, degrees) == pytest.approx(0.5 + math.copysign(area, t), abs=1e-6)


@pytest.mark.parametrize(("confidence", "degrees"), [(0.0, 5), (1.0, 5), (0.95, 0)])
def test_quantiles_outside_their_domain_are_refused(confidence: float, degrees: float) -> None:
    with pytest.raises(ValueError, match="must be inside"):
        two_sided_quantile(confidence, degrees)


def test_ratio_interval_of_single_turns_is_the_t_interval_of_the_mean() -> None:
    values = np.array([0.2, 0.9, 0.4, 0.7, 0.1])
    got = ratio_interval(values, np.ones(5), 0.95)
    half = 2.776445 * values.std(ddof=1) / math.sqrt(5)
    assert got.estimate == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, rel=1e-6)
    assert got.high == pytest.approx(values.mean() + half, rel=1e-6)


def _turns(rng: np.random.Generator, conversations: int) -> tuple[np.ndarray, np.ndarray]:
    """Conversations of 1 to 6 turns whose turns agree strongly and whose length goes with the answer (mean .35)."""
    lengths = rng.integers(1, 7, conversations)
    tendency = np.clip(rng.beta(0.7, 1.3, conversations) * (0.4 + 0.2 * lengths), 0, 1)
    return rng.binomial(lengths, tendency).astype(float), lengths.astype(float)


def _coverage(interval, truth: float, repetitions: int, conversations: int) -> float:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(repetitions):
        numerators, denominators = _turns(rng, conversations)
        got = interval(numerators, denominators, 0.9)
        hits += got.low <= truth <= got.high
    return hits / repetitions


@pytest.mark.parametrize("interval", [ratio_interval, share_interval])
def test_clustered_intervals_cover_where_a_turnwise_one_does_not(interval) -> None:
    numerators, denominators = _turns(np.random.default_rng(1), 400_000)
    truth = numerators.sum() / denominators.sum()

    def turnwise(above: np.ndarray, below: np.ndarray, confidence: float):
        share, count = above.sum() / below.sum(), below.sum()
        spread = np.full(int(count), share) + np.resize([1, -1], int(count)) * math.sqrt(share * (1 - share))
        return ratio_interval(spread, np.ones_like(spread), confidence)

    assert _coverage(interval, truth, 1500, 60) == pytest.approx(0.9, abs=0.025)
    assert _coverage(turnwise, truth, 400, 60) < 0.82


def test_ratio_interval_agrees_with_the_cluster_bootstrap() -> None:
    rng = np.random.default_rng(3)
    numerators, denominators = _turns(rng, 300)
    draws = rng.integers(0, 300, (4000, 300))
    replicates = numerators[draws].sum(1) / denominators[draws].sum(1)
    got = ratio_interval(numerators, denominators, 0.9)
    low, high = np.quantile(replicates, [0.05, 0.95])
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def mean_share(values: Any, confidence: float = 0.95) -> Interval:
    """Of one value per conversation."""
    return share_interval(values, np.ones(len(np.asarray(values))), confidence)


def test_a_share_keeps_its_width_where_everybody_agrees() -> None:
    nobody = mean_share(np.zeros(300))
    assert nobody.estimate == nobody.low == 0.0
    assert 3 / 300 < nobody.high < 5 / 300
    everybody = mean_share(np.ones(300))
    assert (everybody.low, everybody.high) == pytest.approx((1 - nobody.high, 1.0))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.sampled_from([0.5, 0.9, 0.99]))
def test_shares_and_their_bounds_stay_inside_0_and_1(values: list[float], confidence: float) -> None:
    got = mean_share(values, confidence)
    assert 0.0 <= got.low <= got.estimate <= got.high <= 1.0


def test_rare_shares_are_covered() -> None:
    rng = np.random.default_rng(5)
    hits = [
        interval.low <= 0.03 <= interval.high for interval in (mean_share(rng.random(150) < 0.03) for _ in range(1500))
    ]
    assert 0.93 <= np.mean(hits) <= 0.995


@pytest.mark.parametrize("flips", [0.004, 0.05, 0.4])
def test_paired_difference_covers_with_few_and_many_discordant_pairs(flips: float) -> None:
    rng = np.random.default_rng(11)
    hits, repetitions = 0, 1500
    for _ in range(repetitions):
        current = rng.random(400) < 0.2
        candidate = np.where(rng.random(400) < flips, rng.random(400) < 0.8, False) | current
        # Only a 0 can flip to 1 here, so the lift is flips * .8 * P(current = 0).
        got = paired_difference(candidate, current, 0.95)
        hits += got.low <= flips * 0.8 * 0.8 <= got.high
    assert hits / repetitions >= 0.93


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(2)
    current = rng.random(1000) < 0.3
    candidate = current ^ (rng.random(1000) < 0.05)
    paired = paired_difference(candidate, current)
    shuffled = paired_difference(rng.permutation(candidate), current)
    assert paired.estimate == pytest.approx(shuffled.estimate)
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_equal_results_still_leave_doubt() -> None:
    got = paired_difference(np.zeros(500), np.zeros(500))
    assert got.estimate == 0.0
    assert -0.01 < got.low < 0.0 < got.high < 0.01


def test_paired_difference_is_antisymmetric() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(50), rng.random(50)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert (forth.estimate, forth.low, forth.high) == pytest.approx((-back.estimate, -back.high, -back.low))


def _draw(rng: np.random.Generator, pairs: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Values (mean .5 here, .7 in the half that is seen `share` as often) and inverse probabilities; one is seen."""
    rare = rng.random(pairs) < 0.5
    seen = (rng.random(pairs) < np.where(rare, share, 0.9)) | (np.arange(pairs) == 0)
    values = (rng.random(pairs) < np.where(rare, 0.7, 0.3)).astype(float)
    return values, np.where(seen, 1.0 / np.where(rare, share, 0.9), 0.0)


@pytest.mark.parametrize(("pairs", "share"), [(20, 0.2), (60, 0.1), (200, 0.05), (300, 0.5)])
def test_a_weighted_difference_covers_where_few_values_stand_for_many(pairs: int, share: float) -> None:
    rng = np.random.default_rng(17)
    hits = []
    for _ in range(1000):
        (first, first_weights), (second, second_weights) = _draw(rng, pairs, share), _draw(rng, pairs, 0.9)
        got = weighted_difference(first, second, first_weights, second_weights)
        hits.append(got.low <= 0.0 <= got.high)
    assert np.mean(hits) > 0.92


@given(st.integers(2, 60), st.integers(2, 60))
def test_as_few_values_as_there_are_leave_as_much_doubt_however_many_they_stand_for(few: int, missing: int) -> None:
    weights = np.repeat([(few + missing) / few, 0.0], [few, missing])
    values = np.repeat([1.0, 0.0], [few, missing])
    got = weighted_difference(values, np.zeros(few + missing), weights, weights)
    alone = paired_difference(np.ones(few), np.zeros(few))
    assert (got.estimate, got.low, got.high) == pytest.approx((alone.estimate, alone.low, alone.high))


def test_too_little_data_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        ratio_interval([1.0], [1.0])
    with pytest.raises(ValueError, match="nothing"):
        ratio_interval([0.0, 0.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="too few"):
        paired_difference([1.0], [0.0])


def test_cluster_sums() -> None:
    assert cluster_sums([1.0, 2.0, 4.0], [1, 0, 1]).tolist() == [2.0, 5.0]


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0, 1e6))
def test_an_interval_in_logits_holds_its_estimate_and_is_hardly_wider_than_the_symmetric_one(
    estimate: float, half: float
) -> None:
    interval = logit_interval(estimate, half)
    assert interval.low <= estimate + 1e-12
    assert interval.high >= estimate - 1e-12
    assert interval.high - interval.low <= 1.25 * 2 * half + 1e-12
    if half < estimate * (1 - estimate):
        assert interval.low > 0
        assert interval.high < 1


@pytest.mark.parametrize(
    ("estimate", "half"),
    [
        (0.3, 1e-7),
        (0.001, 0.005),
        (-0.0001, 0.005),
        (0.0001, 0.005),
        (0.004, 0.02),
        (0.95, 0.2),
        (0.0, 0.1),
        (1.2, 0.1),
    ],
)
def test_an_interval_in_logits_is_the_symmetric_one_where_that_is_narrow_or_wide(estimate: float, half: float) -> None:
    """The delta method says nothing where the logit bends: an interval up to 1 would contradict nobody."""
    interval = logit_interval(estimate, half)
    assert interval.low == pytest.approx(estimate - half, abs=1e-9)
    assert interval.high == pytest.approx(estimate + half, abs=1e-9)


def test_rare_outcomes_are_covered_in_logits_where_the_symmetric_interval_lies_too_low() -> None:
    """Of 450 conversations 3 % have the outcome: those that miss a symmetric interval are above it."""
    rng = np.random.default_rng(0)
    counts = rng.binomial(450, 0.03, 4000)
    shares = counts / 450
    halves = 1.96 * np.sqrt(shares * (1 - shares) / 450)
    above = float(np.mean(shares + halves < 0.03))
    intervals = [logit_interval(float(share), float(half)) for share, half in zip(shares, halves, strict=True)]
    assert above > 0.05
    assert np.mean([each.low <= 0.03 <= each.high for each in intervals]) == pytest.approx(0.95, abs=0.015)


@given(st.floats(0.01, 0.99), st.floats(0.001, 0.2), st.floats(0.01, 0.99), st.floats(0.001, 0.2))
def test_a_difference_of_independent_symmetric_estimates_has_the_sum_of_variances(
    one: float, of_one: float, other: float, of_other: float
) -> None:
    interval = difference_interval(
        Interval(one, one - of_one, one + of_one), Interval(other, other - of_other, other + of_other), 0.0
    )
    assert interval.estimate == one - other
    for half in (interval.estimate - interval.low, interval.high - interval.estimate):
        assert half == pytest.approx(math.hypot(of_one, of_other))


@pytest.mark.parametrize("correlation", [1.0, 1.0 - 1e-15, 1.0 + 1e-15])
def test_what_an_estimate_is_more_than_itself_is_nothing(correlation: float) -> None:
    own = logit_interval(0.031, 0.02)
    difference = difference_interval(own, own, correlation)
    assert (difference.estimate, difference.low, difference.high) == (0.0, 0.0, 0.0)


@given(*(st.floats(0.01, 0.99) for _ in range(2)), *(st.floats(0.0001, 0.2) for _ in range(4)), st.floats(-1, 1))
def test_a_difference_the_other_way_round_is_its_mirror_image(
    one: float, other: float, a: float, b: float, c: float, d: float, correlation: float
) -> None:
    first, second = Interval(one, one - a, one + b), Interval(other, other - c, other + d)
    forth = difference_interval(first, second, correlation)
    back = difference_interval(second, first, correlation)
    assert (back.low, back.high) == (pytest.approx(-forth.high), pytest.approx(-forth.low))


@pytest.mark.parametrize(
    ("shares", "size", "common"),
    [((0.03, 0.03), 300, 0.0), ((0.06, 0.03), 300, 0.0), ((0.06, 0.03), 600, 0.5), ((0.06, 0.05), 600, 0.8)],
)
def test_a_difference_of_rare_shares_is_missed_on_either_side_alike(
    shares: tuple[float, float], size: int, common: float
) -> None:
    """Of two independent samples, and of samples in which a part of the outcomes are the same."""
    rng = np.random.default_rng(1)
    above = below = count = 0
    while count < 4000:
        luck = rng.random((2, size))
        luck[1] = np.where(rng.random(size) < common, luck[0], luck[1])
        won = [luck[side] < share for side, share in enumerate(shares)]
        means = [float(each.mean()) for each in won]
        if 0.0 in means:
            continue
        count += 1
        halves = [1.96 * math.sqrt(mean * (1 - mean) / size) for mean in means]
        intervals = [logit_interval(mean, half) for mean, half in zip(means, halves, strict=True)]
        difference = difference_interval(*intervals, float(np.corrcoef(*won)[0, 1]))
        above += difference.low > shares[0] - shares[1]
        below += difference.high < shares[0] - shares[1]
    assert max(above, below) / count < 0.04
    assert (above + below) / count < 0.07
