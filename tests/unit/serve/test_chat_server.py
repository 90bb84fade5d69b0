import asyncio
import json
import threading

import pytest
from aiohttp import ClientError, web
from ippo_trainer.data.logs import read_log
from ippo_trainer.data.schema import Turn
from ippo_trainer.models.sampling import Sampling, sample

from tests.kit.chat import DIGEST, MAX_NEW, SYSTEM, ask, ask_streamed, assistant, run, user

TULIPS = [user("what do red tulips cost")]
LONGER = [user("hello"), assistant("hello my friend"), user("what do red tulips cost")]


def sampled(policy, renderer, history, message, seed, samples=1, temperature=1.0, max_new_tokens=MAX_NEW):
    """What the stages' own sampling says."""
    prompt = renderer.prompt(history, message)
    sampling = Sampling(samples, max_new_tokens, temperature, renderer.stop_ids, policy.tokenizer.pad_token_id)
    [responses] = sample(policy.model, [prompt.ids], [seed], sampling)
    return [(renderer.decode(response.ids)[0] or "", response) for response in responses]


def test_an_answer_has_the_shape_that_openai_clients_expect(serving, renderer):
    async def check():
        async with serving() as (client, _):
            value = await ask(client, TULIPS, model="demo", seed=1)
        assert value["object"] == "chat.completion"
        assert value["model"] == "demo"
        assert value["id"].startswith("chatcmpl-")
        [choice] = value["choices"]
        assert choice["message"]["role"] == "assistant"
        assert choice["finish_reason"] in ("stop", "length")
        usage = value["usage"]
        assert usage["prompt_tokens"] == len(renderer.prompt([], TULIPS[0]["content"]).ids)
        assert 1 <= usage["completion_tokens"] <= MAX_NEW
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    run(check())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.8])
def test_the_same_seed_gives_the_text_that_the_stages_sample(serving, policy, renderer, temperature):
    async def check():
        async with serving() as (client, _):
            for seed in range(12):
                value = await ask(client, TULIPS, seed=seed, temperature=temperature)
                expected = sampled(policy, renderer, [], TULIPS[0]["content"], seed, temperature=temperature)
                assert value["choices"][0]["message"]["content"] == expected[0][0]
                assert value["usage"]["completion_tokens"] == len(expected[0][1].ids)
                assert value["choices"][0]["finish_reason"] == ("stop" if expected[0][1].ended else "length")

    run(check())


def test_choices_are_the_samples_of_one_prompt(serving, policy, renderer):
    async def check():
        async with serving() as (client, _):
            value = await ask(client, TULIPS, seed=3, n=4)
        texts = [choice["message"]["content"] for choice in value["choices"]]
        assert texts == [text for text, _ in sampled(policy, renderer, [], TULIPS[0]["content"], 3, samples=4)]
        assert len(set(texts)) > 1

    run(check())


def test_the_prompt_is_what_a_log_of_the_same_conversation_gives(serving, renderer, tmp_path):
    """Accepted by default; `suggestion` and `reaction` say what else became of a suggestion, as in a log."""
    messages = [
        user("hello"),
        assistant("we have roses", suggestion="ten for you", reaction="edited"),
        {"role": "customer", "content": "and tulips"},
        assistant("hello my friend", suggestion=None),
        user("what do red"),
        assistant("ten for you"),
        user("hello"),
    ]
    line = {"conversation_id": "c", "messages": [*messages, assistant("bye")], "outcome": None}
    (tmp_path / "log.jsonl").write_text(json.dumps(line))
    [conversation] = read_log(tmp_path / "log.jsonl")
    expected = renderer.prompt(conversation.turns[:-1], "hello").ids
    seen = []

    async def check():
        async with serving() as (client, chat_server):
            engine = chat_server.context.engine
            generate = engine.generate
            engine.generate = lambda prompt, wishes: seen.append(list(prompt)) or generate(prompt, wishes)
            await ask(client, messages)
            await ask(client, [{"role": "system", "content": SYSTEM}, *messages])

    run(check())
    assert seen == [expected, expected]


