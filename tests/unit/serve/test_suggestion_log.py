"""The log of a server: what is written, when, and what a store that fails costs."""

import argparse
import gzip
import json
import threading
from typing import Any

import pytest
import torch
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.data.server_log import segments_in
from ippo_trainer.http import arguments
from ippo_trainer.serve.metrics import ServerMetrics
from ippo_trainer.serve.suggestion_log import SegmentLimits, SuggestionLog
from ippo_trainer.store import open_store
from ippo_trainer.store.base import ObjectExistsError

from tests.kit.chat import DIGEST, SYSTEM, ask, ask_streamed, assistant, run, user

QUICK = SegmentLimits(seconds=0.01, least_pause=0.01, most_pause=0.02)
SLOW = SegmentLimits(seconds=3600.0)


def lines_in(directory) -> list[dict[str, Any]]:
    return [json.loads(line) for path in segments_in(directory) for line in gzip.open(path, "rt")]


class FailingStore:
    """Fails so many puts; with `lost`, after it has stored what it was given."""

    def __init__(self, failures: int, lost: bool = False) -> None:
        self.failures, self.lost = failures, lost
        self.objects: dict[str, bytes] = {}
        self.tried: list[str] = []
        self.done = threading.Event()

    def put(self, key: str, source: bytes, *, if_absent: bool = False) -> None:
        assert if_absent
        self.tried.append(key)
        failing = len(self.tried) <= self.failures
        if failing and not self.lost:
            raise TryAgainError("the store does not answer", "Wait.")
        if key in self.objects:
            self.done.set()
            raise ObjectExistsError("it is there", "")
        self.objects[key] = source
        if failing:
            raise TryAgainError("the connection broke off", "Wait.")
        self.done.set()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for body in self.objects.values() for line in gzip.decompress(body).splitlines()]


@pytest.fixture
def metrics():
    return ServerMetrics(DIGEST, "demo", lambda: 0)


def shown(metrics: ServerMetrics, name: str) -> float:
    [line] = [line for line in metrics.render().decode().splitlines() if line.startswith(f"ippo_serve_log_{name} ")]
    return float(line.split()[1])


@pytest.mark.parametrize("lost", [False, True])
def test_a_segment_that_is_tried_again_comes_once(metrics, lost):
    store = FailingStore(3, lost)
    log = SuggestionLog(store, metrics.log(), QUICK)
    log.add({"id": "a"})
    assert store.done.wait(60)
    log.close(60)
    assert len(set(store.tried)) == 1
    assert store.records() == [{"id": "a"}]
    assert shown(metrics, 'records_total{outcome="written"}') == 1
    assert shown(metrics, "failures_total") == (1 if lost else 3)
    assert shown(metrics, "waiting_bytes") == 0


def test_memory_is_bounded_and_what_is_dropped_is_counted(metrics):
    store = FailingStore(10**9)
    log = SuggestionLog(store, metrics.log(), SegmentLimits(seconds=0.01, waiting_bytes=1000, least_pause=0.01))
    for number in range(100):
        log.add({"id": f"{number:085d}"})
        assert log._waiting <= 1000
    assert shown(metrics, 'records_total{outcome="dropped"}') == 90
    log.close(0.05)
    assert not store.objects


def test_segments_have_a_size_and_an_end_flushes_the_last(metrics, tmp_path):
    store = open_store(StoreLocation(directory=str(tmp_path)))
    log = SuggestionLog(store, metrics.log(), SegmentLimits(seconds=3600.0, segment_bytes=1000))
    for number in range(25):
        log.add({"id": f"{number:090d}"})
    log.close(60)
    assert [int(line["id"]) for line in lines_in(tmp_path)] == list(range(25))
    assert len(segments_in(tmp_path)) >= 2
    log.add({"id": "late"})
    assert shown(metrics, 'records_total{outcome="dropped"}') == 1


def test_two_servers_share_a_folder(metrics, tmp_path):
    store = open_store(StoreLocation(directory=str(tmp_path)))
    for number in range(3):
        log = SuggestionLog(store, ServerMetrics(DIGEST, "demo", lambda: 0).log(), SLOW)
        log.add({"id": number})
        log.close(60)
    assert sorted(line["id"] for line in lines_in(tmp_path)) == [0, 1, 2]


async def logged(serving, store, requests):
    """The answers to requests; the log is in the store by then."""
    answers = []
    async with serving(log=lambda metrics: SuggestionLog(store, metrics, SLOW)) as (client, chat_server):
        for messages, body in requests:
            asking = ask_streamed if body.get("stream") else ask
            body = {name: value for name, value in body.items() if name != "stream"}
            answers.append(await asking(client, messages, **body))
        chat_server.log.close(60)
    return answers


