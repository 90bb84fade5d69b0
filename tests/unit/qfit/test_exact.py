"""A fitted Q beside the exact one: over what was said, and over everything that could have been."""

from typing import Any

import numpy as np
import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments import load
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.environments.funnel.environment import Funnel
from ippo_trainer.environments.problem import evaluate
from ippo_trainer.models.load import build_tiny, new_q
from ippo_trainer.qfit.exact import States, comparison_of, exact_states, read_intents
from ippo_trainer.qfit.examples import make_examples
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.targets import ReturnWeights, monte_carlo_targets
from ippo_trainer.stats.scores import Predictions, miscalibration
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def funnel() -> Any:
    return load(params.EnvironmentSpec(name="sr-funnel", options={"horizon": 4}))


@pytest.fixture(scope="module")
def data(funnel: Any) -> list[Conversation]:
    return demonstrate(funnel, range(600), "sr-funnel")


@pytest.fixture(scope="module")
def states(funnel: Any, data: list[Conversation]) -> States:
    found = exact_states(funnel, data[:450], data[450:], 0.95)
    assert found is not None
    return found


def exact_readings(funnel: Any, states: States) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    every = np.array([[turn.q_policy[intent] for intent in funnel.intents] for turn in states.exact])
    made = np.array([turn.q_policy[turn.intent] for turn in states.exact])
    return made, every, np.array([turn.v_policy for turn in states.exact])


def test_the_exact_q_is_like_itself_and_noise_is_not(funnel: Any, states: States) -> None:
    made, every, v = exact_readings(funnel, states)
    got = comparison_of(funnel, states, made, every, v)
    assert got is not None
    for likeness in (got.suggestions, got.intents):
        assert likeness.error == 0.0
        assert likeness.correlation == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    noise = comparison_of(funnel, states, rng.random(made.shape), rng.random(every.shape), v)
    assert noise is not None
    for likeness in (noise.suggestions, noise.intents):
        assert likeness.correlation is not None
        assert abs(likeness.correlation) < 0.2
        assert likeness.error > 0.3
    flat = comparison_of(funnel, states, v, np.repeat(v[:, None], every.shape[1], 1), v)
    assert flat is not None
    assert flat.suggestions.correlation is flat.intents.correlation is None
    assert set(flat.metrics()) == {"qError", "qErrorAllIntents"}


def test_a_q_that_is_wrong_only_on_what_the_policy_does_not_say_is_found_out(funnel: Any, data: Any) -> None:
    """The failure that the suggestions that were made hide: as the policy narrows, nobody looks at the rest."""
    narrow = [found for found in data if all(turn.suggestion is not None for turn in found.turns)]
    states = exact_states(funnel, narrow[50:], narrow[:50], 0.95)
    assert states is not None
    made, every, v = exact_readings(funnel, states)
    wrong = every.copy()
    wrong[:, funnel.intents.index("ABSTAIN")] += 0.3
    got = comparison_of(funnel, states, made, wrong, v)
    assert got is not None
    assert got.suggestions.correlation == pytest.approx(1.0)
    assert got.intents.correlation is not None
    assert got.intents.correlation < 0.6
    assert got.intents.error == pytest.approx(0.3 / np.sqrt(6))


def test_miscalibration_of_the_exact_q_is_no_error_and_of_another_at_most_its_error() -> None:
    """The lower end is above the true error in one of forty fits, or fewer."""
    funnel, above = Funnel(4), {"exact": 0, "shrunk": 0}
    solution = evaluate(funnel.problem, funnel.problem.by_stage(funnel.problem.base), 0.95)
    plain = ReturnWeights.of([], 0.95)
    for start in range(40):
        held = demonstrate(funnel, range(10_000 + 300 * start, 10_300 + 300 * start), "sr-funnel")
        trace = funnel.trace(held)
        q = np.array([solution.q[t][s, a] for t, s, a in zip(trace.turn, trace.state, trace.action, strict=True)])
        returns = np.array([target.value for found in held for target in monte_carlo_targets(found, plain)])
        for name, guess in (("exact", q), ("shrunk", 0.3 * q + 0.7 * q.mean())):
            got = miscalibration(Predictions(guess, returns, trace.turn, trace.conversation, np.ones(len(q))))
            above[name] += got.low > np.sqrt(np.mean(np.square(guess - q))) + 1e-12
    assert above["exact"] <= 4
    assert above["shrunk"] <= 1


def test_conversations_with_exploring_turns_are_left_out(funnel: Any) -> None:
    data = demonstrate(funnel, range(200), "sr-funnel")
    for found in data[150::2]:
        found.turns[0].behaviour = "explore"
    states = exact_states(funnel, data[:150], data[150:], 0.95)
    assert states is not None
    assert [found.id for found in states.conversations] == [found.id for found in data[151::2]]
    assert len(states.exact) == sum(len(found.turns) for found in states.conversations)
    for found in data:
        found.turns[0].behaviour = "explore"
    assert exact_states(funnel, data[:150], data[150:], 0.95) is None


def test_readings_are_those_of_the_suggestion_and_the_wordings(funnel: Any, data: list[Conversation]) -> None:
    texts = [text for found in data[:60] for turn in found.turns for text in (turn.customer_message, turn.sent_message)]
    tokenizer = build_tokenizer([*texts, *(text for texts in funnel.wordings.values() for text in texts)])
    renderer = Renderer(tokenizer, "", 256)
    model = new_q(build_tiny("tiny:d16-l1-h2", tokenizer, 0), 1)
    states = exact_states(funnel, data[:450], data[450:470], 0.95)
    assert states is not None
    made, every, v = read_intents(model, renderer, funnel, states, 1024)
    examples, _ = make_examples(states.conversations, renderer)
    expected = read_all(model, examples, 1024, torch.device("cpu"))
    assert made == pytest.approx(expected[0], abs=1e-6)
    assert v == pytest.approx(expected[1], abs=1e-6)
    assert every.shape == (len(v), len(funnel.intents))
    abstain = funnel.intents.index("ABSTAIN")
    silent = [number for number, turn in enumerate(states.exact) if turn.intent == "ABSTAIN"]
    assert silent
    assert every[silent, abstain] == pytest.approx(made[silent], abs=1e-6)
