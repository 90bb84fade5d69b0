"""The test that is valid at every look: exactly, by simulation, and what it finds."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.stats import sequential
from ippo_trainer.stats.sequential import (
    Experiment,
    Trials,
    lift_bounds,
    log_evidence,
    log_evidence_of_another_share,
)

LEVEL = 0.05
SHARES = (0.01, 0.1, 0.5, 0.9)
CELLS = ("candidate", True), ("candidate", False), ("control", True), ("control", False)


def experiment(cells: tuple[int, int, int, int], share: float) -> Experiment:
    """Of conversations in the order of CELLS."""
    candidate, without, control, control_without = cells
    return Experiment(Trials(candidate + without, candidate), Trials(control + control_without, control), share)


def chances(share: float, candidate: float, control: float) -> list[float]:
    """Of a conversation to be in each of the CELLS."""
    rest = 1.0 - share
    return [share * candidate, share * (1.0 - candidate), rest * control, rest * (1.0 - control)]


def added(cells: tuple[int, ...], index: int) -> tuple[int, int, int, int]:
    a, b, c, d = (count + (number == index) for number, count in enumerate(cells))
    return a, b, c, d


counts = st.tuples(*[st.integers(0, 400)] * 4)
shares, rates = st.sampled_from(SHARES), st.floats(0.0, 1.0)


@given(counts, shares, rates, rates, st.floats(-0.5, 0.5))
def test_a_conversation_never_adds_evidence_on_average_where_there_is_no_lift(
    cells: tuple[int, int, int, int], share: float, one: float, other: float, lift: float
) -> None:
    """The definition of a supermartingale, at any counts: for every lift up to the one that is tested."""
    candidate, control = min(one, other), max(one, other)
    before = log_evidence(experiment(cells, share))
    after = [log_evidence(experiment(added(cells, index), share)) for index in range(4)]
    growth = [float(np.exp(each - before)) for each in after]
    mean = float(np.dot(chances(share, candidate, control), growth))
    assert mean <= 1.0 + 1e-9
    if candidate == control:
        assert mean == pytest.approx(1.0)


@given(counts, shares, st.floats(-0.9, 0.9), st.floats(0.0, 1.0))
def test_nor_does_it_where_the_lift_is_the_one_that_is_tested(
    cells: tuple[int, int, int, int], share: float, lift: float, place: float
) -> None:
    control = max(0.0, -lift) + place * (1.0 - abs(lift))
    candidate = min(1.0, max(0.0, control + lift))
    before = log_evidence(experiment(cells, share), lift)
    after = [log_evidence(experiment(added(cells, index), share), lift) for index in range(4)]
    growth = [float(np.exp(each - before)) for each in after]
    assert float(np.dot(chances(share, candidate, control), growth)) <= 1.0 + 1e-6


@pytest.mark.parametrize(("share", "rate"), list(product(SHARES, (0.02, 0.3, 0.9))))
def test_the_expected_evidence_is_one_by_enumeration(share: float, rate: float) -> None:
    """All counts of ten conversations of two equal sides, with their multinomial chances."""
    number, total = 10, 0.0
    chance = chances(share, rate, rate)
    for a, b, c in product(range(number + 1), repeat=3):
        d = number - a - b - c
        if d >= 0:
            ways = math.factorial(number) // math.prod(map(math.factorial, (a, b, c, d)))
            weight = ways * math.prod(p**k for p, k in zip(chance, (a, b, c, d), strict=True))
            total += weight * float(np.exp(log_evidence(experiment((a, b, c, d), share))))
    assert total == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("share", "rate"), [(0.1, 0.3), (0.5, 0.1), (0.5, 0.5), (0.9, 0.7)])
def test_the_probability_of_ever_promoting_is_within_the_level_by_dynamic_programming(
    share: float, rate: float
) -> None:
    """A look after every one of 30 conversations; once the evidence is there, it counts for ever."""
    level, chance, promoted = 0.2, chances(share, rate, rate), 0.0
    paths = {(0, 0, 0, 0): 1.0}
    for _ in range(30):
        following: dict[tuple[int, int, int, int], float] = {}
        for cells, weight in paths.items():
            for index in range(4):
                after = added(cells, index)
                following[after] = following.get(after, 0.0) + weight * chance[index]
        table = np.array(list(following))
        many = Experiment(Trials(table[:, :2].sum(1), table[:, 0]), Trials(table[:, 2:].sum(1), table[:, 2]), share)
        over = log_evidence(many) >= -math.log(level)
        promoted += sum(weight for weight, ends in zip(following.values(), over, strict=True) if ends)
        paths = {cells: weight for (cells, weight), ends in zip(following.items(), over, strict=True) if not ends}
    assert 0.0 < promoted <= level


def ever_refuted(rng: np.random.Generator, tests: int, length: int, rate: float, share: float) -> int:
    """How many of so many A/A tests promote at any of the looks after each of `length` conversations.

    No single conversation can multiply the evidence by more than `most`, so looks at which it cannot be there yet are
    left out: the answer is that of a look after every one.
    """
    most = max(-math.log(share), -math.log(1.0 - share))
    assigned = (rng.random((tests, length)) < share).cumsum(1, dtype=np.int32)
    outcome = rng.random((tests, length)) < rate
    won = outcome.cumsum(1, dtype=np.int32)
    first = np.diff(assigned, axis=1, prepend=0).astype(bool)
    candidates_won = (outcome & first).cumsum(1, dtype=np.int32)
    threshold = -math.log(LEVEL)
    at, refuted = np.zeros(tests, np.int64), np.zeros(tests, bool)
    live = np.arange(tests)
    while len(live):
        look = at[live]
        conversations, mine = assigned[live, look], candidates_won[live, look]
        control = Trials(look + 1 - conversations, won[live, look] - mine)
        evidence = log_evidence(Experiment(Trials(conversations, mine), control, share))
        refuted[live] |= evidence >= threshold
        at[live] = look + np.maximum(1, np.ceil((threshold - evidence) / most)).astype(np.int64)
        live = live[~refuted[live] & (at[live] < length)]
    return int(refuted.sum())


@pytest.mark.parametrize(
    ("tests", "share", "rate"), [(10_000, 0.5, 0.1), (2_000, 0.1, 0.05), (2_000, 0.5, 0.5), (2_000, 0.8, 0.3)]
)
def test_a_a_tests_with_a_look_after_every_conversation_promote_within_the_level(
    tests: int, share: float, rate: float
) -> None:
    promoted = sum(
        ever_refuted(np.random.default_rng([1, part]), 1_000, 3_000, rate, share) for part in range(tests // 1_000)
    )
    error = math.sqrt(LEVEL * (1 - LEVEL) / tests)
    assert 0 < promoted / tests <= LEVEL + 2 * error


@pytest.mark.parametrize(("share", "rate", "ratio"), [(0.5, 0.1, 1.5), (0.1, 0.05, 2.0), (0.5, 0.5, 1.2)])
def test_a_lift_is_promoted_with_about_half_again_as_many_conversations_as_a_single_look_needs(
    share: float, rate: float, ratio: float
) -> None:
    """The single look: a z test at the same one-sided level, with a power of .8."""
    better = rate * ratio
    variance = rate * (1 - rate) / (1 - share) + better * (1 - better) / share
    single = (1.645 + 0.842) ** 2 * variance / (better - rate) ** 2
    looks = np.unique(np.geomspace(20, 8 * single, 200).astype(np.int64))
    rng, steps = np.random.default_rng(2), np.diff(looks, prepend=0)
    candidates = rng.binomial(steps, share, (400, len(looks)))
    won = rng.binomial(candidates, better).cumsum(1)
    lost = rng.binomial(steps - candidates, rate).cumsum(1)
    candidates = candidates.cumsum(1)
    refuted = log_evidence(Experiment(Trials(candidates, won), Trials(looks - candidates, lost), share)) >= -math.log(
        LEVEL
    )
    assert refuted.any(1).mean() > 0.95
    assert np.median(looks[refuted.argmax(1)]) < 1.6 * single


@pytest.mark.parametrize("share", SHARES)
def test_the_evidence_is_a_mean_of_likelihood_ratios_of_the_assignment_in_any_order(share: float) -> None:
    """A slow oracle: each alternative's chance of every assignment, given the outcome, by that of equal sides."""
    rng = np.random.default_rng(3)
    stream = [CELLS[index] for index in rng.choice(4, 60, p=chances(share, 0.4, 0.2))]
    total, alternatives = 0.0, list(product(sequential._RATES, sequential._ODDS_RATIOS))
    for rate, ratio in alternatives:
        better, capital = ratio * rate / (1 - rate + ratio * rate), 1.0
        rng.shuffle(stream)
        for side, won in stream:
            one, other = (better, rate) if won else (1 - better, 1 - rate)
            candidate = share * one / (share * one + (1 - share) * other)
            capital *= candidate / share if side == "candidate" else (1 - candidate) / (1 - share)
        total += capital
    a, b, c, d = (stream.count(cell) for cell in CELLS)
    evidence = float(np.exp(log_evidence(experiment((a, b, c, d), share))))
    assert evidence == pytest.approx(total / len(alternatives))


