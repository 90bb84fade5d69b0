"""Targets are those of pi_i, whatever explored."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.data.censoring import UNCENSORED
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.live.conversations import fold
from ippo_trainer.live.events import Event
from ippo_trainer.live.standing import Rules
from ippo_trainer.qfit.targets import (
    RARE_WEIGHT,
    ReturnWeights,
    Target,
    emphasised,
    lambda_targets,
    monte_carlo_targets,
    success_unexplored,
)

from tests.kit.live_events import BEGIN, DAY, Chat


def conversation(behaviours: str, outcome: bool, name: str = "c") -> Conversation:
    """A conversation whose turns explore where `behaviours` has an x; another letter is who did."""
    turns = [
        Turn(
            customer_message="hello",
            suggestion="hi",
            reaction="accepted",
            sent_message="hi",
            behaviour="policy" if letter == "." else "explore",
            writer="" if letter in ".x" else letter,
        )
        for letter in behaviours
    ]
    return Conversation(id=name, turns=turns, outcome=outcome, censored=False)


def coin_of(share: float, discount: float) -> ReturnWeights:
    """Of a log in which every turn explores with this probability."""
    return ReturnWeights(discount, {None: 1.0 - share, "": 1.0 - share}, UNCENSORED)


def test_monte_carlo_returns_of_a_clean_conversation() -> None:
    targets = monte_carlo_targets(conversation("...", True), coin_of(0.0, 0.9))
    assert [target.value for target in targets] == pytest.approx([0.81, 0.9, 1.0])
    assert [target.weight for target in targets] == [1.0, 1.0, 1.0]
    assert [target.value for target in monte_carlo_targets(conversation("...", False), coin_of(0.0, 0.9))] == [0.0] * 3


def test_turns_before_an_exploring_one_are_left_out_and_the_rest_is_reweighted() -> None:
    targets = monte_carlo_targets(conversation("..x..", True), coin_of(0.2, 1.0))
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
    plain, whole = monte_carlo_targets(logged, coin_of(0.0, discount)), lambda_targets(logged, discount, 1.0, values)
    assert [target.value for target in whole] == pytest.approx([target.value for target in plain])


@given(st.text(".x", min_size=1, max_size=7), st.booleans(), st.floats(0, 1), st.floats(0, 1))
def test_targets_stay_inside_0_and_1(behaviours: str, outcome: bool, discount: float, trace: float) -> None:
    logged = conversation(behaviours, outcome)
    both = monte_carlo_targets(logged, coin_of(0.3, discount)) + lambda_targets(
        logged, discount, trace, [0.5] * len(behaviours)
    )
    assert all(0.0 <= target.value <= 1.0 for target in both)


DISCOUNT, TURNS = 0.9, 3
BUY, STAY = {True: 2, False: 1}, {True: 1, False: 2}
"""In quarters, by whether the turn explores: who does sells and scares off more."""
Joint = dict[str, int]
"""How many conversations of 256 would have whom at which turn: "." pi_i, "x" the explorer, a letter somebody."""


def chain(share_of_first: dict[str, float], share_after: dict[str, dict[str, float]]) -> Joint:
    """A Markov chain of who suggests."""
    joint = dict(share_of_first)
    for _ in range(TURNS - 1):
        joint = {
            path + name: share * after for path, share in joint.items() for name, after in share_after[path[-1]].items()
        }
    return {path: round(256 * share) for path, share in joint.items()}


def mixed(*parts: tuple[float, Joint]) -> Joint:
    joint: Joint = {}
    for share, part in parts:
        for path, count in part.items():
            joint[path] = joint.get(path, 0) + round(share * count)
    return joint


def coin(share: float) -> Joint:
    first = {".": 1 - share, "x": share}
    return chain(first, dict.fromkeys(".x", first))


def whole(name: str) -> Joint:
    return {name * TURNS: 256}


WHO = {
    "nobody else": whole("."),
    "a coin": coin(0.25),
    "personas": mixed((0.25, whole("p")), (0.25, whole("q")), (0.5, whole("."))),
    "personas without a name": mixed((0.25, whole("x")), (0.75, whole("."))),
    "a coin where no persona is": mixed((0.25, whole("p")), (0.75, coin(0.25))),
    "others by turn": chain({".": 0.5, "a": 0.5}, {".": {".": 0.75, "a": 0.25}, "a": {".": 0.25, "a": 0.75}}),
    "others by conversation": mixed((0.5, whole("a")), (0.5, whole("."))),
}


def of_a_gateway(behaviours: str, outcome: bool) -> Conversation:
    """As `conversation`, from events that a gateway logged."""
    chat, events = Chat("c"), list[Event]()
    for number, letter in enumerate(behaviours):
        events.append(chat.ask("hello", "hi", BEGIN + number, persona="" if letter == "." else letter))
        chat.send(events[-1])
    live = fold("c", [], events, Rules(1800.0, 7 * DAY), Counter())
    assert live is not None
    return replace(live.content, outcome=outcome, censored=False)


def everything(joint: Joint, make: Callable[[str, bool], Conversation] = conversation) -> list[Conversation]:
    """A log that has every possible conversation as often as it is likely; equal ones are one object."""
    log = []
    for path, count in joint.items():
        left = count * 4**TURNS
        for index in range(TURNS):
            explores = path[index] != "."
            bought, stays = BUY[explores], STAY[explores] * (index + 1 < TURNS)
            for outcome, quarters in ((True, bought), (False, 4 - bought - stays)):
                each = make(path[: index + 1], outcome)
                log += [each] * (left * quarters // 4)
            left = left * stays // 4
    return log


def exact_q() -> list[dict[bool, float]]:
    """By turn and whether it explores; pi_i goes on."""
    following, rows = 0.0, []
    for index in reversed(range(TURNS)):
        stays = {who: STAY[who] * (index + 1 < TURNS) / 4 for who in STAY}
        rows.append({who: BUY[who] / 4 + stays[who] * DISCOUNT * following for who in BUY})
        following = rows[-1][False]
    return rows[::-1]


def means(log: list[Conversation], target_of: Callable[[Conversation], list[Target]]) -> dict[tuple[int, str], float]:
    """Of targets, by turn and who suggested, where any has a weight."""
    sums: dict[tuple[int, str], np.ndarray] = {}
    counts = Counter(map(id, log))
    for each in {id(each): each for each in log}.values():
        for index, (turn, target) in enumerate(zip(each.turns, target_of(each), strict=True)):
            name = turn.writer or "x" if turn.behaviour == "explore" else "."
            row = sums.setdefault((index, name), np.zeros(2))
            row += counts[id(each)] * np.array([target.weight * target.value, target.weight])
    return {key: value / weight for key, (value, weight) in sums.items() if weight > 0}


@pytest.mark.parametrize(
    ("who", "make"), [*((who, conversation) for who in WHO), ("personas", of_a_gateway)], ids=[*WHO, "of a gateway"]
)
def test_both_targets_have_the_q_of_pi_i_as_their_expectation(
    who: str, make: Callable[[str, bool], Conversation]
) -> None:
    """Whoever else suggests, and however who suggests is drawn: by turn, by conversation, or either."""
    log, exact = everything(WHO[who], make), exact_q()
    weights = ReturnWeights.of(log, DISCOUNT)
    values = [row[False] for row in exact]
    for target_of in (
        lambda each: monte_carlo_targets(each, weights),
        lambda each: lambda_targets(each, DISCOUNT, 0.6, values[: len(each.turns)]),
    ):
        got = means(log, target_of)
        assert got == pytest.approx({(index, name): exact[index][name != "."] for index, name in got})
        assert {index for index, name in got if name == "."} == set(range(TURNS))
    success = success_unexplored(log, weights)
    assert success == pytest.approx(BUY[False] / 4 * sum((STAY[False] / 4) ** index for index in range(TURNS)))


@pytest.mark.parametrize("who", ["personas", "personas without a name", "others by conversation"])
def test_who_holds_whole_conversations_teaches_nothing_by_returns(who: str) -> None:
    log = everything(WHO[who])
    weights = ReturnWeights.of(log, DISCOUNT)
    assert {target.weight for each in log for target in monte_carlo_targets(each, weights)} == {0.0, 1.0}
    assert all(name == "." for _, name in means(log, lambda each: monte_carlo_targets(each, weights)))


def test_a_writer_whom_pi_i_hardly_ever_follows_weighs_nothing() -> None:
    """As where a persona is taken away while a few conversations are open: each would stand for hundreds."""
    log = [conversation("ppp", False)] * 300 + [conversation("pp.", True), conversation("...", True)]
    targets = monte_carlo_targets(log[-2], ReturnWeights.of(log, DISCOUNT))
    assert [target.weight for target in targets] == [0.0, 0.0, 1.0]


def test_an_unseen_suggestion_teaches_v_and_not_q() -> None:
    """It had no effect, so the return is one of the state; the turns before went through what really happened."""
    logged = conversation("...", True)
    logged.turns[1].displayed = False
    for targets in (monte_carlo_targets(logged, coin_of(0.0, 0.9)), lambda_targets(logged, 0.9, 0.5, [0.1] * 3)):
        assert [target.weight for target in targets] == [1.0, 0.0, 1.0]
        assert [target.value_weight for target in targets] == [1.0, 1.0, 1.0]


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
