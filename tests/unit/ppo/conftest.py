"""A toy: a tiny language model over 16 tokens, a Q of it, and conversations whose prompts are made up."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.models.load import new_q
from ippo_trainer.ppo.operators import Experience, find
from ippo_trainer.ppo.rollout import LoggedStates, Sampler
from ippo_trainer.ppo.settings import Settings

from tests.kit.tiny_models import tiny_model
from tests.unit.ranks import group as group

STOP, PAD = 1, 0


class ToyRenderer:
    """Prompts of 3 tokens per turn; the prompt of a turn extends that of the turn before."""

    def prompt(self, history: list[Turn], message: str) -> Any:
        words = [*(turn.customer_message for turn in history), message]
        return SimpleNamespace(ids=[2 + (int(word) + k) % 14 for word in words for k in range(3)], dropped_turns=0)


def conversations(count: int) -> list[Conversation]:
    """1 to 3 turns each."""
    return [
        Conversation(f"c{n}", [Turn(str(5 * n + t), "x", "accepted", "x") for t in range(1 + n % 3)])
        for n in range(count)
    ]


def settings(**changes: Any) -> Settings:
    """Small and fast."""
    fields: dict[str, Any] = {
        "algorithm": "PPO",
        "updates": 6,
        "batch_size": 6,
        "samples_per_state": 4,
        "epochs": 2,
        "minibatches": 2,
        "learning_rate": 0.01,
        "critic_learning_rate": 0.01,
        "critic_warmup_updates": 2,
        "kl_target": 1.0,
        "kl_coefficient": 0.05,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.0,
        "max_new_tokens": 6,
        "temperature": 1.0,
        "seed": 3,
        "max_tokens": 4096,
    }
    return Settings(**(fields | changes))


@dataclass
class Toy:
    """Models and states; everything is drawn from fixed seeds."""

    settings: Settings = field(default_factory=settings)
    conversations = staticmethod(conversations)

    def __post_init__(self) -> None:
        tokens = {"pad_token_id": PAD, "eos_token_id": STOP, "tie_word_embeddings": True}
        with torch.random.fork_rng(devices=[]):
            self.policy: Any = tiny_model("llama", 16, seed=0, **tokens)
            with torch.no_grad():  # far from uniform, so that there is something to learn
                for parameter in self.policy.parameters():
                    if parameter.dim() > 1:
                        parameter.normal_(std=0.3)
        self.q: Any = new_q(self.policy, 1).requires_grad_(False)
        with torch.no_grad():
            self.q.score.weight.mul_(20)
        self.states = LoggedStates(conversations(12), ToyRenderer())
        self.sampler = Sampler(
            self.q,
            stop_ids={STOP},
            pad_id=PAD,
            samples=self.settings.samples_per_state,
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            seed=self.settings.seed,
            max_tokens=self.settings.max_tokens,
        )

    def operator(self) -> Any:
        """PPO on the toy's policy."""
        return find("PPO")(self.policy, self.q, self.settings)

    def experience(self, numbers: range = range(6), **changes: Any) -> Experience:
        """Responses of the policy, with Q itself as the reward."""
        rollout = self.sampler.draw(self.policy, [self.states.of(n) for n in numbers], "x", self.settings.minibatches)
        own = self.sampler.logprobs(self.policy, rollout).logprobs
        fields: dict[str, Any] = {
            "rollout": rollout,
            "rewards": (rollout.scores - rollout.scores.mean()) / rollout.scores.std(),
            "old_logprobs": own,
            "ref_logprobs": own,
            "kl_coefficient": 0.05,
            "rate_share": 1.0,
        }
        return Experience(**(fields | changes))


@pytest.fixture
def toy() -> Toy:
    """With the usual settings."""
    return Toy()


@pytest.fixture
def make_toy() -> Any:
    """A function from changed settings to a toy."""
    return lambda **changes: Toy(settings(**changes))
