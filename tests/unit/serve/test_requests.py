"""Every field of a chat request: what it may say, and the one sentence where it may not."""

import json

import pytest
from ippo_trainer.http.errors import RequestError
from ippo_trainer.serve.fields import NEUTRAL
from ippo_trainer.serve.requests import ChatRequest, parse, state_of

from tests.kit.chat import SYSTEM, ask, assistant, run, user

MESSAGES = [user("hi")]
OPENAI = {
    "audio": (None, {"voice": "x", "format": "wav"}),
    "frequency_penalty": (0, 0.5),
    "function_call": ("none", {"name": "f"}),
    "functions": ([], [{"name": "f"}]),
    "logit_bias": ({}, {"50256": -100}),
    "logprobs": (False, True),
    "max_completion_tokens": (5, -1),
    "max_tokens": (5, 0),
    "metadata": ({"a": "b"}, "x"),
    "modalities": (["text"], ["text", "audio"]),
    "model": ("demo", 7),
    "n": (1, 0),
    "parallel_tool_calls": (True, "yes"),
    "prediction": (None, {"type": "content", "content": "x"}),
    "presence_penalty": (0.0, -0.5),
    "prompt_cache_key": ("k", 1),
    "prompt_cache_retention": ("24h", 1),
    "reasoning_effort": ("none", "high"),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
    "safety_identifier": ("me", 1),
    "seed": (-7, 0.5),
    "service_tier": ("auto", 1),
    "stop": (["a", "b", "c", "d"], ["a", "b", "c", "d", "e"]),
    "store": (False, "no"),
    "stream": (False, "no"),
    "stream_options": ({"include_usage": True, "include_obfuscation": False}, {"include_obfuscation": True}),
    "temperature": (1, 2.5),
    "tool_choice": ("none", "required"),
    "tools": ([], [{"type": "function", "function": {"name": "f"}}]),
    "top_logprobs": (0, 5),
    "top_p": (1, 1.5),
    "user": ("me", 1),
    "verbosity": ("medium", "low"),
    "web_search_options": (None, {}),
}
"""Of OpenAI's reference, but `messages`: a value that passes, and one that does not."""
OTHERS = {
    "top_k": (-1, 50),
    "min_p": (0.1, 1.5),
    "repetition_penalty": (1.0, 1.1),
    "length_penalty": (1, 2),
    "min_tokens": (0, 3),
    "ignore_eos": (False, True),
    "stop_token_ids": ([], [2]),
    "skip_special_tokens": (True, False),
    "best_of": (1, 2),
    "use_beam_search": (False, True),
    "chat_template_kwargs": ({}, {"enable_thinking": True}),
    "chat_template": (None, "{{ x }}"),
    "guided_json": (None, {"type": "object"}),
    "priority": (0, 1),
    "mirostat_mode": (0, 2),
    "repeat_penalty": (1.0, 1.3),
    "anything_new": (None, 1),
    "context": ({"tea": 4.5}, 5),
    "return_record": (True, "yes"),
    "persona_instructions": ("Be brief.", "x" * 4097),
}
"""Of vLLM, llama.cpp and whatever comes."""
ALL = OPENAI | OTHERS


def body(**fields):
    return json.dumps({"messages": MESSAGES, **fields}).encode()


def refusal(**fields):
    with pytest.raises(RequestError) as caught:
        parse(body(**fields))
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("field", ALL)
def test_what_says_nothing_or_is_known_passes(field):
    good, _ = ALL[field]
    assert parse(body(**{field: good})).messages == parse(body()).messages
    assert parse(body(**{field: None})).messages == parse(body()).messages


@pytest.mark.parametrize("field", ALL)
def test_what_is_not_supported_is_named(field):
    error = refusal(**{field: ALL[field][1]})
    assert error.param == field
    assert str(error).startswith(field)


@pytest.mark.parametrize("field", sorted(set(NEUTRAL) - {name for name in NEUTRAL if "." in name}))
def test_every_neutral_value_passes_and_changes_nothing(field):
    plain = parse(body())
    for value in (*NEUTRAL[field], None):
        assert parse(body(**{field: value})) == plain
    assert str(refusal(**{field: {"of": "its own"}})).startswith(f"{field} is not supported")


def test_a_truth_is_no_number():
    assert refusal(presence_penalty=False).param == "presence_penalty"
    assert refusal(logprobs=0).param == "logprobs"


