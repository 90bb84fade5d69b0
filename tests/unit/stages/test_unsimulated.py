"""What a log is compared with before a candidate is deployed."""

from typing import Any

import pytest
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.evaluation.divergence import suggestion_logprobs
from ippo_trainer.models.load import load_policy
from ippo_trainer.models.packing import Group
from ippo_trainer.stages.unsimulated import _drawn_in_full, _log_ratios
from ippo_trainer.store.artifact import fetch
from ippo_trainer.text.render import Renderer


def test_a_policy_is_as_likely_as_itself_by_contexts_and_tools_too(small_world: Any) -> None:
    folder = small_world.folder / "policy-to-ask"
    fetch(small_world.store, small_world.put_policy(1), folder, "policy")
    policy = load_policy(folder)
    renderer, ids = Renderer.load(folder, policy.tokenizer), [5, 6, 7]
    log = []
    for number in range(2):
        turn = Turn("tea?", "yes", "accepted", "yes", token_ids=ids, tool_messages=("in stock: 3",))
        log.append(Conversation(str(number), [turn], context="Ann likes green tea."))
        prompt = renderer.prompt(*log[-1].state(0)).ids
        [[logprob]] = suggestion_logprobs([policy.model], [Group(prompt, [ids])], 1.0)
        turn.sampler_logprobs = [float(logprob) / 3] * 3
    [ratios], known = _log_ratios(log, renderer, [policy.model], 1.0)
    assert known
    assert ratios.tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    log[1].turns[0].sampler_logprobs = None
    [ratios], known = _log_ratios(log, renderer, [policy.model], 1.0)
    assert not known
    assert ratios.tolist() == [0.0, 0.0], "the last policy stands for whoever wrote it"


def test_conversations_of_personas_are_left_out_of_what_asks_how_likely_they_were() -> None:
    """A persona with `minP` can say less than the policy, and what it cannot say no weight makes up for."""
    own, other = Turn("tea?", "yes", "accepted", "yes"), Turn("tea?", "no", "accepted", "no", behaviour="explore")
    talks = [[own], [other, other], [own, own], [other, own]]
    assert _drawn_in_full([Conversation(str(n), turns) for n, turns in enumerate(talks)]) == [0, 2]
