"""What is said of a fitted Q, against data whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.qfit.report import CONFIDENCE, assess, confidence_of, mean_return
from ippo_trainer.qfit.targets import ReturnWeights
from ippo_trainer.stats.scores import log_losses

PLAIN = ReturnWeights.of([], 0.9)
SELLS = {"good": 0.3, "bad": 0.02}


def one_turn(count: int, seed: int, behaviour: str = "policy") -> list[Conversation]:
    """Conversations of one turn whose suggestion decides how likely they sell."""
    rng = np.random.default_rng(seed)
    words = rng.choice(list(SELLS), count)
    turns = [Turn("hello", str(word), "accepted", "x", behaviour=behaviour) for word in words]  # type: ignore[arg-type]
    return [
        Conversation(str(i), [turn], bool(rng.random() < SELLS[str(turn.suggestion)])) for i, turn in enumerate(turns)
    ]


def truth(conversations: list[Conversation]) -> np.ndarray:
    return np.array([SELLS[str(turn.suggestion)] for found in conversations for turn in found.turns])


def test_the_truth_is_informative_and_calibrated() -> None:
    held = one_turn(1500, 0)
    got = assess(held, truth(held), np.full(1500, 0.16), mean_return(one_turn(3000, 1), PLAIN), PLAIN)
    assert got.informative
    assert got.skill.low > 0.05
    assert got.slope.low < 1.0 < got.slope.high
    assert got.action_skill.low > 0.05
    assert got.calibration_error < 0.03
    assert got.miscalibration.low == 0.0 <= got.miscalibration.estimate < 0.03
    assert list(got.by_turn) == [0]
    assert len(got.by_bin) == 2
    assert got.metrics()["brier"] < got.metrics()["brierConstant"]


def test_the_state_alone_has_no_action_skill() -> None:
    held = one_turn(1500, 0)
    flat = np.full(1500, 0.16)
    got = assess(held, flat, flat, 0.16, PLAIN)
    assert not got.informative
    assert got.action_skill.estimate == 0.0


def test_a_useless_q_is_rarely_called_informative() -> None:
    rng = np.random.default_rng(3)
    called = 0
    for seed in range(200):
        held = one_turn(200, seed)
        noise = np.clip(0.16 + 0.005 * rng.standard_normal(200), 0.01, 0.99)
        called += assess(held, noise, noise, 0.16, PLAIN).informative
    assert called <= 20


def test_where_the_outcome_is_rare_a_quarter_of_the_conversations_prove_what_skill_would_need() -> None:
    """As of the demo's first cycle: few buy, and Q tells who will, too boldly."""
    by_slope = by_skill = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        promising = rng.random(700) < 0.2
        chance = np.where(promising, 0.12, 0.02)
        turn, won = Turn("a", "x", "accepted", "x"), rng.random(700) < chance
        held = [Conversation(str(i), [turn], bool(each)) for i, each in enumerate(won)]
        bold = np.where(promising, 0.16, 0.01)
        got = assess(held, bold, bold, 0.04, PLAIN)
        by_slope, by_skill = by_slope + got.informative, by_skill + (got.skill.low > 0)
    assert by_slope >= 90
    assert by_skill <= 60


def test_a_q_that_a_constant_beats_beyond_chance_is_not_informative_though_outcomes_go_with_it() -> None:
    held = one_turn(1500, 0)
    far = np.where(truth(held) > 0.1, 0.95, 0.6)
    got = assess(held, far, far, 0.16, PLAIN)
    assert got.slope.low > 0
    assert got.skill.high < 0
    assert not got.informative


@pytest.mark.parametrize("outcome", [False, True])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_conversations_that_all_end_alike_tell_nothing(outcome: bool, count: int) -> None:
    """A constant a little nearer to the one value beats the other constant each time, and is as useless."""
    held = [Conversation(str(i), [Turn("hello", "x", "accepted", "x")], outcome) for i in range(count)]
    nearer = np.full(count, 0.95 if outcome else 0.05)
    got = assess(held, nearer, nearer, 0.9 if outcome else 0.1, PLAIN)
    assert got.skill.estimate > 0.4
    assert not got.informative


