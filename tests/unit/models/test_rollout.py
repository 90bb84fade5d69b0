"""Rollouts with a small environment of their own; SR-funnel's are among the stage tests."""

from collections import Counter
from itertools import pairwise

import pytest
from ippo_trainer.engines.transformers_sampler import TransformersSampler
from ippo_trainer.environments.protocol import Step
from ippo_trainer.environments.rollout import (
    Batch,
    ExploringAgent,
    OpenConversation,
    PolicyAgent,
    RolloutResult,
    Suggestion,
    rollout,
)
from ippo_trainer.models.load import build_tiny
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer


class Countdown:
    """The customer of seed s says `left n` from s % 5 + 1 down; at 0 he buys if s is even, and is cut off if s is 9."""

    max_turns = 4
    system_prompt = "Count ."

    def reset(self, seeds):
        self.open = [[seed, seed % 5 + 1] for seed in seeds]
        return [f"left {left}" for _, left in self.open]

    def step(self, suggestions):
        steps = []
        for (seed, left), suggestion in zip(self.open, suggestions, strict=True):
            over = left == 1
            message = None if over else f"left {left - 1}"
            reaction = "rejected" if suggestion is None else "accepted"
            censored = over and seed == 9
            steps.append(Step(reaction, f"sent {suggestion}", message, over and seed % 2 == 0, censored))
        self.open = [[seed, left - 1] for seed, left in self.open if left > 1]
        return steps


class Scribe:
    """Suggests what it was shown."""

    def __init__(self, digest="sha256:1", behaviour="policy"):
        self.seen = []
        self.digest, self.behaviour = digest, behaviour

    def __call__(self, states):
        self.seen.append(list(states))
        return [
            Suggestion(None if state.seed == 3 else f"{state.customer_message}!", self.digest, self.behaviour)
            for state in states
        ]


def held(seeds, agent) -> RolloutResult:
    return rollout(Countdown(), agent, Batch(seeds, [f"c{seed}" for seed in seeds]))


def test_each_conversation_runs_to_its_own_end():
    scribe = Scribe()
    over = []
    result = rollout(Countdown(), scribe, Batch(range(10), [f"c{seed}" for seed in range(10)]), over.append)
    assert [found.id for found in result.conversations] == [f"c{seed}" for seed in range(10)]
    # Seeds 4 and 9 need five turns and get four: over without outcome.
    assert [len(found.turns) for found in result.conversations] == [1, 2, 3, 4, 4, 1, 2, 3, 4, 4]
    assert [found.id for found in result.conversations if found.outcome] == ["c0", "c2", "c6", "c8"]
    assert over == [2, 2, 2, 4]
    third = result.conversations[2].turns
    assert [turn.customer_message for turn in third] == ["left 3", "left 2", "left 1"]
    assert [turn.suggestion for turn in third] == ["left 3!", "left 2!", "left 1!"]
    assert third[0].sent_message == "sent left 3!"
    assert result.conversations[3].turns[0].suggestion is None
    assert result.conversations[3].turns[0].reaction == "rejected"
    assert all(a.started_at < a.ended_at < b.started_at for a, b in pairwise(third))
    assert not any(turn.outcome for turn in third)


def test_a_conversation_that_is_cut_off_is_censored_not_lost(monkeypatch):
    monkeypatch.setattr(Countdown, "max_turns", 9)
    result = held([4, 9], Scribe())
    assert [(found.censored, found.outcome) for found in result.conversations] == [(False, True), (True, False)]