def test_what_a_line_says(serving, tmp_path, policy, renderer):
    """Log-probabilities are those of the model after temperature, tokens spell the suggestion."""
    store = open_store(StoreLocation(directory=str(tmp_path)))
    history = [user("hello"), assistant("hi", suggestion="hey", reaction="edited"), user("roses")]
    named = {"metadata": {"conversation_id": "c 1", "group": "vip"}, "user": "u7", "seed": 3}
    [whole, events] = run(
        logged(
            serving,
            store,
            [
                (history, named | {"temperature": 1.5, "n": 2}),
                (history, named | {"stream": True}),
            ],
        )
    )
    first, second, streamed = lines_in(tmp_path)
    assert whole["conversation_id"] == "c 1"
    assert events[0]["conversation_id"] == "c 1"
    assert [(line["id"], line["choice"]) for line in (first, second)] == [(whole["id"], 0), (whole["id"], 1)]
    assert streamed["id"] == events[0]["id"]
    prompt = renderer.prompt(*state(history)).ids
    for line in (first, second, streamed):
        assert (line["conversation_id"], line["named"], line["turn"]) == ("c 1", True, 1)
        assert (line["customer_id"], line["group"], line["policy_digest"]) == ("u7", "vip", DIGEST)
        assert (line["message"], line["messages"]) == ("roses", history)
        assert 0 < line["started_at"] <= line["time"]
        assert renderer.decode(line["token_ids"])[0] == line["suggestion"]
        ids = torch.tensor([prompt + line["token_ids"]])
        with torch.inference_mode():
            table = (policy.model(ids).logits[0].double() / line["temperature"]).log_softmax(-1)
        for place, (token, logprob) in enumerate(
            zip(line["token_ids"], line["logprobs"], strict=True), len(prompt) - 1
        ):
            assert table[place, token].item() == pytest.approx(logprob, abs=1e-4)
    assert [first["temperature"], streamed["temperature"]] == [1.5, 1.0]


def state(messages):
    from ippo_trainer.serve.requests import state_of

    return state_of(messages, SYSTEM)


@pytest.mark.parametrize(("top_p", "temperature"), [(0.3, 1.0), (1.0, 0.0), (0.6, 0.7)])
def test_log_probabilities_are_those_of_the_draw(serving, tmp_path, policy, renderer, top_p, temperature):
    store = open_store(StoreLocation(directory=str(tmp_path)))
    run(logged(serving, store, [([user("hello")], {"top_p": top_p, "temperature": temperature, "seed": 5})]))
    [line] = lines_in(tmp_path)
    prompt = renderer.prompt([], "hello").ids
    with torch.inference_mode():
        logits = policy.model(torch.tensor([prompt + line["token_ids"]])).logits[0].double()
    for place, (token, logprob) in enumerate(zip(line["token_ids"], line["logprobs"], strict=True), len(prompt) - 1):
        if temperature == 0:
            assert logprob == 0
            continue
        chances = (logits[place] / temperature).softmax(-1)
        ordered, total, kept = chances.sort(descending=True), 0.0, []
        for chance, index in zip(*ordered, strict=True):
            kept.append(int(index))
            total += float(chance)
            if total >= top_p:
                break
        assert token in kept
        assert logprob == pytest.approx(float((chances[token] / total).log()), abs=1e-3)


def test_a_request_without_a_name_gets_one(serving, tmp_path):
    store = open_store(StoreLocation(directory=str(tmp_path)))
    strange = [{"conversation_id": {"a": 1}}, {"conversation_id": "x" * 300}, {"conversation_id": "a\nb"}, {}]
    answers = run(logged(serving, store, [([user("hello")], {"metadata": each}) for each in strange]))
    names = [answer["conversation_id"] for answer in answers]
    assert len(set(names)) == 4
    assert [(line["conversation_id"], line["named"]) for line in lines_in(tmp_path)] == [(n, False) for n in names]


def test_a_stop_text_leaves_no_tokens(serving, tmp_path):
    """They spell more than was suggested."""
    store = open_store(StoreLocation(directory=str(tmp_path)))
    [plain] = run(logged(serving, store, [([user("hello")], {"seed": 4})]))
    text = plain["choices"][0]["message"]["content"]
    run(logged(serving, store, [([user("hello")], {"seed": 4, "stop": text[2:4]})]))
    stopped = next(line for line in lines_in(tmp_path) if line["suggestion"] != text)
    assert text.startswith(stopped["suggestion"])
    assert (stopped["token_ids"], stopped["logprobs"]) == (None, None)


def test_a_store_that_is_down_fails_no_request(serving):
    store = FailingStore(10**9)

    async def check():
        limits = SegmentLimits(seconds=0.001, waiting_bytes=2000)
        async with serving(log=lambda metrics: SuggestionLog(store, metrics, limits)) as (client, chat_server):
            for seed in range(20):
                await ask(client, [user("hello")], seed=seed)
            text = await (await client.get("/metrics")).text()
            chat_server.log.close(0.01)
        return text

    text = run(check())
    dropped = next(line for line in text.splitlines() if 'log_records_total{outcome="dropped"}' in line)
    assert 0 < float(dropped.split()[1]) < 20


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("file:///data/served", {"directory": "/data/served"}),
        ("s3://shop-bucket/served/", {"s3": {"bucket": "shop-bucket", "prefix": "served"}}),
        (
            '{"s3": {"bucket": "shop-bucket", "prefix": "a/served"}}',
            {"s3": {"bucket": "shop-bucket", "prefix": "a/served"}},
        ),
    ],
)
def test_where_a_log_may_be(text, location):
    assert arguments.place(text) == StoreLocation.model_validate(location)


@pytest.mark.parametrize("text", ["served", "http://shop/served", '{"s3": {}}', "{"])
def test_where_no_log_may_be(text):
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.place(text)