def test_no_bias_is_none():
    assert parse(body(logit_bias={"5": 0, "6": 0.0})) == parse(body())


def test_a_remedy_is_in_the_sentence():
    assert str(refusal(top_k=50)) == ("top_k is not supported by this server with this value: leave it out, or send -1")
    assert str(refusal(response_format={"type": "json_object"})).endswith('leave it out, or send {"type": "text"}')
    assert str(refusal(ignore_eos=True)).endswith("leave it out, or send false")
    assert str(refusal(audio={})).endswith("leave it out")
    assert str(refusal(anything_new=1)) == "anything_new is not supported by this server"
    error = refusal(stream_options={"include_usage": True, "include_obfuscation": True})
    assert str(error).startswith("stream_options.include_obfuscation is not supported")
    assert error.param == "stream_options"


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (["a", "b", "c", "d", "e"], "stop is not allowed: it holds 5 texts, at most 4 are taken"),
        ("", "stop is not allowed: it holds an empty text"),
        (["a", ""], "stop is not allowed: it holds an empty text"),
        (["a", 1], "stop is not allowed: it is a text or a list of texts"),
        (7, "stop is not allowed: it is a text or a list of texts"),
        ({"a": 1}, "stop is not allowed: it is a text or a list of texts"),
    ],
)
def test_stop_texts_get_the_right_sentence(stop, words):
    assert str(refusal(stop=stop)) == words


@pytest.mark.parametrize(("stop", "texts"), [("a", ["a"]), (["a", "b"], ["a", "b"]), ([], []), (None, [])])
def test_stop_texts_may_be_one_or_several(stop, texts):
    assert parse(body(stop=stop)).stop == texts


def test_every_field_that_is_known_is_in_the_table():
    assert set(ChatRequest.model_fields) - set(ALL) - {"messages", "request_id"} == set()


CLIENTS = {
    "openai, plain": {"model": "demo", "messages": MESSAGES},
    "openai, streaming with usage": {
        "model": "demo",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "langchain": {
        "model": "demo",
        "messages": MESSAGES,
        "n": 1,
        "stream": False,
        "temperature": 0.7,
        "logprobs": False,
    },
    "litellm": {"model": "demo", "messages": MESSAGES, "tools": [], "tool_choice": "none", "extra_headers": None},
    "open-webui": {"model": "demo", "messages": MESSAGES, "stream": True, "top_k": -1, "repetition_penalty": 1.0},
    "vllm's own": {
        "model": "demo",
        "messages": MESSAGES,
        "max_tokens": 5,
        "min_p": 0.0,
        "ignore_eos": False,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "logit_bias": {},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "seed": 1,
    },
}


@pytest.mark.parametrize("name", CLIENTS)
def test_what_usual_clients_send_is_answered(serving, name):
    async def check():
        async with serving() as (client, _), client.post("/v1/chat/completions", json=CLIENTS[name]) as response:
            assert response.status == 200, await response.text()

    run(check())


def test_an_answer_that_a_client_appends_as_it_got_it_is_read_again(serving):
    """`message.model_dump()` of the official client has all of its fields."""
    rest = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}

    async def check():
        async with serving() as (client, _):
            value = await ask(client, MESSAGES, seed=1)
            got = value["choices"][0]["message"] | rest
            await ask(client, [*MESSAGES, got, user("and tulips")], seed=1)

    run(check())


def test_fields_of_messages_that_say_nothing_change_no_state():
    plain = [{"role": "system", "content": SYSTEM}, user("hi"), assistant("hello"), user("tulips")]
    noisy = [message | {"name": "x", "refusal": None, "annotations": [], "tool_calls": []} for message in plain]
    assert state_of(noisy, SYSTEM) == state_of(plain, SYSTEM)


@pytest.mark.parametrize("field", ["name", "x", "content"])
@pytest.mark.parametrize(
    ("value", "words"),
    [("\\ud83d", "surrogate"), ("a\\udc00", "surrogate"), (None, "it holds NaN"), ("\ud800", "surrogate")],
)
def test_a_message_that_no_log_could_keep_is_refused(field, value, words):
    """Else the answer is given, and its line of the log is lost."""
    text = "NaN" if value is None else f'"{value}"'
    body = f'{{"messages": [{{"role": "user", "content": "hi", "{field}": {text}}}]}}'
    with pytest.raises(RequestError, match=words) as caught:
        parse(body.encode("utf-8", "surrogatepass"))
    assert caught.value.status == 400
