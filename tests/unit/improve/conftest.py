"""A toy: a tiny language model over 16 tokens, a Q of it, and conversations whose prompts are made up."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.improve.algorithm import Task, find
from ippo_trainer.improve.algorithms.ppo.learner import Experience, Learner
from ippo_trainer.improve.algorithms.ppo.settings import PPOSettings
from ippo_trainer.improve.heldout import HeldOut
from ippo_trainer.improve.improvement import Improvement, frozen_copy
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.settings import ImproveSettings
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.models.load import new_q
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.training.distributed import ALONE, Ranks

from tests.kit.tiny_models import tiny_model
from tests.unit.ranks import group as group

STOP, PAD, SEED = 1, 0, 3


class ToyRenderer:
    """Prompts of 3 tokens per turn; the prompt of a turn extends that of the turn before."""

    def prompt_at(self, conversation: Conversation, index: int) -> Any:
        return self.prompt(conversation.turns[:index], conversation.turns[index].customer_message)

    def prompt(self, history: list[Turn], message: str) -> Any:
        words = [*(turn.customer_message for turn in history), message]
        return SimpleNamespace(ids=[2 + (int(word) + k) % 14 for word in words for k in range(3)], dropped_turns=0)


def conversations(count: int) -> list[Conversation]:
    """1 to 3 turns each."""
    return [
        Conversation(f"c{n}", [Turn(str(5 * n + t), "x", "accepted", "x") for t in range(1 + n % 3)])
        for n in range(count)
    ]


SECTION = params.Improve(
    updates=6,
    batch_size=6,
    samples_per_state=4,
    epochs=2,
    minibatches=2,
    learning_rate="0.01",
    critic_learning_rate="0.01",
    critic_warmup_updates=2,
    kl_target="1.0",
    kl_coefficient="0.05",
)
"""Small and fast."""


@dataclass
class Toy:
    """Models and states; everything is drawn from fixed seeds."""

    section: params.Improve = SECTION
    temperature: float = 1.0
    max_tokens: int = 4096
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
        sampling = Sampling(self.section.samples_per_state, 6, self.temperature, {STOP}, PAD)
        self.sampler = Sampler(self.q, sampling, SEED, self.max_tokens)

    def task(self, ranks: Ranks = ALONE) -> Task:
        """To improve the toy's policy as it is now."""
        self.sampler.ranks, reference = ranks, frozen_copy(self.policy)
        target, size = float(self.section.kl_target), self.section.batch_size
        return Task(
            policy=self.policy,
            reference=reference,
            load_explorer=lambda: reference,
            sampler=self.sampler,
            states=self.states,
            settings=ImproveSettings("PPO", size, target, SEED, self.max_tokens),
            section=self.section,
            collect=params.Collect(),
        )

    def learner(self) -> Learner:
        """PPO's, on the toy's policy."""
        return Learner(self.task(), PPOSettings.of(self.section))

    def improvement(self, probe: range = range(0), ranks: Ranks = ALONE) -> Improvement:
        """By PPO, with the guards looking at these conversations."""
        task = self.task(ranks)
        return Improvement(task, find("PPO")(task), HeldOut(self.sampler, self.states, probe, 4, "probe"))

    def experience(self, numbers: range = range(6), **changes: Any) -> Experience:
        """Responses of the policy, with Q itself as the reward."""
        batch = self.sampler.draw(self.policy, [self.states.of(n) for n in numbers], "x", self.section.minibatches)
        own = self.sampler.logprobs(self.policy, batch).logprobs
        fields: dict[str, Any] = {
            "batch": batch,
            "rewards": (batch.scores - batch.scores.mean()) / batch.scores.std(),
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
    """A function from changed settings to a toy: of the section, or of the toy itself."""

    def make(**changes: Any) -> Toy:
        own = {name: changes.pop(name) for name in ("temperature", "max_tokens") if name in changes}
        texts = {name: value if isinstance(value, int) else str(value) for name, value in changes.items()}
        return Toy(SECTION.model_copy(update=texts), **own)

    return make