@pytest.mark.parametrize("n", [1, 3])
def test_a_streamed_answer_is_the_whole_one_in_parts(serving, n):
    async def check():
        async with serving() as (client, _):
            for seed in range(8):
                whole = await ask(client, LONGER, seed=seed, n=n)
                events = await ask_streamed(client, LONGER, seed=seed, n=n, stream_options={"include_usage": True})
                *parts, usage = events
                assert usage["choices"] == []
                assert usage["usage"] == whole["usage"]
                assert {event["object"] for event in events} == {"chat.completion.chunk"}
                assert len({event["id"] for event in events}) == 1
                for choice in whole["choices"]:
                    mine = [e["choices"][0] for e in parts if e["choices"][0]["index"] == choice["index"]]
                    text = "".join(part["delta"].get("content", "") for part in mine)
                    assert mine[0]["delta"]["role"] == "assistant"
                    assert text == choice["message"]["content"]
                    assert mine[-1]["finish_reason"] == choice["finish_reason"]
                    assert mine[-1]["abstained"] == choice["abstained"]
                    assert all(part["finish_reason"] is None for part in mine[:-1])

    run(check())


def test_many_requests_at_once_get_the_answers_that_they_would_get_alone(serving):
    async def check():
        async with serving(rows=3) as (client, _):
            questions = [([*LONGER[: 2 * (i % 2)], user(f"hello {i}")], i) for i in range(24)]
            together = await asyncio.gather(*(ask(client, messages, seed=seed) for messages, seed in questions))
            alone = [await ask(client, messages, seed=seed) for messages, seed in questions]
        assert [value["choices"] for value in together] == [value["choices"] for value in alone]

    run(check())


def test_temperature_zero_is_greedy_and_a_tiny_top_p_too(serving):
    async def check():
        async with serving() as (client, _):
            greedy = {json.dumps((await ask(client, TULIPS, temperature=0, seed=s))["choices"]) for s in range(4)}
            nucleus = {json.dumps((await ask(client, TULIPS, top_p=1e-6, seed=s))["choices"]) for s in range(4)}
        assert len(greedy) == 1
        assert greedy == nucleus

    run(check())


def test_a_stop_text_ends_an_answer_before_it(serving):
    async def check():
        async with serving() as (client, _):
            for seed in range(20):
                full = (await ask(client, TULIPS, seed=seed))["choices"][0]["message"]["content"]
                if len(full) > 4:
                    break
            stop = full[2:4]
            for events in (None, "stream"):
                if events is None:
                    choice = (await ask(client, TULIPS, seed=seed, stop=stop))["choices"][0]
                    text, finish = choice["message"]["content"], choice["finish_reason"]
                else:
                    parts = [e["choices"][0] for e in await ask_streamed(client, TULIPS, seed=seed, stop=[stop, "zz"])]
                    text = "".join(part["delta"].get("content", "") for part in parts)
                    finish = parts[-1]["finish_reason"]
                assert text == full[: full.index(stop)]
                assert finish == "stop"

    run(check())


def test_max_tokens_cuts_an_answer(serving, policy, renderer):
    async def check():
        async with serving() as (client, _):
            for name in ("max_tokens", "max_completion_tokens"):
                value = await ask(client, TULIPS, seed=0, **{name: 1})
                assert value["usage"]["completion_tokens"] == 1

    run(check())


def test_an_answer_is_cut_at_the_servers_limit_whatever_is_asked(serving, policy, renderer):
    async def check():
        async with serving() as (client, _):
            for seed in range(6):
                value = await ask(client, TULIPS, seed=seed, max_tokens=100_000)
                [(text, response)] = sampled(policy, renderer, [], TULIPS[0]["content"], seed)
                [choice] = value["choices"]
                assert choice["message"]["content"] == text
                assert value["usage"]["completion_tokens"] == len(response.ids) <= MAX_NEW
                assert choice["finish_reason"] == ("stop" if response.ended else "length")
                cut.add(choice["finish_reason"])

    cut = set()
    run(check())
    assert "length" in cut


@pytest.mark.parametrize("temperature", [1e-46, 5e-324, 9e-6])
def test_temperatures_that_are_nothing_in_fp32_are_greedy(serving, temperature):
    async def check():
        async with serving() as (client, _):
            greedy = await ask(client, TULIPS, temperature=0, seed=1)
            assert (await ask(client, TULIPS, temperature=temperature, seed=2))["choices"] == greedy["choices"]
            assert (await client.get("/healthz")).status == 200

    run(check())