def test_exploration_is_drawn_for_every_turn_whatever_is_said():
    explorer = Scribe("sha256:2", "explore")
    result = held(range(3000), ExploringAgent(Scribe(), explorer, 0.3))
    turns = [(index, turn) for found in result.conversations for index, turn in enumerate(found.turns)]
    by_turn = Counter(index for index, _ in turns)
    explored = Counter(index for index, turn in turns if turn.behaviour == "explore")
    for index, count in by_turn.items():
        assert explored[index] / count == pytest.approx(0.3, abs=4 * (0.21 / count) ** 0.5)
    assert all((turn.policy_digest == "sha256:2") == (turn.behaviour == "explore") for _, turn in turns)
    alone = held([7], ExploringAgent(Scribe(), explorer, 0.3)).conversations[0]
    assert [turn.behaviour for turn in alone.turns] == [turn.behaviour for turn in result.conversations[7].turns]
    all_of_them = held(range(20), ExploringAgent(Scribe(), explorer, 1.0)).conversations
    assert all(turn.behaviour == "explore" for found in all_of_them for turn in found.turns)


@pytest.fixture(scope="module")
def agent():
    tokenizer = build_tokenizer(["Count . left 1 2 3 4 5 !", "sent None ! left"] * 2)
    model = build_tiny("tiny:d16-l1", tokenizer, 3)
    return PolicyAgent(TransformersSampler(model), Renderer(tokenizer, "Count .", 60), "sha256:3", 6, 1.0)


def test_a_policys_suggestions_do_not_depend_on_the_batch(agent):
    together = held(range(30), agent).conversations
    for seed in (0, 3, 17, 28):
        (alone,) = held([seed], agent).conversations
        for one, other in zip(alone.turns, together[seed].turns, strict=True):
            assert (one.suggestion, one.token_ids) == (other.suggestion, other.token_ids)
            assert one.sampler_logprobs == pytest.approx(other.sampler_logprobs, abs=1e-5)
    assert held(range(30), agent).conversations == together


@pytest.mark.parametrize("explores_first", [False, True])
def test_a_batch_is_the_same_whatever_was_held_before_it(agent, explores_first):
    """A collection that was killed between two batches goes on with a memory of nothing, also that of the agent which
    has no turn at first."""

    def exploring():
        both = [
            PolicyAgent(agent.sampler.twin(), agent.renderer, agent.digest, 6, 1.0, who)
            for who in ("policy", "explore")
        ]
        return ExploringAgent(*both, 0.3), both[0 if explores_first else 1]

    before, late = range(60), [OpenConversation(0, seed, [], "left 1") for seed in range(500)]
    alike = [state.seed for state in late if exploring()[0]._explores(state) == explores_first][:4]
    one, silent = exploring()
    held(before, one)
    assert silent.sampler.memory.entries  # the batch before ended with something remembered
    known = []
    silent.begin, begin = lambda: (begin(), known.append(len(silent.sampler.memory.entries))), silent.begin
    after = held(alike, one)
    assert known == [0]
    fresh, _ = exploring()
    assert after.conversations == held(alike, fresh).conversations


def test_what_the_agent_alone_saw_is_counted(agent):
    result = held(range(60), agent)
    turns = [turn for found in result.conversations for turn in found.turns]
    cut = [turn for turn in turns if turn.token_ids[-1] not in agent.renderer.stop_ids]
    assert 0 < result.truncated == len(cut)
    assert all(len(turn.token_ids) == 6 for turn in cut)
    dropped = sum(
        agent.renderer.prompt(found.turns[:index], turn.customer_message).dropped_turns
        for found in result.conversations
        for index, turn in enumerate(found.turns)
    )
    assert 0 < result.dropped_turns == dropped
    assert {turn.policy_digest for turn in turns} == {"sha256:3"}


def test_turns_of_one_conversation_have_luck_of_their_own(agent):
    state = OpenConversation(0, 5, [], "left 1")
    later = OpenConversation(0, 5, held([4], Scribe()).conversations[0].turns[:1], "left 1")
    same, again = agent([state]), agent([state])
    assert same == again
    suggestions = {agent([OpenConversation(0, seed, [], "left 1")])[0].text for seed in range(20)}
    assert len(suggestions) > 10
    assert agent([later])[0].text != same[0].text
