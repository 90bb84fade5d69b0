"""Targets are those of pi_i, whatever explored."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.qfit.targets import (
    RARE_WEIGHT,
    emphasised,
    explored_share,
    lambda_targets,
    monte_carlo_targets,
    success_unexplored,
)


def conversation(behaviours: str, outcome: bool, name: str = "c") -> Conversation:
    """A conversation whose turns explore where `behaviours` has an x."""
    turns = [
        Turn(
            customer_message="hello",
            suggestion="hi",
            reaction="accepted",
            sent_message="hi",
            behaviour="explore" if letter == "x" else "policy",
        )
        for letter in behaviours
    ]
    return Conversation(id=name, turns=turns, outcome=outcome, censored=False)


def test_monte_carlo_returns_of_a_clean_conversation() -> None:
    targets = monte_carlo_targets(conversation("...", True), 0.9, 0.0)
    assert [target.value for target in targets] == pytest.approx([0.81, 0.9, 1.0])
    assert [target.weight for target in targets] == [1.0, 1.0, 1.0]
    assert [target.value for target in monte_carlo_targets(conversation("...", False), 0.9, 0.0)] == [0.0] * 3


def test_turns_before_an_exploring_one_are_left_out_and_the_rest_is_reweighted() -> None:
    targets = monte_carlo_targets(conversation("..x..", True), 1.0, 0.2)
    assert [target.weight for target in targets] == pytest.approx([0.0, 0.0, 1 / 0.64, 1 / 0.8, 1.0])
    # The exploring turn itself teaches Q but not V.
    assert [target.value_weight for target in targets] == pytest.approx([0.0, 0.0, 0.0, 1 / 0.8, 1.0])


def test_lambda_returns_by_hand() -> None:
    values = [0.1, 0.2, 0.3]
    targets = lambda_targets(conversation("...", True), 0.9, 0.5, values)
    second = 0.9 * (0.5 * 0.3 + 0.5 * 1.0)
    first = 0.9 * (0.5 * 0.2 + 0.5 * second)
    assert [target.value for target in targets] == pytest.approx([first, second, 1.0])
    cut = lambda_targets(conversation(".x.", True), 0.9, 0.5, values)
    assert [target.value for target in cut] == pytest.approx([0.9 * 0.2, second, 1.0])
    assert [target.weight for target in cut] == [1.0, 1.0, 1.0]
    assert [target.value_weight for target in cut] == [1.0, 0.0, 1.0]


@given(
    st.text(".", min_size=1, max_size=7),
    st.booleans(),
    st.floats(0, 1),
    st.lists(st.floats(0, 1), min_size=7, max_size=7),
)
def test_lambda_1_without_exploration_is_monte_carlo(
    behaviours: str, outcome: bool, discount: float, values: list[float]
) -> None:
    logged = conversation(behaviours, outcome)
    plain, whole = monte_carlo_targets(logged, discount, 0.0), lambda_targets(logged, discount, 1.0, values)
    assert [target.value for target in whole] == pytest.approx([target.value for target in plain])


@given(st.text(".x", min_size=1, max_size=7), st.booleans(), st.floats(0, 1), st.floats(0, 1))
def test_targets_stay_inside_0_and_1(behaviours: str, outcome: bool, discount: float, trace: float) -> None:
    logged = conversation(behaviours, outcome)
    both = monte_carlo_targets(logged, discount, 0.3) + lambda_targets(logged, discount, trace, [0.5] * len(behaviours))
    assert all(0.0 <= target.value <= 1.0 for target in both)


STAY, BUY, TURNS, DISCOUNT, SHARE = 0.7, 0.15, 4, 0.9, 0.3


def _outcomes(behaviours: tuple[bool, ...]) -> list[tuple[int, bool, float]]:
    """(turns held, outcome, probability) given the turns that would explore, which sell and scare off more."""
    ends, alive = [], 1.0
    for index, explores in enumerate(behaviours):
        buy, leave = (0.4, 0.5) if explores else (BUY, 1 - STAY - BUY)
        stay = 0.0 if index == TURNS - 1 else 1 - buy - leave
        ends.append((index + 1, True, alive * buy))
        ends.append((index + 1, False, alive * (1 - buy - stay)))
        alive *= stay
    return ends


def _expected(share: float, target_of) -> list[float]:
    """Weighted means of the targets per turn over every possible conversation, exactly."""
    sums, weights = np.zeros(TURNS), np.zeros(TURNS)
    for behaviours in itertools.product([False, True], repeat=TURNS):
        coin = np.prod([share if explores else 1 - share for explores in behaviours])
        for held, outcome, probability in _outcomes(behaviours):
            letters = "".join("x" if explores else "." for explores in behaviours[:held])
            for index, target in enumerate(target_of(conversation(letters, outcome))):
                sums[index] += coin * probability * target.value * target.value_weight
                weights[index] += coin * probability * target.value_weight
    return list(sums / weights)


def test_both_targets_have_the_value_of_pi_i_as_their_expectation() -> None:
    on_policy = _expected(0.0, lambda logged: monte_carlo_targets(logged, DISCOUNT, 0.0))
    clean = _expected(SHARE, lambda logged: monte_carlo_targets(logged, DISCOUNT, SHARE))
    traced = _expected(SHARE, lambda logged: lambda_targets(logged, DISCOUNT, 0.6, on_policy))
    unweighted = _expected(SHARE, lambda logged: monte_carlo_targets(logged, DISCOUNT, 0.0))
    assert clean == pytest.approx(on_policy)
    assert traced == pytest.approx(on_policy)
    assert abs(unweighted[0] - on_policy[0]) > 0.02


def test_explored_share() -> None:
    assert explored_share([conversation(".x..", True), conversation("x...", False)]) == 0.25
    assert explored_share([]) == 0.0


@pytest.mark.parametrize(("own", "share"), [(["....", "..."], 0.0), ([".x..", "x..."], 0.25)])
def test_whole_conversations_of_personas_are_no_coin_of_the_policys(own: list[str], share: float) -> None:
    """Else the weights of its own long conversations would be too large."""
    persona = conversation("xxxxx", True)
    for turn in persona.turns:
        turn.writer = "bold"
    found = explored_share([persona, *(conversation(each, True) for each in own)])
    assert found == pytest.approx(share)


def test_an_unseen_suggestion_teaches_v_and_not_q() -> None:
    """It had no effect, so the return is one of the state; the turns before went through what really happened."""
    logged = conversation("...", True)
    logged.turns[1].displayed = False
    for targets in (monte_carlo_targets(logged, 0.9, 0.0), lambda_targets(logged, 0.9, 0.5, [0.1] * 3)):
        assert [target.weight for target in targets] == [1.0, 0.0, 1.0]
        assert [target.value_weight for target in targets] == [1.0, 1.0, 1.0]


def test_success_unexplored_is_that_of_the_policy_alone() -> None:
    """pi_i sells with .2 at every turn, the explorer never; whoever was not sold to by turn 4 leaves."""
    rng, share, log = np.random.default_rng(0), 0.3, []
    for number in range(20_000):
        turns, sold = [], False
        while len(turns) < 4 and not sold:
            explores = rng.random() < share
            turns.append(Turn("x", "y", "accepted", "y", behaviour="explore" if explores else "policy"))
            sold = not explores and rng.random() < 0.2
        log.append(Conversation(str(number), turns, sold))
    truth, naive = 1 - 0.8**4, sum(found.outcome for found in log) / len(log)
    assert success_unexplored(log, share) == pytest.approx(truth, abs=0.02)
    assert naive < truth - 0.05
    assert success_unexplored([found for found in log if found.turns[0].behaviour == "explore"], share) is None


@pytest.mark.parametrize(
    ("behaviours", "factors"),
    [
        ("...", [1, 1, 1]),
        ("x..", [RARE_WEIGHT, RARE_WEIGHT, 1]),
        (".x.", [1, RARE_WEIGHT, RARE_WEIGHT]),
        ("..x", [1, 1, RARE_WEIGHT]),
        ("xx.", [RARE_WEIGHT, RARE_WEIGHT, RARE_WEIGHT]),
    ],
)
def test_exploring_turns_and_the_states_behind_them_weigh_more(behaviours: str, factors: list[float]) -> None:
    logged = conversation(behaviours, True)
    plain = lambda_targets(logged, 0.9, 0.5, [0.5] * len(behaviours))
    heavy = emphasised(plain, logged)
    assert [target.value for target in heavy] == [target.value for target in plain]
    for name in ("weight", "value_weight"):
        assert [getattr(target, name) for target in heavy] == [
            factor * getattr(target, name) for factor, target in zip(factors, plain, strict=True)
        ]
