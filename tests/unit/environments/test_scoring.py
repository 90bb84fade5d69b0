"""A policy scored by the performance-difference lemma, by representative texts and by plain counting: all agree."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.catalogue.environment import CatalogueShop
from ippo_trainer.environments.funnel.environment import Funnel
from ippo_trainer.environments.funnel.tables import INTENTS, TYPES
from ippo_trainer.environments.funnel.text import SIGNALS, STATUS, SUGGESTIONS
from ippo_trainer.environments.garden.environment import Garden
from ippo_trainer.environments.maze.environment import Maze
from ippo_trainer.environments.problem import evaluate, greedy, tabulate
from ippo_trainer.environments.scoring import UNPARSED

from tests.unit.environments.representatives import History, representatives, score_by_texts

Play = Callable[..., list[Conversation]]
Rule = Callable[[Sequence[Turn], str], str]
"""History and newest message -> intent, or UNPARSED."""
DISCOUNT = 0.95
COUNT = 12_000


LIMITS: list[tuple[Any, str, int]] = [
    (Funnel, "horizon", 64),
    (Garden, "horizon", 64),
    (CatalogueShop, "horizon", 16),
    (Maze, "max_turns", 1000),
]


def ask_then_close(turns: Sequence[Turn], message: str) -> str:
    return "CLOSE" if any(status in message for stage in STATUS[1:] for status in stage) else "ASK"


def sell_by_type(turns: Sequence[Turn], message: str) -> str:
    """Reads every signal of the history: offers a discount or features to whom they please, then closes."""
    if any(status in message for status in STATUS[2]):
        return "CLOSE"
    said = [turn.customer_message for turn in turns] + [message]
    counts = [sum(hint in text for hint in hints for text in said) for hints in SIGNALS]
    if not any(counts):
        return "ASK"
    return {"price": "DISC", "feature": "FEAT", "impatient": "CLOSE"}[TYPES[int(np.argmax(counts))]]


def moody(turns: Sequence[Turn], message: str) -> str:
    """Depends on the wording, on reactions and on its own silence, which no information state knows."""
    letters = sum(map(ord, message)) + len(turns) + sum(turn.reaction == "edited" for turn in turns)
    return ("ASK", "CLOSE", "ABSTAIN", "FEAT", UNPARSED, "CLOSE", "ASK")[letters % 7]


def render(intent: str, turns: Sequence[Turn]) -> str | None:
    if intent == "ABSTAIN":
        return None
    return "blah" if intent == UNPARSED else SUGGESTIONS[intent][len(turns) % 5]


def one_hot(rule: Rule) -> Callable[[list[History]], np.ndarray]:
    def intents(histories: list[History]) -> np.ndarray:
        names = [rule(history.turns, history.customer_message) for history in histories]
        return np.array([[float(i == ("ABSTAIN" if name == UNPARSED else name)) for i in INTENTS] for name in names])

    return intents


def agent(rule: Rule) -> Callable[[list[tuple[Sequence[Turn], str]]], list[str | None]]:
    return lambda histories: [render(rule(turns, message), turns) for turns, message in histories]


def counted(conversations: Sequence[Conversation]) -> tuple[float, float]:
    returns = np.array([DISCOUNT ** (len(c.turns) - 1) if c.outcome else 0.0 for c in conversations])
    return float(returns.mean()), float(returns.std(ddof=1) / math.sqrt(len(returns)))


@pytest.fixture(scope="module")
def env() -> Funnel:
    return Funnel()


@pytest.mark.parametrize(("rule", "by_texts"), [(ask_then_close, True), (sell_by_type, False), (moody, False)])
def test_three_ways_to_score_a_text_policy_agree(env: Funnel, play: Play, rule: Rule, by_texts: bool) -> None:
    conversations = play(env, range(COUNT), agent(rule))
    score = env.score(conversations, DISCOUNT)
    value, error = counted(conversations)
    assert abs(score.value - value) < 4 * error
    assert score.standard_error < error / 2
    assert abs(score.success - np.mean([c.outcome for c in conversations])) < 4 * error / DISCOUNT**5
    exact, _ = score_by_texts(env, one_hot(rule), DISCOUNT)
    # A policy that is no function of the information state is scored by texts up to the choice of the texts.
    tolerance = 4 * score.standard_error if by_texts else 4 * score.standard_error + 0.01
    assert abs(score.value - exact) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("rule", [ask_then_close, sell_by_type, moody])
def test_a_million_simulated_conversations_agree(env: Funnel, play: Play, rule: Rule) -> None:
    score = env.score(play(env, range(20_000), agent(rule)), DISCOUNT)
    returns = []
    for part in range(20):
        seeds = range(10**9 + part * 50_000, 10**9 + (part + 1) * 50_000)
        conversations = play(env, seeds, agent(rule))
        returns += [DISCOUNT ** (len(c.turns) - 1) if c.outcome else 0.0 for c in conversations]
    error = math.hypot(score.standard_error, np.std(returns) / math.sqrt(len(returns)))
    assert abs(score.value - np.mean(returns)) < 4 * error


def test_where_the_loss_is(env: Funnel, play: Play) -> None:
    score = env.score(play(env, range(COUNT), agent(ask_then_close)), DISCOUNT)
    assert sum(score.loss_by_turn) == pytest.approx(score.optimum - score.value, abs=0.004)
    assert sum(score.loss_by_stage.values()) == pytest.approx(sum(score.loss_by_turn), abs=1e-12)
    assert min(score.loss_by_turn) >= -1e-12
    assert score.loss_by_turn[0] == pytest.approx(0, abs=1e-12)  # asking first is optimal
    assert score.loss_by_stage["needs-known"] > 0.05  # but closing at once wastes the knowledge
    assert score.intent_mix["cold"]["ASK"] == 1
    assert score.intent_mix["needs-known"]["CLOSE"] == 1
    assert 0.7 < score.share_of_optimum < 0.78  # the plateau of asking and closing


def test_the_score_of_the_optimal_policy_is_the_optimum_without_noise(env: Funnel, play: Play) -> None:
    table = greedy(env.optimum(DISCOUNT))

    def optimal(histories: list[tuple[Sequence[Turn], str]]) -> list[str | None]:
        trace = env.trace(
            [Conversation("", [*turns, Turn(message, None, "rejected", "")]) for turns, message in histories]
        )
        last = np.flatnonzero(np.append(np.diff(trace.conversation), 1))
        chosen = [int(table[trace.turn[i]][trace.state[i]].argmax()) for i in last]
        return [render(INTENTS[index], turns) for index, (turns, _) in zip(chosen, histories, strict=True)]

    score = env.score(play(env, range(500), optimal), DISCOUNT)
    assert abs(score.value - score.optimum) < 4 * score.standard_error
    assert score.standard_error < 0.003  # counting outcomes would have .018
    assert score.to_json()["shareOfOptimum"] == pytest.approx(1, abs=0.02)
    assert max(map(abs, score.loss_by_turn)) < 1e-12


def test_exact_intent_probabilities_have_less_noise_than_sampled_intents(env: Funnel, play: Play) -> None:
    conversations = play(env, range(COUNT), lambda histories: env.demonstrate())
    turns = sum(len(c.turns) for c in conversations)
    sampled = env.score(conversations, DISCOUNT)
    exact = env.score(conversations, DISCOUNT, np.tile(env.tables.base_policy, (turns, 1)))
    truth = next(row for row in env.ladder(DISCOUNT) if row.name == "base")
    for score in (sampled, exact):
        assert abs(score.value - truth.value) < 4 * score.standard_error
        assert abs(score.success - truth.success) < 4 * score.success_error
    assert exact.standard_error < sampled.standard_error / 4 < 0.0005
    with pytest.raises(ValueError, match="probabilities of shape"):
        env.score(conversations, DISCOUNT, np.ones((1, 6)))


@pytest.mark.parametrize("seed", [0, 1])
def test_representatives_stand_for_their_own_states(env: Funnel, seed: int) -> None:
    for level, histories in enumerate(representatives(env.problem, env.tables, seed)):
        closed = [
            Conversation(str(i), [*h.turns, Turn(h.customer_message, None, "rejected", "")])
            for i, h in enumerate(histories)
        ]
        trace = env.trace(closed)
        here = trace.turn == level
        assert trace.state[here].tolist() == list(range(len(env.problem.levels[level].stage)))


def test_representative_texts_reproduce_a_tabular_policy_exactly(env: Funnel) -> None:
    scores = score_by_texts(env, lambda histories: np.tile(env.tables.base_policy, (len(histories), 1)), DISCOUNT)
    base = next(row for row in env.ladder(DISCOUNT) if row.name == "base")
    assert scores == pytest.approx((base.value, base.success), abs=1e-12)


def test_exact_q_of_a_given_and_of_a_shown_policy(env: Funnel, play: Play) -> None:
    conversations = play(env, range(COUNT), lambda histories: env.demonstrate())
    given = env.exact_q(
        conversations, DISCOUNT, lambda turn, stage, belief: np.tile(env.tables.base_policy, (len(stage), 1))
    )
    shown = env.exact_q(conversations, DISCOUNT)
    first = given[0][0]
    truth = evaluate(env.problem, env.problem.by_stage(env.problem.base), DISCOUNT)
    assert first.state == pytest.approx((0, 0, 1 / 3, 1 / 3, 1 / 3))
    assert first.intent == env.intent_of(conversations[0].turns[0].suggestion)
    assert list(first.q_policy.values()) == pytest.approx(truth.q[0][0].tolist())
    pairs = [(a, b) for x, y in zip(given, shown, strict=True) for a, b in zip(x, y, strict=True)]
    gap = max(abs(a.q_policy[intent] - b.q_policy[intent]) for a, b in pairs for intent in INTENTS)
    assert gap < 0.08
    assert np.mean([abs(a.v_policy - b.v_policy) for a, b in pairs]) < 0.004


def test_shown_intents_are_the_state_where_there_is_data_and_its_group_where_there_is_none(
    env: Funnel, play: Play
) -> None:
    conversations = play(env, range(4000), agent(ask_then_close))
    tables = env.shown_intents(env.trace(conversations))
    ask, close = INTENTS.index("ASK"), INTENTS.index("CLOSE")
    assert tables[0][0][ask] > 0.99
    for level, table in zip(env.problem.levels, tables, strict=True):
        assert table.sum(-1) == pytest.approx(1)
        assert (table[level.stage == 0, ask] > 0.9).all()
        assert (table[level.stage == 1, close] > 0.9).all()


def broken(field: str, value: Any, turn: int = 0) -> Conversation:
    turns = [
        Turn("hello i saw your shop", "what do you need it for", "accepted", "what do you need it for"),
        Turn("yes you know what i need now i want a very good quality", None, "rejected", "how are you doing today"),
    ]
    setattr(turns[turn], field, value)
    return Conversation("c7", turns)


@pytest.mark.parametrize(
    ("conversation", "problem"),
    [
        (broken("sent_message", "something else"), "conversation c7, turn 0: the sent message 'something else'"),
        (broken("customer_message", "what?", 1), "conversation c7, turn 0: the customer's answer 'what"),
        (broken("sent_message", "how are you doing today"), "impossible after CHAT"),
        (broken("customer_message", "i got the offer", 1), "impossible after ASK"),
        (Conversation("c8", []), "conversation c8 has 0 turns"),
        (Conversation("c9", broken("displayed", True).turns * 4), "conversation c9 has 8 turns"),
        (Conversation("c9", broken("displayed", True).turns, censored=True), "conversation c9 is censored"),
    ],
)
def test_conversations_of_another_world_are_named(env: Funnel, conversation: Conversation, problem: str) -> None:
    with pytest.raises(BadDataError, match=re.escape(problem)):
        env.score([conversation, conversation], DISCOUNT)


def test_one_conversation_has_no_standard_error(env: Funnel) -> None:
    with pytest.raises(BadDataError, match="at least two"):
        env.score([broken("displayed", True)], DISCOUNT)


def test_the_maze_is_scored_by_the_same_code(play: Play) -> None:
    maze = Maze(max_turns=20)
    conversations = play(maze, range(3000), lambda histories: maze.demonstrate())
    score = maze.score(conversations, DISCOUNT)
    truth = next(row for row in maze.ladder(DISCOUNT) if row.name == "base")
    assert abs(score.value - truth.value) < 4 * score.standard_error
    assert abs(score.success - truth.success) < 4 * score.success_error
    assert set(score.intent_mix) == {"left arm", "right arm", "bar", "stem"}
    policy = np.tile(maze.problem.uniform[:1], (25, 1))
    assert evaluate(maze.problem, [policy] * 20, DISCOUNT).value == pytest.approx(truth.value, abs=1e-12)
    steps = maze.exact_q(
        conversations[:5], DISCOUNT, lambda turn, stage, cell: np.tile(maze.problem.uniform[:1], (len(stage), 1))
    )
    assert steps[0][0].v_policy == pytest.approx(
        evaluate(maze.problem, tabulate(maze.problem, lambda *_: policy), DISCOUNT).v[0][
            [tuple(f) for f in maze.problem.levels[0].features].index(steps[0][0].state[2:])
        ]
    )


@pytest.mark.parametrize(("environment", "option", "most"), LIMITS, ids=[row[0].__name__ for row in LIMITS])
def test_a_number_of_turns_has_its_limit(environment: Any, option: str, most: int) -> None:
    for wrong in (0, most + 1, True, "6"):
        with pytest.raises(BadSpecError, match=rf"environment\.options\.{option} is {wrong!r}"):
            environment(**{option: wrong})
    assert environment(**{option: most}).max_turns == most