@pytest.mark.parametrize("share", SHARES)
def test_without_any_conversation_nothing_is_known(share: float) -> None:
    nothing = experiment((0, 0, 0, 0), share)
    assert float(log_evidence(nothing)) == pytest.approx(0.0, abs=1e-12)
    assert lift_bounds(nothing, LEVEL) == (-1.0, 1.0)
    assert nothing.lift() == 0.0
    assert log_evidence_of_another_share(nothing) == pytest.approx(0.0)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("number", [0, 1, 10_000_000])
def test_where_all_or_none_have_the_outcome_there_is_no_lift(share: float, number: int) -> None:
    mine = round(number * share)
    for cells in ((mine, 0, number - mine, 0), (0, mine, 0, number - mine)):
        low, high = lift_bounds(experiment(cells, share), LEVEL)
        assert -1.0 <= low <= 0.0 <= high <= 1.0


@settings(max_examples=60, deadline=None)
@given(counts, shares)
def test_bounds_are_those_of_what_is_refuted(cells: tuple[int, int, int, int], share: float) -> None:
    one = experiment(cells, share)
    low, high = lift_bounds(one, LEVEL)
    threshold = -math.log(LEVEL)
    assert (low > 0) == bool(log_evidence(one) >= threshold)
    assert (high < 0) == bool(log_evidence(one.mirrored()) >= threshold)
    refuted = log_evidence(one, np.linspace(-1.0, 1.0, 101)) >= threshold
    below = np.linspace(-1.0, 1.0, 101)[refuted]
    assert all(lift <= max(low, -1.0) + 1e-5 for lift in below[below <= 0])


