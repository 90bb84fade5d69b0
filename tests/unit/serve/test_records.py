"""What a gateway asks a server for: records, a min-p, and a persona's instructions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.models.decoding import Sampling
from ippo_trainer.serve.engine import ResponseSampling
from ippo_trainer.serve.slots import Entry, Slots
from ippo_trainer.serve.suggestion_log import SegmentLimits, SuggestionLog
from ippo_trainer.store import open_store

from tests.kit.chat import DIGEST, MAX_NEW, SYSTEM, ask, ask_streamed, assistant, run, user
from tests.unit.serve.test_suggestion_log import lines_in

HISTORY = [user("hello"), assistant("hi", suggestion="hey", reaction="edited"), user("roses")]
NAMED = {"metadata": {"conversation_id": "c 1", "customer_id": "u7"}, "seed": 3, "return_record": True}


def asked(serving, messages, stream=False, log=None, **body):
    async def go():
        async with serving(log=log) as (client, chat_server):
            answer = await (ask_streamed if stream else ask)(client, messages, **body)
            if chat_server.log is not None:
                chat_server.log.close(60)
            return answer

    return run(go())


@pytest.mark.parametrize("choices", [1, 3])
def test_an_answer_brings_the_record_that_a_log_would_hold(serving, tmp_path, choices):
    store = open_store(StoreLocation(directory=str(tmp_path)))
    answer = asked(
        serving,
        HISTORY,
        log=lambda metrics: SuggestionLog(store, metrics, SegmentLimits(seconds=3600.0)),
        n=choices,
        **NAMED,
    )
    records = answer["records"]
    assert [(each["id"], each["choice"]) for each in records] == [(answer["id"], index) for index in range(choices)]
    assert [each["suggestion"] for each in records] == [each["message"]["content"] for each in answer["choices"]]
    assert records == lines_in(tmp_path)
    assert (answer["conversation_id"], answer["turn"]) == ("c 1", 1)


def test_a_server_without_a_log_records_too(serving):
    [record] = asked(serving, HISTORY, **NAMED)["records"]
    assert (record["conversation_id"], record["customer_id"], record["turn"]) == ("c 1", "u7", 1)
    assert (record["policy_digest"], record["messages"], record["min_p"]) == (DIGEST, HISTORY, 0.0)
    assert len(record["logprobs"]) == len(record["token_ids"]) > 0


def test_nobody_else_gets_records(serving):
    plain = asked(serving, HISTORY, seed=3)
    assert "records" not in plain
    assert "conversation_id" not in plain
    assert all("records" not in event for event in asked(serving, HISTORY, stream=True, seed=3))


@pytest.mark.parametrize("choices", [1, 2])
def test_a_stream_brings_them_before_its_end(serving, choices):
    """Who logs them has them before a client can know that this was all."""
    events = asked(serving, HISTORY, stream=True, n=choices, stream_options={"include_usage": True}, **NAMED)
    [place] = [number for number, event in enumerate(events) if "records" in event]
    ends = [number for number, event in enumerate(events) for each in event["choices"] if each["finish_reason"]]
    assert len(ends) == choices
    assert place < max(ends)
    assert events[place]["choices"] == []
    records = events[place]["records"]
    for index in range(choices):
        texts = [
            each["delta"].get("content", "") for event in events for each in event["choices"] if each["index"] == index
        ]
        assert "".join(texts) == records[index]["suggestion"]
    assert {(event["conversation_id"], event["turn"]) for event in events} == {("c 1", 1)}


def test_instructions_stand_behind_the_system_prompt_and_not_in_the_record(serving, renderer):
    prompts = []

    class Watched:
        def __init__(self, engine):
            self._engine = engine

        def __getattr__(self, name):
            return getattr(self._engine, name)

        def generate(self, prompt, sampling):
            prompts.append(list(prompt))
            return self._engine.generate(prompt, sampling)

    async def go():
        async with serving() as (client, chat_server):
            object.__setattr__(chat_server.context, "engine", Watched(chat_server.context.engine))
            return await ask(client, [user("roses")], persona_instructions="Be brief.", **NAMED)

    [record] = run(go())["records"]
    assert prompts == [renderer.prompt([], "roses", (), "Be brief.").ids]
    assert prompts != [renderer.prompt([], "roses").ids]
    system = renderer.messages([], "roses", (), "Be brief.")[0]
    assert (system["role"], system["content"]) == ("system", f"{SYSTEM}\n\nBe brief.")
    assert record["context"] == ""
    assert "persona_instructions" not in record


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0.0, 0.02, 0.3, 1.0]), st.sampled_from([0.3, 1.0, 1.7]), st.integers(0, 2**32))
def test_what_is_below_min_p_is_never_drawn(policy, renderer, min_p, temperature, seed):
    """The slots draw from the stages' own distribution, and say how likely a token was in it."""
    with torch.inference_mode():
        slots = Slots(policy.model, 2, 64, renderer.stop_ids, 0)
        slots.join(
            [
                Entry("it", [5, 6], ResponseSampling(1, MAX_NEW, temperature, 1.0, seed, min_p)),
                Entry("another", [5, 7], ResponseSampling(1, MAX_NEW, 1.0, 1.0, seed)),
            ]
        )
        ids = [5, 6]
        how = Sampling(1, MAX_NEW, temperature, renderer.stop_ids, 0, min_p=min_p)
        while slots.running:
            for drawn in slots.step():
                if drawn.owner != "it":
                    continue
                table = how.scale(policy.model(torch.tensor([ids])).logits[0, -1:].float()).log_softmax(-1)[0]
                assert drawn.logprob == pytest.approx(float(table[drawn.token]), abs=1e-3)
                ids.append(drawn.token)