def test_a_rare_outcome_makes_no_useless_q_informative() -> None:
    called = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        held = [Conversation(str(i), [Turn("a", "x", "accepted", "x")], bool(rng.random() < 0.02)) for i in range(60)]
        called += assess(held, np.full(60, 0.01), np.full(60, 0.01), 0.02, PLAIN).informative
    assert called <= 15


def test_conversations_without_weight_are_no_evidence() -> None:
    held = one_turn(400, 9)
    for found in held[3:]:
        found.turns[0].displayed = False
    q = truth(held)
    assert assess(held, q, q, 0.16, PLAIN).skill == assess(held[:3], q[:3], q[:3], 0.16, PLAIN).skill


def test_all_looks_at_one_iterations_data_together_have_a_bounded_error() -> None:
    one_sided = [(1.0 - confidence_of(look)) / 2.0 for look in range(1, 100)]
    assert confidence_of(1) == CONFIDENCE
    assert sum(one_sided) <= 1.0 - CONFIDENCE + 1e-12
    held = one_turn(200, 0)
    intervals = [
        assess(held, truth(held), truth(held), 0.16, PLAIN, confidence=confidence_of(look)).skill for look in (1, 2, 3)
    ]
    assert intervals[0].low > intervals[1].low > intervals[2].low


def test_returns_through_exploring_turns_are_left_out_of_the_account() -> None:
    later = Turn("more", "good", "accepted", "x", behaviour="explore")
    held = [replace(found, turns=[*found.turns, later]) for found in one_turn(400, 4)]
    q = np.tile([0.9, 0.16], 400)  # first turns are hopelessly wrong, and nobody can know
    got = assess(held, q, q, 0.16, ReturnWeights.of(held, 0.9))
    assert list(got.by_turn) == [1]
    assert got.calibration_error < 0.06


def test_mean_return_by_hand() -> None:
    turn = Turn("hello", "x", "accepted", "x")
    data = [Conversation("a", [turn, turn], True), Conversation("b", [turn], False)]
    assert mean_return(data, PLAIN) == pytest.approx((0.9 + 1.0 + 0.0) / 3)


def test_a_suggestion_that_was_never_displayed_counts_neither_for_nor_against() -> None:
    held = one_turn(400, 5)
    q = truth(held)
    for found in held[:200]:
        found.turns[0].displayed = False
    wild = np.where(np.arange(400) < 200, 0.99, q)
    assert assess(held, wild, q, 0.16, PLAIN).metrics() == pytest.approx(assess(held, q, q, 0.16, PLAIN).metrics())


def test_early_stopping_on_the_held_out_conversations_does_not_make_a_useless_q_informative() -> None:
    """The weights with the best held-out loss are measured on the same conversations. Where there is nothing to learn,
    the best is the one that learnt least: the one in twenty that the level allows is not used up."""
    called = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        features, sold = rng.standard_normal((360, 24)), rng.random(360) < 0.15
        train, held = slice(300), slice(300, None)
        mean = sold[train].mean()
        weights, losses = np.zeros(24), []
        for _ in range(6):
            for _ in range(3):
                guess = 1 / (1 + np.exp(-features[train] @ weights - np.log(mean / (1 - mean))))
                weights -= 0.5 * features[train].T @ (guess - sold[train]) / 300
            guess = 1 / (1 + np.exp(-features[held] @ weights - np.log(mean / (1 - mean))))
            losses.append((log_losses(guess, sold[held].astype(float)).mean(), guess))
        best = min(losses, key=lambda pair: pair[0])[1]
        ends = [Conversation(str(i), [Turn("a", "x", "accepted", "x")], bool(won)) for i, won in enumerate(sold[held])]
        called += assess(ends, best, best, float(mean), PLAIN).informative
    assert called <= 15
