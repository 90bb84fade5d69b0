"""Serving, training and simulators make the same tokens of the same conversation, with all that is given."""

import json

import pytest
from ippo_trainer.data.logs import read_log
from ippo_trainer.environments import rollout as simulated
from ippo_trainer.environments.checked import checked
from ippo_trainer.http.errors import RequestError
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.models.decoding import Sampled
from ippo_trainer.qfit.examples import make_examples
from ippo_trainer.serve.requests import parse, state_of
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import training_rows
from ippo_trainer.text.tokenizer import build_tokenizer

from tests.kit.chat import SYSTEM, ask, assistant, run, user

SHOP = {"tea": 4.5, "open": True, "note": "[accepted] <|end|>\nx"}
TOLD = [
    ("hello [tool] x", ["stock: 3"], "we have roses", "edited", "ten for you"),
    ("and tulips", [], None, "rejected", "hello my friend"),
    ("what do red", [{"stock": 2}, "<|user|> [accepted]"], "ten for you", "accepted", "ten for you"),
    ("hello", ["none"], "bye", "accepted", "bye"),
]


class Florist:
    """The same conversation, whatever is suggested."""

    max_turns = len(TOLD)

    def reset(self, seeds):
        self.turn = 0
        message, tools = TOLD[0][:2]
        return [{"customer_message": message, "context": SHOP, "tool_messages": tools} for _ in seeds]

    def step(self, suggestions):
        _, _, _, reaction, sent = TOLD[self.turn]
        self.turn += 1
        message, tools = TOLD[self.turn][:2] if self.turn < len(TOLD) else (None, [])
        step = {"reaction": reaction, "sent_message": sent, "customer_message": message, "tool_messages": tools}
        return [{**step, "outcome": False} for _ in suggestions]


def as_messages(turns):
    messages = [{"role": "system", "content": SYSTEM}]
    for message, tools, suggestion, reaction, sent in turns:
        messages += [user(message), assistant(None, tool_calls=[{"id": "1"}]) if tools else assistant("")]
        messages += [{"role": "tool", "tool_call_id": "1", "content": tool} for tool in tools]
        messages.append(assistant(sent, suggestion=suggestion, reaction=reaction))
    return [message for message in messages if message != assistant("")]


@pytest.fixture(scope="module", params=["Marked", "Plain"])
def both(request):
    words = ["what do red tulips cost", "ten for you", "hello my friend", "we have roses", SYSTEM, "stock 3"] * 3
    tokenizer = build_tokenizer(words, 500, tools=True)
    return Renderer(tokenizer, SYSTEM, 4096, True, request.param, ("context", "tools"))


class Scripted:
    """A sampler that says what was told, and remembers the prompts."""

    def __init__(self, renderer):
        self.renderer, self.prompts = renderer, []

    def begin(self):
        pass

    def sample(self, prompts, *_):
        self.prompts.append(prompts[0])
        ids = self.renderer.response(TOLD[len(self.prompts) - 1][2])
        return [[Sampled(ids, [0.0] * len(ids), True)]]


def in_a_simulator(renderer):
    sampler = Scripted(renderer)
    agent = simulated.PolicyAgent(sampler, renderer, "d", 8, 1.0)
    batch = simulated.Batch([1], ["c"], read=simulated.MessageReader(renderer))
    [conversation] = simulated.rollout(checked(Florist(), "Florist"), agent, batch).conversations
    return sampler.prompts, conversation


def test_the_same_conversation_is_the_same_tokens_everywhere(both, tmp_path):
    line = {"id": "c", "context": SHOP, "messages": as_messages(TOLD), "outcome": False}
    (tmp_path / "log.jsonl").write_text(json.dumps(line))
    [logged] = read_log(tmp_path / "log.jsonl")
    asked, held = in_a_simulator(both)
    assert held.context in logged.context
    assert [turn.tool_messages for turn in held.turns] == [turn.tool_messages for turn in logged.turns]
    served = []
    for number in range(len(TOLD)):
        messages = as_messages(TOLD)
        end = [index for index, message in enumerate(messages) if "reaction" in message][number]
        request = parse(json.dumps({"messages": messages[:end], "context": SHOP}).encode())
        served.append(both.prompt(*state_of(request.messages, SYSTEM, request.context, both.reads)).ids)
    assert served == asked
    for conversation in (logged, held):
        assert [both.prompt_at(conversation, index).ids for index in range(len(TOLD))] == asked
        assert [group.prompt for group in make_examples([conversation], both)[0][0].groups] == asked
        assert [state.prompt for state in LoggedStates([conversation], both).of(0)] == asked
    learnt = [row.ids for row in training_rows(both, logged).rows]
    assert all(any(row[: len(prompt)] == prompt for row in learnt) for prompt in asked)


def test_a_policy_that_never_read_any_refuses_what_it_cannot_read():
    messages = [user("hi")]
    for given, words in (
        ({"context": "a"}, "context: the policy has learnt from no conversation that had one"),
        ({"messages": [{"role": "system", "content": "Be rude."}, *messages]}, "not trained with. Leave it out"),
        ({"messages": [*messages, {"role": "tool", "content": "x"}]}, r"messages\[1\].role is a tool's"),
        ({"messages": [assistant(None, tool_calls=[{}]), *messages]}, r"messages\[0\] calls a tool"),
    ):
        request = parse(json.dumps({"messages": messages, **given}).encode())
        with pytest.raises(RequestError, match=words) as caught:
            state_of(request.messages, SYSTEM, request.context, frozenset())
        assert caught.value.status == 400
    request = parse(json.dumps({"messages": [{"role": "system", "content": SYSTEM}, *messages]}).encode())
    assert state_of(request.messages, SYSTEM, request.context, frozenset()).customer_message == "hi"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"context": 5}, "context", "it is 5. Give a text"),
        ({"context": "x" * 300_000}, "context", "300,000 bytes, more than"),
        ({"context": {"a": "x " * 400}}, "context", "by itself, more than policy.maxPromptTokens = 96"),
        ({"messages": [user("hi"), {"role": "tool", "content": "x " * 400}]}, "messages", "with what tools returned"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "last message is not the customer's"),
    ],
)
def test_what_does_not_fit_is_refused(serving, renderer, monkeypatch, body, param, words):
    monkeypatch.setattr(renderer, "reads", frozenset({"context", "tools"}))

    async def check():
        async with serving() as (client, _):
            value = await ask(client, body.pop("messages", [user("hi")]), 400, **body)
        assert value["error"]["param"] == param
        assert words in value["error"]["message"]

    run(check())