@pytest.mark.parametrize(
    "nothing", [assistant(""), assistant(None), assistant(" \n"), assistant([]), {"role": "assistant"}]
)
def test_an_abstention_that_a_client_kept_is_left_out(serving, renderer, nothing):
    """Ordinary clients append what they got; the customer, who got no answer, has spoken on."""
    messages = [user("hello"), nothing, user("what do red"), assistant("ten for you"), user("hello"), nothing]
    history = [Turn("hello\nwhat do red", "ten for you", "accepted", "ten for you")]
    expected = renderer.prompt(history, "hello\nand tulips").ids
    seen = []

    async def check():
        async with serving() as (client, chat_server):
            engine = chat_server.context.engine
            generate = engine.generate
            engine.generate = lambda prompt, wishes: seen.append(list(prompt)) or generate(prompt, wishes)
            await ask(client, [*messages, user("and tulips")])

    run(check())
    assert seen == [expected]


def test_while_a_long_conversation_is_read_probes_and_answers_go_on(serving, renderer, monkeypatch):
    make, reading, go_on, at_once = renderer.prompt, threading.Event(), threading.Event(), []

    def slow(*state):
        at_once.append(1)
        assert len(at_once) == 1  # the tokenizer reads one text at a time
        reading.set()
        assert go_on.wait(30)
        at_once.pop()
        return make(*state)

    async def check():
        async with serving() as (client, _):
            body = {"messages": TULIPS, "stream": True}
            async with client.post("/v1/chat/completions", json=body) as response:
                assert response.status == 200
                monkeypatch.setattr(renderer, "prompt", slow)
                waiting = [asyncio.create_task(ask(client, TULIPS)) for _ in range(3)]
                assert await asyncio.to_thread(reading.wait, 30)
                assert (await client.get("/healthz")).status == 200
                assert "[DONE]" in await response.text()
                assert not any(request.done() for request in waiting)
                go_on.set()
                await asyncio.gather(*waiting)

    run(check())


def test_models_names_the_digest_and_the_run(serving):
    async def check():
        async with serving() as (client, _):
            value = await (await client.get("/v1/models")).json()
            first, alias = value["data"]
            assert (first["id"], first["object"]) == (DIGEST, "model")
            assert (alias["id"], alias["root"], alias["parent"]) == ("demo", DIGEST, DIGEST)
            assert (await (await client.get("/v1/models/demo")).json())["root"] == DIGEST
            assert (await ask(client, TULIPS, model=DIGEST))["model"] == DIGEST
            assert (await ask(client, TULIPS))["model"] == DIGEST

    run(check())


def test_metrics_count_requests_and_tokens(serving):
    async def check():
        async with serving() as (client, _):
            value = await ask(client, TULIPS)
            await ask(client, [], 400)
            text = await (await client.get("/metrics")).text()
        assert 'ippo_serve_requests_total{status="200"} 1.0' in text
        assert 'ippo_serve_requests_total{status="400"} 1.0' in text
        assert f'ippo_serve_tokens_total{{kind="completion"}} {value["usage"]["completion_tokens"]}.0' in text
        assert "ippo_serve_request_seconds_count 2.0" in text
        assert "ippo_serve_ready 1.0" in text
        assert f'ippo_serve_policy_info{{digest="{DIGEST}",run="demo"}} 1.0' in text

    run(check())


