"""The engine's edges: a full queue, requests that are given up, and an engine that fails."""

import asyncio

import pytest
import torch
from ippo_trainer.serve.engine import EngineDiedError, QueueFullError, ResponseSampling
from ippo_trainer.serve.slots import Entry, Slots
from ippo_trainer.serve.transformers_engine import EngineLimits, TransformersEngine

from tests.kit.chat import MAX_NEW, MAX_PROMPT, ask, run, user

SAMPLING = ResponseSampling(1, MAX_NEW, 1.0, 1.0, 7)


@pytest.fixture
def engine(policy, renderer):
    pad = policy.tokenizer.pad_token_id
    return TransformersEngine(policy.model, EngineLimits(MAX_PROMPT, MAX_NEW, 2, 1), renderer.stop_ids, pad)


async def all_of(engine, prompt, sampling=SAMPLING):
    return [token async for piece in engine.generate(prompt, sampling) for token in piece.ids]


def test_beyond_the_queue_a_request_is_refused_at_once(engine):
    async def check():
        waiting = asyncio.create_task(all_of(engine, [5, 6]))  # not started: it waits
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await all_of(engine, [5, 6])
        engine.start()
        assert await waiting
        assert await all_of(engine, [5, 6])
        await engine.stop()

    run(check())


def test_a_full_server_says_429_and_when_to_try_again(serving, engine):
    async def check():
        async with serving(engine=engine) as (client, _):
            engine.generate = busy
            async with client.post("/v1/chat/completions", json={"messages": [user("hello")]}) as response:
                assert response.status == 429
                assert response.headers["Retry-After"] == "1"
                assert (await response.json())["error"]["type"] == "rate_limit_error"

    async def busy(*_):
        raise QueueFullError
        yield

    run(check())


def test_a_request_that_is_given_up_frees_its_place(engine):
    async def check():
        waiting = asyncio.create_task(all_of(engine, [5, 6]))
        await asyncio.sleep(0)
        assert engine.waiting() == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert engine.waiting() == 0
        engine.start()
        for _ in range(6):
            pieces = engine.generate([5, 6], ResponseSampling(2, MAX_NEW, 1.0, 1.0, 7))
            await anext(pieces)
            await pieces.aclose()
        assert await asyncio.wait_for(all_of(engine, [5, 6], ResponseSampling(2, MAX_NEW, 1.0, 1.0, 7)), 60)
        await engine.stop()

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_fails_its_requests_and_the_servers_health(serving, engine, monkeypatch, stream):
    def fail(*_):
        raise RuntimeError("out of memory")

    async def check():
        async with serving(engine=engine) as (client, _):
            await ask(client, [user("hello")])
            monkeypatch.setattr(Slots, "step", fail)
            value = await ask(client, [user("hello")], 503, stream=stream)
            assert "out of memory" in value["error"]["message"]
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path)).status == 503
            await ask(client, [user("hello")], 503)

    run(check())


def test_a_failure_in_the_middle_of_a_stream_is_an_event_and_no_done(serving, engine, monkeypatch):
    step = Slots.step
    steps = []

    def fail_later(slots):
        steps.append(1)
        if len(steps) > 2:
            raise RuntimeError("out of memory")
        return step(slots)

    async def check():
        async with serving(engine=engine) as (client, _):
            monkeypatch.setattr(Slots, "step", fail_later)
            body = {"messages": [user("hello")], "stream": True, "n": 2}
            async with client.post("/v1/chat/completions", json=body) as response:
                text = await response.text()
            assert "out of memory" in text
            assert "[DONE]" not in text

    run(check())


def test_when_the_engine_is_stopped_open_requests_fail(engine):
    async def check():
        waiting = asyncio.create_task(all_of(engine, [5, 6]))
        await asyncio.sleep(0)
        engine._ending = True
        engine.start()
        with pytest.raises(EngineDiedError):
            await waiting

    run(check())


def test_a_draining_gateway_answers_and_closes_then_refuses(serving):
    async def check():
        async with serving() as (client, chat_server):
            chat_server.ending.draining = True
            assert (await client.get("/readyz")).status == 503
            async with client.post("/v1/chat/completions", json={"messages": [user("hello")]}) as response:
                assert response.status == 200
                assert response.headers["Connection"] == "close"
            chat_server.ending.closed = True
            await ask(client, [user("hello")], 503)

    run(check())


def test_a_client_that_hangs_up_cancels_its_request(serving, engine, monkeypatch):
    """The rows are free again although nobody read the answer."""

    async def check():
        going, started, gone = [], asyncio.Event(), asyncio.Event()

        async def endless(prompt, sampling):
            going.append(1)
            started.set()
            try:
                await asyncio.Event().wait()
                yield
            finally:
                going.pop()
                gone.set()

        async with serving(engine=engine) as (client, chat_server):
            monkeypatch.setattr(engine, "generate", endless)
            request = asyncio.create_task(ask(client, [user("hello")]))
            await started.wait()
            request.cancel()
            await asyncio.wait_for(gone.wait(), 60)
            await asyncio.wait_for(chat_server.ending.idle(), 60)
            assert not going
            text = await (await client.get("/metrics")).text()
            assert 'status="499"' in text

    run(check())


def test_sequences_of_many_lengths_do_not_disturb_each_other(policy, renderer):
    """Joining, leaving and moving rows changes nothing in what is drawn."""

    def prompt_of(number):
        return [4 + (number * step) % 90 for step in range(1, 3 + number % 17)]

    def alone(prompt, sampling):
        slots = Slots(policy.model, sampling.samples, 64, renderer.stop_ids, 0)
        return together(slots, [Entry("a", prompt, sampling)], [])["a"]

    def together(slots, first, later):
        tokens = {}
        slots.join(first)
        later = list(later)
        while slots.running:
            for drawn in slots.step():
                tokens.setdefault(drawn.owner, {}).setdefault(drawn.sample, []).append(drawn.token)
            while later and later[0].sampling.samples <= slots.free:
                slots.join([later.pop(0)])
        assert not later
        return tokens

    with torch.inference_mode():
        entries = [
            Entry(number, prompt_of(number), ResponseSampling(1 + number % 3, 3 + number % 9, 1.0, 1.0, number))
            for number in range(24)
        ]
        slots = Slots(policy.model, 5, 64, renderer.stop_ids, 0)
        tokens = together(slots, entries[:2], entries[2:])
        for entry in entries:
            assert tokens[entry.owner] == alone(entry.prompt, entry.sampling)


def test_a_draw_that_is_no_number_ends_no_engine(policy, renderer):
    """In fp32 this temperature is 0; requests are not let through with it."""
    with torch.inference_mode():
        slots = Slots(policy.model, 1, 64, renderer.stop_ids, 0)
        slots.join([Entry("a", [5, 6], ResponseSampling(1, 2, 1e-46, 1.0, 7))])
        [drawn] = slots.step()
    assert 0 <= drawn.token < policy.model.config.vocab_size