def test_the_true_lift_is_within_the_bounds_at_every_look_and_they_close_in_on_it() -> None:
    """A lift is within them as long as neither side refutes it."""
    rng, tests, share, threshold = np.random.default_rng(4), 1_000, 0.3, -math.log(LEVEL)
    looks = np.unique(np.geomspace(5, 4_000, 60).astype(np.int64))
    steps = np.diff(looks, prepend=0)
    mine = rng.binomial(steps, share, (tests, len(looks)))
    won, lost = rng.binomial(mine, 0.25).cumsum(1), rng.binomial(steps - mine, 0.15).cumsum(1)
    mine = mine.cumsum(1)
    many = Experiment(Trials(mine, won), Trials(looks - mine, lost), share)
    for one, lift in ((many, 0.1), (many.mirrored(), -0.1)):
        missed = (log_evidence(one, lift) >= threshold).any(1).mean()
        assert missed <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / tests)
    last = Experiment(Trials(mine[0, -1], won[0, -1]), Trials(looks[-1] - mine[0, -1], lost[0, -1]), share)
    low, high = lift_bounds(last, LEVEL)
    assert low < last.lift() < high < low + 0.12


def test_an_assignment_that_is_not_by_chance_is_found_out() -> None:
    fair, lost = Trials(100_000, 0), Trials(99_000, 0)
    assert log_evidence_of_another_share(Experiment(fair, fair, 0.5)) < 0
    assert log_evidence_of_another_share(Experiment(Trials(10_000, 0), fair, 0.1)) > math.log(1000)
    assert log_evidence_of_another_share(Experiment(Trials(50_000, 0), lost, 0.5)) > math.log(1000)


@given(st.integers(0, 500), st.integers(0, 500), shares)
def test_the_evidence_against_the_share_is_a_martingale(mine: int, others: int, share: float) -> None:
    def value(more: int, more_others: int) -> float:
        return log_evidence_of_another_share(Experiment(Trials(mine + more, 0), Trials(others + more_others, 0), share))

    growth = share * math.exp(value(1, 0) - value(0, 0)) + (1 - share) * math.exp(value(0, 1) - value(0, 0))
    assert growth == pytest.approx(1.0)
