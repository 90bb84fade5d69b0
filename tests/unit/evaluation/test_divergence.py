"""The KL against exact sums over every short suggestion."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.evaluation.divergence import kl_per_suggestion
from ippo_trainer.models.sampling import Sampling, sample

from tests.kit.tiny_models import tiny_model

VOCABULARY, STOP, LENGTH, TEMPERATURE = 5, 4, 2, 0.8
PROMPT = [1, 2, 3]


def policy(seed: int) -> Any:
    """A causal LM over five tokens with opinions."""
    return tiny_model("qwen2", VOCABULARY, seed, intermediate_size=16, initializer_range=0.4, pad_token_id=0)


class Constant:
    """Every state is the same prompt."""

    stop_ids = frozenset({STOP})
    tokenizer = type("Tokenizer", (), {"pad_token_id": 0})

    def prompt_at(self, conversation: Conversation, index: int) -> Any:
        return self.prompt(conversation.turns[:index], conversation.turns[index].customer_message)

    def prompt(self, history: list[Turn], message: str) -> Any:
        return type("Prompt", (), {"ids": PROMPT})


def suggestions() -> list[list[int]]:
    """Every suggestion of at most two tokens; the stop token ends it."""
    return [[STOP]] + [[first, second] for first, second in itertools.product(range(4), range(VOCABULARY))]


@torch.no_grad()
def distribution(model: Any) -> np.ndarray:
    """Exact probabilities of `suggestions()`, in float64 by plain forwards."""
    probabilities = []
    for ids in suggestions():
        logits = model(torch.tensor([PROMPT + ids])).logits[0].double() / TEMPERATURE
        logprobs = logits.log_softmax(-1)
        probabilities.append(sum(float(logprobs[len(PROMPT) - 1 + at, token]) for at, token in enumerate(ids)))
    return np.exp(probabilities)


def test_suggestions_are_all_there_are() -> None:
    assert distribution(policy(0)).sum() == pytest.approx(1, abs=1e-6)


def test_kl_covers_the_exact_one() -> None:
    candidate, current = policy(0), policy(1)
    p, q = distribution(candidate), distribution(current)
    exact = float((p * np.log(p / q)).sum())
    draws = sample(candidate, [PROMPT] * 600, range(600), Sampling(1, LENGTH, TEMPERATURE, {STOP}, 0))
    turns = [Turn("x", "y", "accepted", "z", token_ids=draw[0].ids) for draw in draws]
    conversations = [Conversation(str(start), turns[start : start + 2]) for start in range(0, 600, 2)]
    got = kl_per_suggestion(candidate, current, conversations, Constant(), TEMPERATURE, 0.99)
    assert got is not None
    assert got.low < exact < got.high
    assert got.high - got.low < exact
    same = kl_per_suggestion(candidate, candidate, conversations, Constant(), TEMPERATURE)
    assert same is not None
    assert same.estimate == same.low == same.high == 0.0


def test_kl_needs_tokens_of_two_conversations() -> None:
    model = policy(0)
    known, unknown = Turn("x", "y", "accepted", "z", token_ids=[1, STOP]), Turn("x", "y", "accepted", "z")
    assert kl_per_suggestion(model, model, [], Constant(), 1.0) is None
    assert (
        kl_per_suggestion(model, model, [Conversation("a", [known]), Conversation("b", [unknown])], Constant(), 1.0)
        is None
    )
