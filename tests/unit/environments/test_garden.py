"""The garden: its exact solution is what happens when it is played, and what it is made for holds."""

import numpy as np
import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.garden import rules
from ippo_trainer.environments.garden.environment import Garden
from ippo_trainer.environments.garden.rules import INTENTS, SENT, Plant
from ippo_trainer.environments.garden.text import SUGGESTIONS, WORDINGS, parse_advice, parse_owner
from ippo_trainer.environments.problem import Policy, evaluate, greedy, optimum

COUNT = 2000


@pytest.fixture(scope="module")
def garden() -> Garden:
    return Garden()


def play(garden: Garden, policy: Policy, seeds: range) -> list[Conversation]:
    """Conversations of a policy over information states."""
    conversations = [Conversation(str(seed)) for seed in seeds]
    waiting = list(zip(conversations, garden.reset(seeds), strict=True))
    rng, week = np.random.default_rng(0), 0
    while waiting:
        suggestions = []
        for plant in garden._plants:
            state = garden._places[week][plant]
            intent = INTENTS[rng.choice(len(INTENTS), p=policy[week][state])]
            suggestions.append(None if intent == "ABSTAIN" else SUGGESTIONS[intent][rng.integers(30)])
        still = []
        for (conversation, message), text, step in zip(waiting, suggestions, garden.step(suggestions), strict=True):
            conversation.turns.append(Turn(message, text, step.reaction, step.sent_message))
            conversation.outcome = step.outcome
            if step.customer_message is not None:
                still.append((conversation, step.customer_message))
        waiting, week = still, week + 1
    return conversations


def test_a_season_is_worth_what_the_solution_says(garden: Garden) -> None:
    """Of the optimum and of the base policy: the mean return of played conversations, and the estimate from them."""
    best = greedy(optimum(garden.problem, 0.95))
    for policy in (best, garden.problem.by_stage(garden.problem.base)):
        exact = evaluate(garden.problem, policy, 0.95).value
        conversations = play(garden, policy, range(COUNT))
        returns = np.array([0.95 ** (len(each.turns) - 1) * each.outcome for each in conversations])
        assert abs(returns.mean() - exact) < 4 * returns.std() / COUNT**0.5
        score = garden.score(conversations, 0.95)
        assert abs(score.value - exact) < 4 * score.standard_error + 1e-3
        assert score.standard_error < returns.std() / COUNT**0.5


def test_short_sight_gets_nowhere(garden: Garden) -> None:
    """What the environment is for: who looks at this week, at acceptance or at successes alone stays far behind."""
    values = {row.name: row.value for row in garden.ladder(0.95)}
    best = values["optimum"]
    assert values["base"] < 0.1 * best
    assert max(values["myopic"], values["most-accepted"]) < values["base"]
    assert values["filtered-bc-5"] < 0.6 * best
    assert 0.9 * best < values["greedy-1"] < best


def test_a_solution_by_hand() -> None:
    """The last week of a plant in bud: backward induction has nothing to add."""
    garden = Garden(horizon=6)
    solution, problem = optimum(garden.problem, 0.95), garden.problem
    last = problem.levels[-1]
    in_bud = last.features[:, 1] == rules.TOP
    assert in_bud.any()
    assert not solution.v[-1][~in_bud].any()
    for state in np.flatnonzero(in_bud):
        moisture = int(last.stage[state])
        sent = problem.response[moisture] @ np.array([rules.FLOWERS[s][moisture] for s in range(len(SENT))])
        assert solution.q[-1][state] == pytest.approx(sent)


def test_probabilities_are_some(garden: Garden) -> None:
    problem = garden.problem
    np.testing.assert_allclose(problem.response.sum(-1), 1)
    assert problem.start.sum() == pytest.approx(1)
    assert all(sum(row) == pytest.approx(1) for row in (*rules.BASE, *rules.OWN))
    for level in problem.levels[:-1]:
        leaves = np.array([[rules.leaves(Plant(*map(int, f)), s) for s in range(len(SENT))] for f in level.features])
        np.testing.assert_allclose(level.probability.sum(-1), (1 - level.outcome) * (1 - leaves))


def test_effects_come_late() -> None:
    moist = Plant(rules.MOIST, 1, 0, 0)
    fed = next(iter(rules.next_plants(moist, rules.FEED)))
    assert fed.feed == rules.FEEDING
    counts = []
    while fed.feed:
        counts.append(fed.feed)
        fed = next(iter(rules.next_plants(fed, rules.WAIT)))
    assert counts == [3, 2, 1]
    sizes = {after.size for after in rules.next_plants(Plant(rules.MOIST, rules.STALLS, 0, 1), rules.WAIT)}
    assert sizes == {rules.STALLS}  # never cut: it grows no larger, whatever it is fed
    assert all(after.cut == 0 for after in rules.next_plants(Plant(rules.MOIST, 0, 0, 0), rules.PRUNE))


def test_every_text_means_one_thing() -> None:
    for name, texts in SUGGESTIONS.items():
        assert len(set(texts)) == 30
        assert {parse_advice(text.upper() + " !") for text in texts} == {SENT.index(name)}
    assert all(parse_owner(text) == state for state, texts in WORDINGS.items() for text in texts)
    assert len({text for texts in WORDINGS.values() for text in texts}) == 144
    assert parse_advice("sing to it") is None


def test_conversations_depend_on_their_seed_and_suggestions_only() -> None:
    def season(seeds: list[int]) -> dict[int, list[str]]:
        garden = Garden(horizon=8)
        texts = {seed: [message] for seed, message in zip(seeds, garden.reset(seeds), strict=True)}
        waiting = list(seeds)
        while waiting:
            steps = garden.step(garden.demonstrate())
            for seed, step in zip(waiting, steps, strict=True):
                texts[seed] += [step.reaction, step.sent_message, str(step.customer_message), str(step.outcome)]
            waiting = [seed for seed, step in zip(waiting, steps, strict=True) if step.customer_message is not None]
        return texts

    together = season([3, 14, 15, 92])
    assert {seed: season([seed])[seed] for seed in together} == together


def test_conversations_of_another_world_are_named(garden: Garden) -> None:
    wait, seedling = SUGGESTIONS["WAIT"][0], WORDINGS[rules.DRY, 0][0]
    for turns, text in (
        ([Turn("hello", wait, "accepted", wait)], "turn 0: customer message 'hello'"),
        ([Turn(seedling, wait, "accepted", "sing")], "turn 0: the sent message 'sing'"),
        ([Turn(WORDINGS[rules.DRY, 3][0], wait, "accepted", wait)], "turn 0: no plant is like that"),
        ([], "has 0 turns"),
    ):
        with pytest.raises(BadDataError, match=text):
            garden.score([Conversation("c", turns)] * 2, 0.95)
