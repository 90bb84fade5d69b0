"""How far a policy is from the writers of a log, and how many things it knows to say."""

import math
from typing import Any

import pytest
import torch
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.evaluation.imitation import SAMPLES, imitation
from ippo_trainer.models.load import build_tiny
from ippo_trainer.sft.trainer import SupervisedFit, SupervisedSettings
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import training_rows
from ippo_trainer.text.tokenizer import build_tokenizer

SAYS = {"ann": ("yes we have tea", "which tea do you like"), "bob": ("good bye my friend",)}


def log(writer: str, count: int) -> list[Conversation]:
    said = SAYS[writer]
    return [
        Conversation(
            f"{writer}{number}",
            [Turn("do you have tea", said[number % len(said)], "accepted", "x", behaviour="log", writer=writer)],
        )
        for number in range(count)
    ]


def policy(writer: str, updates: int) -> tuple[Any, Renderer]:
    tokenizer = build_tokenizer(["do you have tea", *SAYS["ann"], *SAYS["bob"]] * 3)
    renderer = Renderer(tokenizer, "", 64)
    model = build_tiny("tiny:d16-l1-h2", tokenizer, 1)
    tokenizer.pad_token_id = tokenizer.pad_token_id or 0
    if updates:
        rows = [row for each in log(writer, 8 * updates) for row in training_rows(renderer, each).rows]
        SupervisedFit(model, rows, SupervisedSettings(1, 0.02, 8, 1, tokenizer.pad_token_id)).run(lambda: None)
    return model.eval(), renderer


def test_a_policy_is_near_those_whom_it_imitates_and_far_from_others() -> None:
    figures = imitation(*policy("ann", 200), log("ann", 10) + log("bob", 10))
    assert figures["byWriter"]["ann"] < 1.3
    assert figures["byWriter"]["bob"] > 3 * figures["byWriter"]["ann"]
    assert figures["byWriter"]["ann"] < figures["perplexity"] < figures["byWriter"]["bob"]
    assert figures["turns"] == figures["states"] == 20
    assert 1.5 < figures["alternatives"] <= SAMPLES


def test_a_policy_that_knows_one_thing_only_says_so() -> None:
    figures = imitation(*policy("bob", 200), log("bob", 10))
    assert figures["oneSuggestion"] >= 8
    assert figures["alternatives"] < 1.3


def test_perplexity_is_per_token_of_what_was_written() -> None:
    model, renderer = policy("ann", 0)
    [conversation] = log("ann", 1)
    figures = imitation(model, renderer, [conversation])
    prompt = renderer.prompt_at(conversation, 0).ids
    response = renderer.response(conversation.turns[0].suggestion)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
    total = sum(float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(response))
    assert figures["perplexity"] == pytest.approx(math.exp(-total / len(response)), rel=1e-4)
    shares = [response.count(token) / len(response) for token in response]
    assert figures["byFrequency"] == pytest.approx(math.exp(-sum(map(math.log, shares)) / len(response)))


def test_nothing_suggested_has_no_perplexity() -> None:
    silent = Conversation("a", [Turn("do you have tea", None, "rejected", "x", behaviour="log")])
    figures = imitation(*policy("ann", 0), [silent])
    assert (figures["turns"], figures["perplexity"], figures["states"]) == (0, None, 1)
