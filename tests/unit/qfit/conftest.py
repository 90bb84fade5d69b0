"""Fixtures of the Q-fit tests: a toy conversation problem whose Q is known, and tiny models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.models.packing import Group
from ippo_trainer.qfit.examples import Example

from tests.kit.tiny_models import tiny_model

VOCABULARY = 24
GOOD, BAD, STOP = 20, 21, 22


def tiny_policy(tied: bool = True) -> Any:
    """A causal LM of width 16."""
    return tiny_model("qwen2", VOCABULARY, max_position_embeddings=256, tie_word_embeddings=tied, pad_token_id=0)


@dataclass(frozen=True)
class Toy:
    """Conversations in which the last good suggestion sells with .6 and a bad one with .1, and their token ids."""

    conversations: list[Conversation]
    examples: list[Example]


def toy(count: int, seed: int = 0, turns: Sequence[int] = (1, 2, 3)) -> Toy:
    """Conversations of random length, turns and suggestions."""
    rng = np.random.default_rng(seed)
    conversations, examples = [], []
    for number in range(count):
        prompt: list[int] = [1]
        groups, logged = [], []
        for _ in range(rng.choice(list(turns))):
            prompt = [*prompt, *rng.integers(2, 18, 3).tolist()]
            action = GOOD if rng.random() < 0.5 else BAD
            groups.append(Group(list(prompt), [[action, STOP]]))
            prompt = [*prompt, action, STOP]
            logged.append(Turn("hello", "good" if action == GOOD else "bad", "accepted", "x"))
        sells = rng.random() < (0.6 if logged[-1].suggestion == "good" else 0.1)
        conversations.append(Conversation(f"toy-{number}", logged, bool(sells)))
        examples.append(Example(groups))
    return Toy(conversations, examples)


@pytest.fixture
def make_toy() -> Any:
    """`toy`."""
    return toy


@pytest.fixture
def make_policy() -> Any:
    """`tiny_policy`."""
    return tiny_policy