REFUSED = [
    ({"messages": [user("hi")], "model": "gpt"}, 404, "model", "no model"),
    ({"messages": []}, 400, "messages", "messages"),
    ({}, 400, "messages", "messages"),
    ({"messages": [user("")]}, 400, "messages", "content is empty"),
    ({"messages": [user("hi"), assistant("yes")]}, 400, "messages", "last message"),
    ({"messages": [user("hi"), assistant(""), assistant("yes")]}, 400, "messages", "last message"),
    ({"messages": [user("hi"), assistant("", suggestion="yes"), user("hi")]}, 400, "messages", "[1].content is empty"),
    ({"messages": [user("hi"), assistant(None, reaction="edited"), user("hi")]}, 400, "messages", "[1].content is"),
    ({"messages": [user("hi"), assistant(""), user(" ")]}, 400, "messages", "messages[2].content is empty"),
    ({"messages": [user("hi"), assistant("", tool_calls=[{}]), user("hi")]}, 400, "messages", "calls a tool"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", "role"),
    ({"messages": [{"role": "system", "content": "Be rude."}, user("hi")]}, 400, "messages", "Leave it out"),
    ({"messages": [user("tulips " * 200)]}, 400, "messages", "policy.maxPromptTokens"),
    ({"messages": [user([{"type": "image_url", "image_url": {}}])]}, 400, "messages", "no text"),
    ({"messages": [user("hi")], "max_tokens": 0}, 400, "max_tokens", "greater"),
    ({"messages": [user("hi")], "temperature": 3}, 400, "temperature", "less than"),
    ({"messages": [user("hi")], "top_p": 0}, 400, "top_p", "greater"),
    ({"messages": [user("hi")], "n": 100}, 400, "n", "at most 4"),
    ({"messages": [user("hi")], "stop": ""}, 400, "stop", "empty"),
    ({"messages": [user("hi")], "presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
    ({"messages": [user("hi")], "top_k": 5}, 400, "top_k", "not supported"),
    ({"messages": [user("hi")], "tools": [{"type": "function"}]}, 400, "tools", "not supported"),
    ({"messages": [user("hi")], "response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
]


@pytest.mark.parametrize(("body", "status", "param", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_supported_is_refused_with_the_field(serving, body, status, param, words, stream):
    async def check():
        async with serving() as (client, _), client.post("/v1/chat/completions", json=body | {"stream": stream}) as r:
            error = (await r.json())["error"]
            assert r.status == status
            assert error["param"] == param
            assert words in error["message"]
            assert "\n" not in error["message"]

    run(check())


def test_neutral_settings_of_clients_are_accepted(serving):
    async def check():
        async with serving() as (client, _):
            await ask(
                client,
                [user([{"type": "text", "text": "hello"}])],
                frequency_penalty=0,
                presence_penalty=0.0,
                logit_bias={},
                tools=[],
                user="u",
                metadata={"a": "b"},
                response_format={"type": "text"},
                logprobs=False,
                temperature=1,
            )

    run(check())


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[1]", 400), (b"x" * (5 << 20), 413)])
def test_a_body_that_is_no_request_is_refused(serving, body, status):
    async def check():
        async with serving() as (client, _), client.post("/v1/chat/completions", data=body) as response:
            assert response.status == status
            assert (await response.json())["error"]["type"] == "invalid_request_error"

    run(check())


def test_a_body_that_is_not_as_it_says_is_refused(serving, caplog):
    async def check():
        headers = {"Content-Encoding": "gzip"}
        async with serving() as (client, _):
            async with client.post("/v1/chat/completions", data=b"{}", headers=headers) as response:
                error = (await response.json())["error"]
                assert (response.status, error["type"]) == (400, "invalid_request_error")
                assert "Content-Encoding" in error["message"]
            text = await (await client.get("/metrics")).text()
        assert 'ippo_serve_requests_total{status="400"} 1.0' in text
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    run(check())


def test_a_client_that_leaves_in_the_middle_of_a_stream_is_no_failure_of_the_server(serving, monkeypatch):
    async def gone(*_):
        raise ConnectionResetError("Cannot write to closing transport")

    async def check():
        async with serving() as (client, chat_server):
            monkeypatch.setattr(web.StreamResponse, "write", gone)
            with pytest.raises(ClientError):
                await ask_streamed(client, TULIPS)
            await chat_server.ending.idle()
            return chat_server.metrics.render().decode()

    assert 'ippo_serve_requests_total{status="499"} 1.0' in run(check())


def test_unknown_paths_and_methods_get_json_errors(serving):
    async def check():
        async with serving() as (client, _):
            for method, path, status, kind in (
                ("GET", "/v1/nothing", 404, "not_found_error"),
                ("GET", "/v1/chat/completions", 405, "invalid_request_error"),
            ):
                async with client.request(method, path) as response:
                    assert response.status == status
                    error = (await response.json())["error"]
                    assert path in error["message"]
                    assert error["type"] == kind

    run(check())
