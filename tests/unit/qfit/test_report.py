"""What is said of a fitted Q: against data whose truth is known, and against an environment's exact values."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ippo_trainer.contract import params
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments import load
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.qfit.report import advantage_correlation, assess, mean_return

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
    got = assess(held, truth(held), np.full(1500, 0.16), mean_return(one_turn(3000, 1), 0.9, 0.0), 0.9, 0.0)
    assert got.informative
    assert got.skill.low > 0.05
    assert got.action_skill.low > 0.05
    assert got.calibration_error < 0.03
    assert got.eps_q < 0.03
    assert list(got.by_turn) == [0]
    assert len(got.by_bin) == 2
    assert got.metrics()["brier"] < got.metrics()["brierConstant"]


def test_the_state_alone_has_no_action_skill() -> None:
    held = one_turn(1500, 0)
    flat = np.full(1500, 0.16)
    got = assess(held, flat, flat, 0.16, 0.9, 0.0)
    assert not got.informative
    assert got.action_skill.estimate == 0.0


def test_a_useless_q_is_rarely_called_informative() -> None:
    rng = np.random.default_rng(3)
    called = 0
    for seed in range(200):
        held = one_turn(200, seed)
        noise = np.clip(0.16 + 0.005 * rng.standard_normal(200), 0.01, 0.99)
        called += assess(held, noise, noise, 0.16, 0.9, 0.0).informative
    assert called <= 20


def test_returns_through_exploring_turns_are_left_out_of_the_account() -> None:
    later = Turn("more", "good", "accepted", "x", behaviour="explore")
    held = [replace(found, turns=[*found.turns, later]) for found in one_turn(400, 4)]
    q = np.tile([0.9, 0.16], 400)  # first turns are hopelessly wrong, and nobody can know
    got = assess(held, q, q, 0.16, 0.9, 0.5)
    assert list(got.by_turn) == [1]
    assert got.calibration_error < 0.06


def test_mean_return_by_hand() -> None:
    turn = Turn("hello", "x", "accepted", "x")
    data = [Conversation("a", [turn, turn], True), Conversation("b", [turn], False)]
    assert mean_return(data, 0.9, 0.0) == pytest.approx((0.9 + 1.0 + 0.0) / 3)


@pytest.fixture(scope="module")
def funnel() -> Any:
    return load(params.Environment(name="sr-funnel", options={"horizon": 4}))


def test_the_exact_q_correlates_fully_and_noise_does_not(funnel: Any) -> None:
    data = demonstrate(funnel, range(600), "sr-funnel")
    train, held = data[:450], data[450:]
    exact = [turn for turns in funnel.exact_q([*held, *train], 0.95)[: len(held)] for turn in turns]
    q = np.array([turn.q_policy.get(turn.intent, 0.0) for turn in exact])
    v = np.array([turn.v_policy for turn in exact])
    assert advantage_correlation(funnel, train, held, q, v, 0.95) == pytest.approx(1.0)
    noise = np.random.default_rng(0).random(len(q))
    correlation = advantage_correlation(funnel, train, held, noise, v, 0.95)
    assert correlation is not None
    assert abs(correlation) < 0.2
    assert advantage_correlation(funnel, train, held, v, v, 0.95) is None


def test_exploring_conversations_do_not_count_for_the_correlation(funnel: Any) -> None:
    data = demonstrate(funnel, range(200), "sr-funnel")
    train, held = data[:150], data[150:]
    q = np.random.default_rng(1).random(sum(len(found.turns) for found in held))
    v = np.zeros_like(q)
    for found in held[::2]:
        found.turns[0].behaviour = "explore"
    mask = np.repeat([index % 2 == 1 for index in range(len(held))], [len(found.turns) for found in held])
    got = advantage_correlation(funnel, train, held, q, v, 0.95)
    assert got == pytest.approx(advantage_correlation(funnel, train, held[1::2], q[mask], v[mask], 0.95))
    for found in held:
        found.turns[0].behaviour = "explore"
    assert advantage_correlation(funnel, train, held, q, v, 0.95) is None
